"""Shaping: what is rejected, what the guest's kernel is told, and how packets are affected.

Counts must be within six standard deviations of their expected values. Delays have only a lower
bound, since everything takes longer on a busy machine.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import PATIENCE, SUITES
from support.checks import until
from support.labs import Lab, recorded

from dumm_tools import statefile
from dumm_tools.errors import NotFound, Usage
from dumm_tools.net import iface, shape

# ---- records ----


@pytest.fixture
def labdir(tmp_path: Path) -> str:
    """A working set with the stopped guest alice, which has eth0."""
    labdir = recorded(tmp_path, "alice")
    iface.create(labdir, "alice-eth0")
    return labdir


def shape_of(labdir: str) -> dict[str, float]:
    return statefile.load(labdir).ifaces["alice-eth0"].shape


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *(("10mbit", 10e6), ("1.5gbit", 1.5e9), ("500kbit", 500e3), ("64000", 64000)),
        *(("10Mbit/s", 10e6), ("64k", 64000), ("9600bit", 9600), ("0", 0)),
    ],
)
def test_rates_are_parsed(text: str, wanted: float) -> None:
    assert shape.rate(text) == wanted


@pytest.mark.parametrize("text", ["", "fast", "-1", "1e6", "10 mbit", "10tbit", "10kk", "٣", "nan"])
def test_bad_rates_are_rejected(text: str) -> None:
    with pytest.raises(Usage):
        shape.rate(text)


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        *(("delay", "20", 20), ("delay", "20ms", 20), ("delay", "1.5s", 1500)),
        *(("jitter", "500us", 0.5), ("jitter", "5MS", 5), ("delay", "2sec", 2000)),
        *(("delay", "1e2", 100), ("delay", "7msec", 7), ("delay", ".5", 0.5)),
        *(("loss", "1", 1), ("loss", "1%", 1), ("duplicate", "0.5%", 0.5), ("corrupt", "0", 0)),
        *(("reorder", "25%", 25), ("rate", "10mbit", 10e6)),
    ],
)
def test_values_may_have_their_units(key: str, text: str, wanted: float) -> None:
    assert shape.parsed(key, text) == pytest.approx(wanted)


@pytest.mark.parametrize("key", ["delay", "loss"])
@pytest.mark.parametrize(
    "text", ["", "ms", "%", "s", "fast", "20 ms", " 1", "1_0", "20m", "1%%", "20min", "٣", "1 %"]
)
def test_bad_values_are_rejected(key: str, text: str) -> None:
    with pytest.raises(Usage):
        shape.parsed(key, text)


@pytest.mark.parametrize(("key", "text"), [("delay", "1%"), ("loss", "1ms"), ("jitter", "10mbit")])
def test_units_of_other_settings_are_rejected(key: str, text: str) -> None:
    with pytest.raises(Usage):
        shape.parsed(key, text)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"delay": 5000, "jitter": 2147.5},  # kernels keep 31 bits of nanoseconds
        {"loss": 101},
        {"loss": -1},
        {"loss": math.nan},
        {"delay": -1},
        {"delay": math.nan},
        {"delay": math.inf},
        {"delay": 600001},
        {"rate": 999},
        {"rate": 101e9},
        {"jitter": 5},
        {"reorder": 5},
        {"delay": 0},  # the existing jitter needs it
        {"jitter": 21},
        {"duplicate": 5, "corrupt": 200},
    ],
)
def test_rejected_changes_leave_the_state_alone(labdir: str, values: dict[str, float]) -> None:
    if not {"jitter", "reorder"} & set(values) or "delay" in values or values.get("jitter") == 21:
        shape.set_(labdir, "alice-eth0", {"delay": 20, "jitter": 5})
    before = Path(labdir, statefile.FILE).read_text()
    with pytest.raises(Usage):
        shape.set_(labdir, "alice-eth0", values)
    assert Path(labdir, statefile.FILE).read_text() == before


def test_named_values_change_and_the_others_stay(labdir: str) -> None:
    shape.set_(labdir, "alice-eth0", {"delay": 20, "loss": 1.5})
    shape.set_(labdir, "alice-eth0", {"jitter": 5, "rate": 1e6})
    assert shape_of(labdir) == {"delay": 20, "jitter": 5, "loss": 1.5, "rate": 1000000}
    shape.set_(labdir, "alice-eth0", {"loss": 0})
    assert shape_of(labdir) == {"delay": 20, "jitter": 5, "rate": 1000000}
    shape.set_(labdir, "alice-eth0", {"loss": 3}, clear=True)
    assert shape_of(labdir) == {"loss": 3}
    shape.set_(labdir, "alice-eth0", {}, clear=True)
    assert shape_of(labdir) == {}
    with pytest.raises(NotFound):
        shape.set_(labdir, "alice-eth1", {"loss": 3})


# ---- guests ----


def pair(lab: Lab, suite: str = "sid") -> Lab:
    """Start a and b on one segment."""
    lab("dumm-bridge create lan0")
    lab(f"dumm-guest create a b --kernel {suite}")
    for n, guest in enumerate("ab", 1):
        lab(f"dumm-iface create {guest}-eth0 --bridge lan0 --address 10.0.0.{n}/24")
    lab("dumm-guest start --all")
    lab("dumm-guest exec a -- ping -c1 -W30 10.0.0.2")
    return lab


@dataclass(frozen=True)
class Answers:
    """The fate of packets from a to b, numbered in the order of sending."""

    text: str
    received: int
    #: The answers, in the order of arrival.
    numbers: list[int]
    times: list[float]

    @property
    def early(self) -> int:
        """Answers that arrived before the answer to an earlier packet."""
        latest = itertools.accumulate(reversed(self.numbers), min)
        return sum(n > least for n, least in zip(reversed(self.numbers), latest, strict=True))


def ping(lab: Lab, count: int, every: float) -> Answers:
    """Ping b from a, and wait for each answer, however long it takes on a busy machine."""
    argv = ["dumm-guest", "exec", "a", "--", "ping", "-c", str(count), "-i", str(every)]
    text = lab([*argv, "-W", "30", "10.0.0.2"], status=None).out
    received = int(re.findall(r"(\d+) packets received", text)[0])
    answers = re.findall(r"seq=(\d+) ttl=\d+ time=([\d.]+) ms\n", text)
    return Answers(text, received, [int(n) for n, _ in answers], [float(t) for _, t in answers])


def near(number: int, of: int, chance: float) -> bool:
    """Whether a count is within six standard deviations of its expected value."""
    return abs(number - of * chance) <= 6 * math.sqrt(of * chance * (1 - chance))


def shown(lab: Lab, name: str = "a-eth0") -> tuple[str, str]:
    wanted, actual = lab(f"dumm-iface show {name} -o shape,actual").out.rstrip("\n").split("\t")
    return wanted, actual


class Tc:
    """The host's tc(8), asking the kernel of guest a about eth0, independently of our encoder and
    decoder. (The host's own kernel may lack netem.)"""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        program = shutil.which("tc", path=lab.env["PATH"])
        assert program
        done = subprocess.run(["ldd", program], check=True, capture_output=True, text=True)
        libraries = re.findall(r"(/\S+) \(0x", done.stdout)
        loader = next(path for path in libraries if Path(path).name.startswith("ld-"))
        place = lab.mounted("a") / "tc"
        place.mkdir()
        for path in (program, *libraries):
            shutil.copy(path, place)
        run = [f"/tc/{Path(loader).name}", "--library-path", "/tc", "/tc/tc"]
        self._run = ["dumm-guest", "exec", "a", "--", *run]

    def __call__(self, command: str) -> str:
        return self._lab([*self._run, *command.split(), "dev", "eth0"]).out

    def netem(self) -> dict[str, float]:
        """The settings of netem that are not zero."""
        (found,) = json.loads(self("-j qdisc show"))
        assert found["kind"] == "netem"
        options = found["options"]
        # A setting with a correlation is an object of its own.
        parts = [part for part in options.values() if isinstance(part, dict)]
        values = {key: value for part in (options, *parts) for key, value in part.items()}
        return {k: v for k, v in values.items() if v and k != "seed" and not isinstance(v, dict)}

    def sent(self) -> int:
        """Bytes that have left the qdisc."""
        (found,) = json.loads(self("-s -j qdisc show"))
        return int(found["bytes"])


#: Options, and what tc(8) then reports: seconds, fractions of 1, bytes per second, packets; and the
#: rate as it shows it to people.
SETTINGS: list[tuple[str, dict[str, float], str]] = [
    ("--delay 20", {"delay": 0.02, "limit": 6000}, ""),
    ("--delay 7.5ms --jitter 2250us", {"delay": 0.0075, "jitter": 0.00225, "limit": 3438}, ""),
    # More nanoseconds than 32 bits hold; tc(8) does not know of more than 274 seconds.
    ("--delay 200000 --jitter 2125", {"delay": 200, "jitter": 2.125, "limit": 10_000}, ""),
    ("--loss 0.1", {"loss": 0.001, "limit": 1000}, ""),
    ("--loss 100% --duplicate 30%", {"loss": 1, "duplicate": 0.3, "limit": 1000}, ""),
    ("--corrupt 12.5", {"corrupt": 0.125, "limit": 1000}, ""),
    ("--delay 1ms --reorder 25%", {"delay": 0.001, "reorder": 0.25, "gap": 1, "limit": 1250}, ""),
    ("--rate 1000", {"rate": 125, "limit": 32}, "1Kbit"),
    ("--rate 500kbit", {"rate": 62_500, "limit": 32}, "500Kbit"),
    ("--rate 10mbit --delay 50", {"rate": 1_250_000, "delay": 0.05, "limit": 653}, "10Mbit"),
    ("--rate 34gbit", {"rate": 4_250_000_000, "limit": 10_000}, "34Gbit"),
    # More bytes per second than 32 bits hold.
    ("--rate 100gbit", {"rate": 12_500_000_000, "limit": 10_000}, "100Gbit"),
]


@pytest.mark.uml
@pytest.mark.parametrize("suite", SUITES)
def test_tc_reports_what_was_set(lab: Lab, suite: str) -> None:
    lab(f"dumm-guest create a --kernel {suite}")
    lab("dumm-iface create a-eth0")
    lab("dumm-guest start a")
    tc = Tc(lab)
    for options, wanted, rate in SETTINGS:
        lab(f"dumm-iface shape a-eth0 --clear {options}")
        assert tc.netem() == pytest.approx(wanted, rel=1e-6, abs=2e-6), options
        assert re.findall(r" rate (\S+)", tc("qdisc show")) == ([rate] if rate else []), options
    lab("dumm-iface shape a-eth0 --clear")
    assert "netem" not in tc("qdisc show")


@pytest.mark.uml
@pytest.mark.parametrize("suite", SUITES)
def test_delay_and_loss(lab: Lab, suite: str) -> None:
    pair(lab, suite)
    lab("dumm-iface shape a-eth0 --delay 100")
    assert min(ping(lab, 10, 0.05).times) >= 100
    lab("dumm-iface shape a-eth0 --loss 20")
    found = ping(lab, 1000, 0.002)
    assert near(found.received, 1000, 0.8), found.text[-200:]
    assert min(found.times) >= 100
    assert shown(lab) == ("delay=100,loss=20",) * 2
    # Traffic sent by b is not affected.
    assert shown(lab, "b-eth0") == ("-", "-")
    lab("dumm-iface shape a-eth0 --clear")
    assert near(ping(lab, 50, 0.01).received, 50, 0.99)
    assert shown(lab) == ("-", "-")


@pytest.mark.uml
def test_jitter_duplicates_and_reordering(lab: Lab) -> None:
    pair(lab)
    lab("dumm-iface shape a-eth0 --delay 60")
    found = ping(lab, 100, 0.005)
    assert found.numbers == sorted(found.numbers)
    lab("dumm-iface shape a-eth0 --delay 500 --jitter 400")
    found = ping(lab, 400, 0.005)
    assert min(found.times) >= 100
    # Of two packets 5 ms apart, the second arrives first in 49 of 100 cases.
    assert found.early > 150
    lab("dumm-iface shape a-eth0 --jitter 0 --delay 60 --duplicate 30")
    found = ping(lab, 500, 0.005)
    assert near(found.text.count("DUP!"), found.received, 0.3)
    # Undelayed packets arrive before delayed ones, unless a was suspended for a second in between.
    lab("dumm-iface shape a-eth0 --delay 1000 --duplicate 0 --reorder 25")
    found = ping(lab, 400, 0.005)
    assert near(found.early, 400, 0.25)


@pytest.mark.uml
def test_corrupt_loses_the_expected_share_of_packets(lab: Lab) -> None:
    pair(lab)
    lab("dumm-iface shape a-eth0 --corrupt 30")
    # One bit of the Ethernet frame is flipped: whatever it hits, a checksum or an address is wrong,
    # or in a few cases of a thousand, something that ping ignores.
    assert near(ping(lab, 500, 0.005).received, 500, 0.7)


@pytest.mark.uml
@pytest.mark.parametrize(
    ("suite", "rate"), [*((suite, 500_000) for suite in SUITES), ("sid", 5_000_000)]
)
def test_rate_limits_throughput(lab: Lab, suite: str, rate: int) -> None:
    """Everything that a sends passes through a queue with this rate."""
    pair(lab, suite)
    tc = Tc(lab)
    lab(f"dumm-iface shape a-eth0 --rate {rate}")
    assert shown(lab)[1] == f"rate={rate}"
    assert tc.netem()["rate"] == rate / 8
    receiver = lab.start("dumm-guest exec b -- sh -c 'nc -l -p 5000 | wc -c'")
    listening = "dumm-guest exec b -- sh -c 'netstat -ltn | grep -q :5000'"
    until(lambda: lab(listening, status=None).code == 0, "b listens")
    octets = rate * 3 // 8
    before = tc.sent()
    lab(f"dumm-guest exec a -- sh -c 'head -c {octets} /dev/zero | nc 10.0.0.2 5000'")
    assert int(receiver.communicate(timeout=PATIENCE)[0]) == octets
    assert tc.sent() - before > octets


@pytest.mark.uml
def test_shape_survives_other_changes_and_restarts(lab: Lab) -> None:
    pair(lab)
    wanted = "corrupt=2,delay=7.5,duplicate=1,jitter=2,loss=0.1,rate=9600,reorder=3"
    options = " ".join(f"--{pair_.replace('=', ' ')}" for pair_ in wanted.split(","))
    lab(f"dumm-iface shape a-eth0 {options}")
    for change in (
        "dumm-iface down a-eth0",
        "dumm-iface up a-eth0",
        "dumm-iface set a-eth0 --mtu 9000",
        "dumm-bridge disconnect a-eth0",
        "dumm-bridge connect lan0 a-eth0",
        "dumm-guest restart a",
        "dumm-iface set a-eth0 --mtu 1400",
    ):
        lab(change)
        assert shown(lab) == (wanted, wanted), change
    lab("dumm-guest pause a")
    assert shown(lab) == (wanted, "-")
    lab("dumm-iface shape a-eth0 --loss 1", status=4)
    lab("dumm-guest resume a")
    assert shown(lab) == (wanted, wanted)
    lab("dumm-guest stop a")
    assert shown(lab) == (wanted, "-")
    lab("dumm-iface shape a-eth0 --clear")
    assert lab("dumm-guest start a").err == ""
    assert shown(lab) == ("-", "-")
    # An interface that is plugged into a running guest.
    lab("dumm-iface create a-eth1 --bridge lan0")
    lab("dumm-iface shape a-eth1 --loss 5")
    assert shown(lab, "a-eth1") == ("loss=5", "loss=5")
    assert "errno" not in lab.logs()


@pytest.mark.uml
def test_bad_options_are_usage_errors(lab: Lab) -> None:
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0")
    for options in ("", "--loss 101", "--jitter 5", "--reorder 1", "--rate x", "--delay -1"):
        assert "Traceback" not in lab(f"dumm-iface shape a-eth0 {options}", status=2).err
