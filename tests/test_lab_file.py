"""`dumm-fs dump` and `dumm-console apply`: labs as files."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from support import PATIENCE, ROOT, SUITES
from support.checks import one_line_error
from support.lab_files import GUESTS, LAYERS, described, files
from support.labs import Lab

from dumm_tools.labs import dump

pytestmark = pytest.mark.netns

HIT = Path(__file__).with_name("hit.py")
INIT = ("--kernel", SUITES[0], "--master", "busybox")
INIT_WORDS = " ".join(INIT).encode()
SEED = 12


def bounded(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run few examples, the same ones each time, and do not shrink failures, which takes long."""
    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(SEED)(limits(test))


def apply(lab: Lab, text: bytes, *options: str, status: int = 0) -> str:
    """Apply a file from standard input; return what is printed on stderr."""
    return lab(["dumm-console", "apply", "-", *options], stdin=text, status=status).err


def dumped(lab: Lab) -> bytes:
    return lab("dumm-fs dump").stdout


def expected(text: bytes) -> bytes:
    """The dump of a lab that a file has made."""
    return dump.text(described(text))


def make_layers(lab: Lab) -> None:
    (lab.directory / "layers").mkdir(mode=0o700)
    for layer in LAYERS:
        (lab.directory / layer).mkdir()


@pytest.fixture(params=["root", "isolated"])
def either(request: pytest.FixtureRequest, new_lab: Callable[..., Lab]) -> Lab:
    """A lab of each kind."""
    if request.param == "isolated":
        return new_lab("lab", "--isolated")
    return new_lab()


def test_random_labs(either: Lab) -> None:
    """Dump, apply, dump again; and from one lab to another."""
    lab = either
    make_layers(lab)

    @bounded(3)
    @given(files(*INIT), files(*INIT))
    def run(first: bytes, second: bytes) -> None:
        apply(lab, first, "--prune")
        text = dumped(lab)
        assert text.decode(errors="replace") == expected(first).decode(errors="replace")
        inode = os.stat(lab.directory / "state.json").st_ino
        for file in (text, first):
            for options in ((), ("--prune",), ("--dry-run", "--prune")):
                assert apply(lab, file, *options) == ""
        assert os.stat(lab.directory / "state.json").st_ino == inode
        apply(lab, second, "--prune")
        assert dumped(lab).decode(errors="replace") == expected(second).decode(errors="replace")

    run()


def snapshot(lab: Lab, *guests: str) -> dict[str, object]:
    """The networks in the kernels of guests."""
    found: dict[str, object] = {}
    for name in lab("dumm-iface list -q").lines:
        lines = lab(f"dumm-iface address list {name} --live -q").lines
        found[name] = (
            [line for line in lines if not line.startswith("fe80")],
            lab(f"dumm-iface show {name} -o bridge,mac,live_mac,live_mtu,carrier,state,actual").out,
        )
    for guest in guests:
        found[f"routes of {guest}"] = lab(f"dumm-iface route list {guest} --live --format json").out
        found[f"rules of {guest}"] = lab(["dumm-guest", "exec", guest, "--", "ip", "rule"]).lines
    return found


@pytest.mark.uml
def test_random_labs_with_running_guests(lab: Lab) -> None:
    """Changes arrive in guests as if these had been started afterwards."""
    make_layers(lab)
    guests = GUESTS[:2]

    @bounded(3)
    @given(files(*INIT, running=guests))
    def run(text: bytes) -> None:
        apply(lab, text, "--prune")
        assert dumped(lab).decode(errors="replace") == expected(text).decode(errors="replace")
        lab(["dumm-guest", "start", *guests], status=None)
        found = snapshot(lab, *guests)
        lab(["dumm-guest", "restart", *guests])
        assert found == snapshot(lab, *guests)

    run()


