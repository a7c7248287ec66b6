"""Shaping: what is refused, what the guest's kernel is told, and what packets then suffer.

The bounds of what is measured are those of chance, at six standard deviations.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import time
from pathlib import Path

import pytest
from conftest import SUITES, Lab
from uml_helpers import until

from dumm_tools import statefile
from dumm_tools.errors import NotFound, Usage
from dumm_tools.model import Guest, State
from dumm_tools.net import iface, shape

# ---- records ----


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A working set with the stopped guest alice, who has eth0."""
    (tmp_path / ".lock").touch()
    inode = os.stat(tmp_path / ".lock").st_ino
    statefile.create(str(tmp_path), State("t0t0", inode, guests={"alice": Guest("alice")}))
    iface.create(str(tmp_path), "alice-eth0")
    return str(tmp_path)


def recorded(root: str) -> dict[str, float]:
    return statefile.load(root).ifaces["alice-eth0"].shape


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *(("10mbit", 10e6), ("1.5gbit", 1.5e9), ("500kbit", 500e3), ("64000", 64000)),
        *(("10Mbit/s", 10e6), ("64k", 64000), ("9600bit", 9600), ("0", 0)),
    ],
)
def test_rates(text: str, wanted: float) -> None:
    assert shape.rate(text) == wanted


@pytest.mark.parametrize("text", ["", "fast", "-1", "1e6", "10 mbit", "10tbit", "10kk", "٣", "nan"])
def test_bad_rates(text: str) -> None:
    with pytest.raises(Usage):
        shape.rate(text)


@pytest.mark.parametrize(
    "values",
    [
        {},
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
        {"delay": 0},  # the jitter that is there needs it
        {"jitter": 21},
        {"duplicate": 5, "corrupt": 200},
    ],
)
def test_refused_with_nothing_changed(root: str, values: dict[str, float]) -> None:
    if not {"jitter", "reorder"} & set(values) or "delay" in values or values.get("jitter") == 21:
        shape.set_(root, "alice-eth0", {"delay": 20, "jitter": 5})
    before = Path(root, statefile.FILE).read_text()
    with pytest.raises(Usage):
        shape.set_(root, "alice-eth0", values)
    assert Path(root, statefile.FILE).read_text() == before


def test_values_named_change_and_the_others_stay(root: str) -> None:
    shape.set_(root, "alice-eth0", {"delay": 20, "loss": 1.5})
    shape.set_(root, "alice-eth0", {"jitter": 5, "rate": 1e6})
    assert recorded(root) == {"delay": 20, "jitter": 5, "loss": 1.5, "rate": 1000000}
    shape.set_(root, "alice-eth0", {"loss": 0})
    assert recorded(root) == {"delay": 20, "jitter": 5, "rate": 1000000}
    shape.set_(root, "alice-eth0", {"loss": 3}, clear=True)
    assert recorded(root) == {"loss": 3}
    shape.set_(root, "alice-eth0", {}, clear=True)
    assert recorded(root) == {}
    with pytest.raises(NotFound):
        shape.set_(root, "alice-eth1", {"loss": 3})


# ---- guests ----


def pair(lab: Lab, suite: str = "sid") -> Lab:
    """Start a and b on one segment."""
    lab("dumm-bridge create lan0")
    lab(f"dumm-guest create a b --kernel {suite}")
    for n, guest in enumerate("ab", 1):
        lab(f"dumm-iface create {guest}-eth0 --bridge lan0 --address 10.0.0.{n}/24")
    lab("dumm-guest start --all")
    lab("dumm-guest exec a -- ping -c1 -W5 10.0.0.2")
    return lab


def ping(lab: Lab, count: int, every: float, *more: str) -> tuple[int, list[float], str]:
    """Ping b from a: how many were answered, in what times (ms), and all that was said."""
    argv = ["dumm-guest", "exec", "a", "--", "ping", "-c", str(count), "-i", str(every), *more]
    text = lab([*argv, "-W", "2", "10.0.0.2"], status=None).out
    received = int(re.findall(r"(\d+) packets received", text)[0])
    return received, [float(t) for t in re.findall(r"time=([\d.]+)", text)], text


def near(number: int, of: int, chance: float) -> bool:
    """Is this how often something of that chance happens, within six standard deviations?"""
    return abs(number - of * chance) <= 6 * math.sqrt(of * chance * (1 - chance))


def shown(lab: Lab, name: str = "a-eth0") -> tuple[str, str]:
    wanted, actual = lab(f"dumm-iface show {name} -o shape,actual").out.rstrip("\n").split("\t")
    return wanted, actual