PAIR = (
    b"""fs init
bridge create lan0 lan1
guest create a b c
guest create d --memory 48M
iface create a-eth0 --bridge lan0 --address 10.0.0.1/24 --address fd00::1/64
iface create b-eth0 --bridge lan0 --address 10.0.0.2/24
iface create c-eth0 --bridge lan1 --address 10.0.0.3/24
iface route add a-eth0 default --via 10.0.0.2
iface rule add a --priority 100 --from 10.0.0.1 --table 7
guest start a b c
""",
    b"""fs init
bridge create lan0
bridge create lan2 --hub
guest create a
guest create b --memory 80M
guest create c e
guest startup b - <<'END'
true
END
iface create a-eth0 --bridge lan0 --address 10.0.0.11/24 --address fd00::1/64 --mtu 1400
iface create a-eth1 --bridge lan2 --address 10.0.2.1/24
iface create b-eth0 --bridge lan2 --address 10.0.2.2/24
iface create c-eth0 --bridge lan0 --address 10.0.0.3/24
iface shape a-eth0 --delay 1
iface route add a-eth0 default --via 10.0.0.3
iface route add a-eth0 10.9.0.0/16
fs overlay add a layers/one
guest start a b c
""",
)
PINGS = (
    {"10.0.0.2": 0, "10.0.0.3": 1},
    {"10.0.0.3": 0, "10.0.2.2": 0},
)


@pytest.mark.uml
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_apply_that_was_hit_at_any_moment_is_completed(lab: Lab, number: signal.Signals) -> None:
    """From one lab to the other and back, with guests that run."""
    make_layers(lab)
    for n in (0, 1):
        (lab.directory / f"file{n}").write_bytes(PAIR[n])
    lab("dumm-console apply file0")
    hit, to = 0, 1
    first, step = (5, 699) if number == signal.SIGINT else (19, 397)
    for moment in range(first, 10000, step):
        done = lab(
            f"python {HIT} any {moment} {int(number)} dumm-console apply file{to} --prune",
            status=None,
        )
        assert done.code in (0, -number), done.err
        hit += done.code != 0
        assert "Traceback" not in done.err
        lab(f"dumm-console apply file{to} --prune")
        assert dumped(lab) == expected(PAIR[to]).replace(b"fs init", b"fs init %s" % INIT_WORDS)
        assert apply(lab, PAIR[to], "--prune", "--dry-run") == ""
        for address, status in PINGS[to].items():
            wait = 1 if status else 30
            lab(f"dumm-guest exec a -- ping -q -c 1 -W {wait} {address}", status=status)
        if done.code == 0 and to == 0:
            break
        to = 1 - to
    assert done.code == 0
    assert hit > 2


def test_a_plan_is_a_batch(lab: Lab) -> None:
    """The output of --dry-run does the same when it is run by hand."""
    make_layers(lab)

    @bounded(3)
    @given(files(*INIT))
    def run(text: bytes) -> None:
        planned = lab("dumm-console apply - --dry-run --prune", stdin=text, status=None)
        assert planned.code == (planned.stdout != b"")
        assert dumped(lab) != expected(text) or not planned.code
        lab("dumm-console", stdin=planned.stdout)
        assert dumped(lab) == expected(text)

    run()


def test_a_file_makes_a_working_set(lab: Lab, tmp_path: Path) -> None:
    place = tmp_path / "other"
    text = b"fs init --kernel %s --master busybox\nguest create a\n" % SUITES[0].encode()
    done = lab(["dumm-console", "-C", place, "apply", "-", "--dry-run"], stdin=text, status=1)
    assert done.stdout == text
    assert not place.exists()
    lab(["dumm-console", "-C", place, "apply", "-"], stdin=text)
    assert lab(["dumm-fs", "-C", place, "dump"]).stdout == text
    lab(["dumm-fs", "-C", place, "destroy"])
    error = lab(["dumm-console", "-C", place, "apply", "-"], stdin=b"guest create a\n", status=3)
    assert error.err.splitlines()[0].startswith("dumm-console: <stdin>:1:1: no working set in")


def test_errors_are_found_before_anything_is_done(lab: Lab) -> None:
    before = (lab.directory / "state.json").read_bytes()
    (lab.directory / "file").write_text("guest create b\niface create a-eth0\n")
    for options in ("", "--dry-run", "--prune"):
        done = lab(f"dumm-console apply file {options}", status=3)
        assert one_line_error(done.err, "dumm-console") == "file:2:1: no guest 'a'"
        assert done.out == ""
    assert (lab.directory / "state.json").read_bytes() == before
    done = lab("dumm-console apply nosuch", status=3)
    assert one_line_error(done.err, "dumm-console") == "no such file 'nosuch'"
    done = lab("dumm-console apply .", status=2)
    assert "Is a directory" in one_line_error(done.err, "dumm-console")


def test_what_cannot_be_done_is_found_before_anything_is_done(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    lab("dumm-iface create a-eth0")
    before = dumped(lab)
    lab("dumm-guest pause a")
    for line, status, message in (
        (b"iface address add a-eth0 10.0.0.1/24", 4, "guest 'a' is paused"),
        (b"bridge connect lan9 a-eth0", 4, "guest 'a' is paused"),
        (b"fs overlay add a over --create", 4, "guest 'a' is paused"),
        (b"bridge uplink lan9 --to nosuch0", 3 if ROOT else 4, "'nosuch0'"),
        (b"fs template load typo", 3, "no template 'typo'"),
    ):
        text = b"bridge create lan9\n" + line
        assert message in lab("dumm-console apply -", stdin=text, status=status).err
        assert dumped(lab) == before
    # The bridge has the name of the guest that is paused, and nothing else to do with it.
    lab("dumm-guest create b")
    apply(lab, b"bridge create a\niface create b-eth0\nbridge connect a b-eth0")
    apply(lab, b"iface create b-eth1 --bridge a")
    lab("dumm-guest resume a")
    assert not (lab.directory / "templates/typo").exists()
    assert apply(lab, b"fs template load new --create", "--dry-run", status=1) == ""


def test_empty_file_does_not_delete_the_lab(lab: Lab) -> None:
    """As a program that failed leaves it in a pipe."""
    lab("dumm-guest create a")
    for text in (b"", b"\n# nothing\n"):
        for option in ("", "--dry-run"):
            err = apply(lab, text, "--prune", *option.split(), status=2)
            assert "would delete the whole lab" in err
        apply(lab, text)
    assert lab("dumm-guest list -q").out == "a\n"
    apply(lab, b"fs init\n", "--prune")
    assert lab("dumm-guest list -q").out == ""


def test_closed_input_is_not_an_empty_file(lab: Lab) -> None:
    lab("dumm-guest create a")
    for command in (
        "dumm-console apply -",
        "dumm-console apply - --dry-run",
        "dumm-console apply - --prune",
        "dumm-guest startup a -",
    ):
        done = lab(["sh", "-c", f"{command} <&-"], status=2)
        assert done.err == f"{command.split()[0]}: standard input is closed\n"
    assert lab("dumm-guest list -q").out == "a\n"


def test_script_in_a_pipe_is_not_waited_for(lab: Lab) -> None:
    os.mkfifo(lab.directory / "pipe")
    text = b"guest create a\nguest startup a pipe\n"
    err = lab("dumm-console apply -", stdin=text, status=2).err
    assert err == "dumm-console: <stdin>:2:17: 'pipe' is not a regular file\n"
    assert lab("dumm-guest list -q").out == ""


def test_a_running_apply_is_not_an_interrupted_one(lab: Lab) -> None:
    lab("dumm-guest create a")
    (lab.directory / "run").mkdir(exist_ok=True)
    (lab.directory / "run/apply.step").write_text("guest create a\n")
    with open(lab.directory / "run/apply.turn", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        assert apply(lab, b"guest create a\n", "--dry-run") == ""
    planned = lab("dumm-console apply - --dry-run", stdin=b"guest create a\n", status=None)
    assert planned.out == "guest create --may-exist a\n"


def test_interrupted_start_is_not_made_up_for(lab: Lab) -> None:
    """If the user has stopped the guest, and the next file does not start it."""
    lab("dumm-guest create a")
    (lab.directory / "run/apply.step").write_text("guest start a\n")
    assert apply(lab, b"guest create a\n", "--dry-run") == ""
    apply(lab, b"guest create a\n")
    assert lab("dumm-guest list -o state").out == "stopped\n"


def test_same_thing_in_other_words(lab: Lab) -> None:
    """A derived MAC address, a kernel by its path, a missing layer: applied once, it is there."""
    text = b"bridge create lan0\nguest create a\niface create a-eth0 --bridge lan0\n"
    apply(lab, text)
    mac = lab("dumm-iface show a-eth0 -o mac").out.strip()
    kernel = lab("dumm-guest show a -o kernel").out.strip()
    place = lab(f"dumm-fs kernel show {kernel} -o path").out.strip()
    text = b"fs init --kernel %s\n" % place.encode() + text
    text += b"iface set a-eth0 --mac %s\nfs overlay add a some/layer --create\n" % mac.encode()
    apply(lab, text)
    assert apply(lab, text, "--dry-run") == ""
    dump_ = dumped(lab)
    assert b"fs overlay add a some/layer --create\n" in dump_
    shutil.rmtree(lab.directory / "some")
    lab("dumm-fs overlay del a some/layer")
    apply(lab, dump_)
    assert dumped(lab) == dump_


def test_name_of_a_bridge_that_the_host_has(lab: Lab) -> None:
    lab.host("ip link add br9 type bridge")
    try:
        done = lab("dumm-console apply -", stdin=b"guest create a\nbridge create br9\n", status=4)
        assert "br9" in one_line_error(done.err, "dumm-console")
        assert lab("dumm-guest list -q").lines == []
    finally:
        lab.host("ip link del br9")


def test_defaults_of_the_working_set(lab: Lab) -> None:
    text = b"fs init --kernel %s --master busybox\nguest create a\n" % SUITES[1].encode()
    apply(lab, text)
    assert dumped(lab) == text
    assert lab("dumm-guest list -o kernel").lines == [SUITES[1]]
    master = lab.directory / "tree"
    (master / "etc").mkdir(parents=True)
    apply(lab, text.replace(b"busybox", b"./tree"))
    assert dumped(lab) == text.replace(b"busybox", b"./tree")
    assert os.listdir(lab.mounted("a")) == ["etc"]
    same, other = ("--host-net", "--isolated") if ROOT else ("--isolated", "--host-net")
    assert apply(lab, b"fs init %s\n" % same.encode(), "--dry-run") == ""
    reason = "on the host's network" if ROOT else "its own namespaces"
    assert reason in apply(lab, b"fs init %s\n" % other.encode(), status=4)


def test_files_applied_at_once(lab: Lab) -> None:
    """One after the other."""
    files = [
        b"".join(b"guest create %s%d\n" % (name, n) for n in range(4)) for name in (b"a", b"b")
    ]
    running = [lab.start("dumm-console apply - --prune") for _ in files]
    for process, text in zip(running, files, strict=True):
        assert process.stdin
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
    assert [process.wait(PATIENCE) for process in running] == [0, 0]
    assert lab("dumm-guest list -q").lines in ([f"{name}{n}" for n in range(4)] for name in "ab")


@pytest.mark.uml
def test_running_guests_keep_what_they_have(lab: Lab) -> None:
    text = b"""bridge create lan0 lan1
guest create a b
iface create a-eth0 --bridge lan0 --address 10.0.0.1/24
iface create b-eth0 --bridge lan1 --address 10.0.0.2/24
guest start --all
"""
    index = "dumm-guest exec a -- cat /sys/class/net/eth0/ifindex"
    assert apply(lab, text) == ""
    before = lab(index).out, lab("dumm-guest list -o pid").out
    changed = text.replace(b"b-eth0 --bridge lan1", b"b-eth0 --bridge lan0")
    said = apply(lab, changed.replace(b"create a b", b"create a b --memory 80M"))
    assert said.splitlines() == [
        f"dumm-console: guest '{name}' is running: this takes effect at its next start"
        for name in "ab"
    ]
    lab("dumm-guest exec a -- ping -c 1 -W 30 10.0.0.2")
    assert (lab(index).out, lab("dumm-guest list -o pid").out) == before
    assert lab("dumm-guest list -o memory").lines == ["83886080"] * 2
    planned = lab("dumm-console apply - --dry-run --prune", stdin=b"guest create b\n", status=1)
    assert planned.lines[:3] == ["guest stop a", "guest delete a", "iface delete b-eth0"]
    apply(lab, b"guest create b\n", "--prune")
    assert lab("dumm-guest list -o name,state").lines == ["b\trunning"]
    assert lab("dumm-bridge list -q").lines == []
    assert apply(lab, b"guest create b\nguest start b\n", "--dry-run") == ""