@pytest.mark.uml
@pytest.mark.parametrize("suite", SUITES)
def test_delay_and_loss(lab: Lab, suite: str) -> None:
    pair(lab, suite)
    lab("dumm-iface shape a-eth0 --delay 100")
    _, times, _ = ping(lab, 10, 0.05)
    assert 100 <= statistics.median(times) <= 110
    lab("dumm-iface shape a-eth0 --loss 20")
    received, times, text = ping(lab, 1000, 0.002)
    assert near(received, 1000, 0.8), text[-200:]
    assert 100 <= statistics.median(times) <= 110
    assert shown(lab) == ("delay=100,loss=20",) * 2
    # What b sends is not touched.
    assert shown(lab, "b-eth0") == ("-", "-")
    lab("dumm-iface shape a-eth0 --clear")
    received, times, _ = ping(lab, 50, 0.01)
    assert received == 50
    assert statistics.median(times) < 10
    assert shown(lab) == ("-", "-")


@pytest.mark.uml
def test_jitter_duplicates_and_reordering(lab: Lab) -> None:
    pair(lab)
    lab("dumm-iface shape a-eth0 --delay 60 --jitter 30")
    _, times, _ = ping(lab, 400, 0.005)
    # Evenly between 30 and 90: the mean of 400 has a deviation of 0.87.
    assert 60 - 6 <= statistics.mean(times) <= 60 + 6
    assert min(times) >= 30
    assert max(times) - min(times) > 30
    lab("dumm-iface shape a-eth0 --jitter 0 --duplicate 30")
    received, _, text = ping(lab, 500, 0.005)
    assert received == 500
    assert near(text.count("DUP!"), 500, 0.3)
    lab("dumm-iface shape a-eth0 --duplicate 0 --reorder 25")
    _, times, _ = ping(lab, 400, 0.005)
    assert near(sum(t < 30 for t in times), 400, 0.25)


@pytest.mark.uml
def test_corruption(lab: Lab) -> None:
    pair(lab)
    lab("dumm-iface shape a-eth0 --corrupt 30")
    # One bit of the Ethernet frame: whatever it hits, a checksum or an address is wrong, or in a
    # few of a thousand nothing that ping looks at.
    received, _, _ = ping(lab, 500, 0.005)
    assert near(received, 500, 0.7)


def sent(lab: Lab) -> tuple[float, int]:
    """When, and how many octets a has sent."""
    octets = int(lab("dumm-iface show a-eth0 -o tx_bytes").out)
    return time.monotonic(), octets


@pytest.mark.uml
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("rate", [500e3, 5e6])
def test_rate(lab: Lab, suite: str, rate: float) -> None:
    pair(lab, suite)
    lab(f"dumm-iface shape a-eth0 --rate {rate:.0f}")
    # A window that holds what waits, also on a machine that is busy.
    window = "echo 4096 1000000 4000000 >/proc/sys/net/ipv4/tcp_rmem"
    lab(["dumm-guest", "exec", "b", "--", "sh", "-c", window])
    assert shown(lab)[1] == f"rate={rate:.0f}"
    lab.start("dumm-guest exec b -- sh -c 'nc -l -p 5000 >/dev/null'")
    listening = "dumm-guest exec b -- sh -c 'netstat -ltn | grep -q :5000'"
    until(lambda: lab(listening, status=None).code == 0, "b listens")
    lab.start("dumm-guest exec a -- sh -c 'nc 10.0.0.2 5000 </dev/zero'")
    before = sent(lab)[1]
    until(lambda: sent(lab)[1] > before + 50_000, "the flow has begun")
    start, first = sent(lab)
    time.sleep(4)
    end, last = sent(lab)
    assert (last - first) * 8 / (end - start) == pytest.approx(rate, rel=0.1)


@pytest.mark.uml
def test_shape_is_kept(lab: Lab) -> None:
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
    # One that is plugged into a running guest.
    lab("dumm-iface create a-eth1 --bridge lan0")
    lab("dumm-iface shape a-eth1 --loss 5")
    assert shown(lab, "a-eth1") == ("loss=5", "loss=5")
    assert "errno" not in lab.logs()


@pytest.mark.uml
def test_usage(lab: Lab) -> None:
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0")
    for options in ("", "--loss 101", "--jitter 5", "--reorder 1", "--rate x", "--delay -1"):
        assert "Traceback" not in lab(f"dumm-iface shape a-eth0 {options}", status=2).err
