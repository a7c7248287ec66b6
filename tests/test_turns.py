"""A guest that does not answer keeps only those waiting who want something of it: the lab's lock is
free, cables are cut, other guests are handled."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support import PATIENCE, ROOT
from support.checks import has_open, is_waiting, one_line_error, until
from support.guests import state_of
from support.labs import Lab, recorded

from dumm_tools import statefile as store
from dumm_tools.agent import JAIL
from dumm_tools.errors import TimedOut
from dumm_tools.linux import process
from dumm_tools.model import Guest
from dumm_tools.running import contact, liveness, turn
from dumm_tools.waiting import must_not_wait, unbroken

KINDS = ("host", "isolated") if ROOT else ("isolated",)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock."""
    with path.open("rb") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def has_turn(lab: Lab, guest: str, command: subprocess.Popen[bytes]) -> bool:
    """Whether a command has a guest's turn; it must not have ended."""
    assert command.poll() is None, command.communicate()
    path = lab.directory / "run" / guest / "turn"
    return path.exists() and path.read_text() == f"{command.pid}\n" and not is_free(path)


def record(lab: Lab, table: str, name: str) -> dict[str, object]:
    state = json.loads((lab.directory / "state.json").read_text())
    found: dict[str, object] = state[table][name]
    return found


class Stuck:
    """Guests whose kernels are suspended until `go_on`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.guests: set[str] = set()

    def _send(self, guest: str, number: signal.Signals) -> None:
        pidfd = liveness.pidfd_of(str(self.lab.directory), guest)
        assert pidfd is not None
        process.send_signal(pidfd, number)
        os.close(pidfd)

    def stop(self, *guests: str) -> None:
        for guest in guests:
            self._send(guest, signal.SIGSTOP)
            self.guests.add(guest)

    def go_on(self) -> None:
        for guest in self.guests:
            self._send(guest, signal.SIGCONT)
        self.guests.clear()


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest, new_lab: Callable[..., Lab]) -> Lab:
    made = new_lab()
    if request.param == "isolated" and ROOT:
        made("dumm-fs destroy")
        made("dumm-fs init --isolated --kernel sid --master busybox")
    return made


@pytest.fixture
def stuck(lab: Lab) -> Iterator[Stuck]:
    made = Stuck(lab)
    yield made
    made.go_on()


# ---- the turn itself ----


@pytest.fixture
def labdir(tmp_path: Path) -> str:
    """A working set with the guest alice."""
    return recorded(tmp_path, "alice")


@pytest.mark.attack("silence")
def test_no_guest_is_contacted_in_a_transaction(labdir: str) -> None:
    asks = (
        lambda: contact.mconsole(labdir, "alice", "version"),
        lambda: contact.control(labdir, "alice").__enter__(),
        lambda: turn.taken(labdir, "alice").__enter__(),
    )
    for ask in asks:
        with pytest.raises(RuntimeError, match="under the lab's lock"), store.transaction(labdir):
            ask()
    with turn.taken(labdir, "alice"), store.transaction(labdir):
        pass


def test_error_names_the_process_that_has_the_turn(labdir: str) -> None:
    by = f"guest 'alice' is locked by process {os.getpid()}"
    with turn.taken(labdir, "alice"), pytest.raises(TimedOut, match=by):
        turn.taken(labdir, "alice", 0.05).__enter__()
    with turn.taken(labdir, "alice", 0.05):
        pass
    assert oct(Path(labdir, "run/alice/turn").stat().st_mode & 0o777) == "0o600"


def test_turn_of_an_unknown_guest_is_not_given(labdir: str) -> None:
    for name in ("bob", "..", "a/../alice"):
        with turn.taken(labdir, name) as had:
            assert not had
    assert sorted(os.listdir(labdir)) == [".lock", "state.json"]


def test_turn_of_a_guest_that_is_recreated_meanwhile(labdir: str) -> None:
    """The turn is that of the new guest of this name, not the file that was waited for."""
    with turn.taken(labdir, "alice"):
        old = Path(labdir, "run/alice").rename(Path(labdir, "run/.gone"))
        with turn.taken(labdir, "alice", 0.05) as had:
            assert had
    assert (old / "turn").stat().st_ino != Path(labdir, "run/alice/turn").stat().st_ino


def test_guests_that_answer_are_handled_first(labdir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.transaction(labdir) as change:
        change.state.guests.update({n: Guest(n) for n in ("bob", "carol", "dave")})
    told: list[object] = []

    def talk(name: str, _seconds: float) -> None:
        if name == "alice":
            raise TimedOut("alice")
        if name == "bob":
            raise OSError("bob")
        told.append(name)

    def then(done: list[str]) -> None:
        told.append(done)

    def again(name: str, seconds: float) -> None:
        assert 0 < seconds <= turn.PATIENCE
        told.append(f"{name} again")

    monkeypatch.setattr(turn, "PATIENCE", 0.5)
    with turn.taken(labdir, "dave"):  # so its turn is not available
        failures = turn.each(labdir, ("dave", "carol", "bob", "alice"), talk, then, again)
    assert told == ["carol", ["carol"], "alice again"]
    assert failures.keys() == {"bob", "dave"}


# ---- the commands ----

#: Commands on a guest that does not answer, each starting from the result of the previous one.
VERBS = (
    "dumm-iface create a-eth1 --bridge lan1 --address 10.1.0.1/24",
    "dumm-iface down a-eth1",
    "dumm-iface up a-eth1",
    "dumm-iface set a-eth1 --mtu 1400",
    "dumm-iface address add a-eth1 10.2.0.1/24",
    "dumm-iface address del a-eth1 10.2.0.1/24",
    "dumm-iface route add a-eth1 10.9.0.0/16 --via 10.1.0.9",
    "dumm-iface route del a-eth1 10.9.0.0/16",
    "dumm-iface shape a-eth1 --delay 5",
    "dumm-bridge disconnect a-eth1",
    "dumm-bridge connect lan1 a-eth1",
    "dumm-iface delete a-eth1",
    "dumm-fs overlay add a layer",
    "dumm-fs overlay pop a",
    "dumm-fs template load T",
    "dumm-fs template unload",
    "dumm-guest pause a",
    "dumm-guest resume a",
)
#: Other commands run meanwhile.
OTHERS = (
    "dumm-iface down b-eth0",
    "dumm-iface address add --may-exist b-eth0 10.0.0.3/24",
    "dumm-guest create --may-exist d",
    "dumm-bridge connect lan0 b-eth0",
    "dumm-bridge create --may-exist lan2",
    "dumm-fs overlay add b layer",
    "dumm-bridge disconnect b-eth0",
    "dumm-iface create --may-exist b-eth1 --bridge lan1",
    "dumm-bridge delete --if-exists lan2",
    "dumm-fs mount b",
    "dumm-iface delete --if-exists b-eth1",
)


@pytest.mark.attack("silence")
@pytest.mark.uml
def test_other_commands_run_while_a_guest_is_waited_for(lab: Lab, stuck: Stuck) -> None:
    lab("dumm-bridge create lan0 lan1")
    for path in ("layer", "templates/T"):
        (lab.directory / path).mkdir()
    lab("dumm-guest create a b --start")
    lab("dumm-iface create a-eth0 b-eth0 --bridge lan0")
    for number, verb in enumerate(VERBS):
        stuck.stop("a")
        waiting = lab.start(verb)
        until(partial(has_turn, lab, "a", waiting), f"'{verb}' has the turn")
        lab(OTHERS[number % len(OTHERS)])
        assert waiting.poll() is None, verb
        until(lambda: is_free(lab.directory / ".lock"), f"'{verb}' has not the lab's lock")
        stuck.go_on()
        _, err = waiting.communicate(timeout=PATIENCE)
        assert (waiting.returncode, err) == (0, b""), verb
    assert state_of(lab, "a") == "running"
    assert lab("dumm-guest exec a -- ls /sys/class/net").lines == ["eth0", "lo"]
    assert record(lab, "guests", "a")["overlays"] == []


@pytest.mark.attack("silence")
@pytest.mark.uml
def test_changes_of_guests_that_never_answer(lab: Lab, stuck: Stuck) -> None:
    """Cables are cut on the host and recorded as cut, and a template is loaded for all other
    guests. Changes that needed the guest are undone, and the next command makes them."""
    lab("dumm-bridge create lan0 lan1")
    lab("dumm-guest create a b c d e --start")
    lab("dumm-iface create a-eth0 b-eth0 --bridge lan0")
    lab("dumm-iface create d-eth0 --bridge lan1 --address 10.0.0.3/24")
    lab("dumm-iface create e-eth0 --bridge lan1 --address 10.0.0.1/24")
    for guest in "ab":
        (lab.directory / "templates/T" / guest).mkdir(parents=True)
        (lab.directory / "templates/T" / guest / "new").touch()
    (lab.directory / "layer").mkdir()
    stuck.stop("a", "d", "e")
    loading = lab.start("dumm-fs template load T")
    until(lambda: record(lab, "guests", "b") and _loaded(lab), "the template is recorded")
    others = {
        "dumm-bridge": lab.start("dumm-bridge disconnect d-eth0"),
        "dumm-iface": lab.start("dumm-iface address add e-eth0 10.0.0.2/24"),
    }
    deleting = lab.start("dumm-bridge delete lan0")
    adding = lab.start("dumm-fs overlay add --all layer")
    until(lambda: lab("dumm-bridge list -q").lines == ["lan1"], "the bridge is gone")
    assert lab("dumm-guest exec b -- ls /new").out == "/new\n"
    state = "dumm-guest exec b -- cat /sys/class/net/eth0/operstate"
    until(lambda: lab(state).out == "dormant\n", "the guest that answers has lost its carrier")
    assert record(lab, "ifaces", "a-eth0")["bridge"] is None
    assert lab.host("ls /sys/class/net/lan1/brif").lines == ["e-eth0"]
    assert "lan0" not in lab.host("ls /sys/class/net").lines
    _, err = deleting.communicate(timeout=PATIENCE)
    assert deleting.returncode == 0
    message = one_line_error(err.decode(), "dumm-bridge")
    assert message.startswith("warning: the guest's carrier of 'a-eth0' is unchanged: ")
    for tool, other in others.items():
        _, err = other.communicate(timeout=PATIENCE)
        assert other.returncode == 5
        said = [
            line for line in err.decode().splitlines(True) if "'e-eth0' is unchanged" not in line
        ]
        assert "guest '" in one_line_error("".join(said), tool)
    for several in (loading, adding):
        _, err = several.communicate(timeout=PATIENCE)
        assert several.returncode == 5
        assert [f"guest '{g}'" in err.decode() for g in "abcde"] == [True, False, False, True, True]
    layers = [record(lab, "guests", g)["overlays"] for g in "abcde"]
    assert [layer != [] for layer in layers] == [False, True, True, False, False]
    assert record(lab, "ifaces", "d-eth0")["bridge"] is None
    assert record(lab, "ifaces", "d-eth0")["up"] is True
    assert record(lab, "ifaces", "e-eth0")["addresses"] == ["10.0.0.1/24"]
    stuck.go_on()
    lab("dumm-fs template load T")
    assert lab("dumm-guest exec a -- ls /new").out == "/new\n"
    lab("dumm-fs overlay add --all layer")
    lab("dumm-guest exec a -- touch /new")
    lab("dumm-iface down a-eth0 d-eth0")
    for guest in "ad":
        up = lab(f"dumm-guest exec {guest} -- ip link show eth0 up").out
        assert up == ""
    shown = lab("dumm-iface address list e-eth0 --live -q").lines
    assert "10.0.0.2/24" not in shown
    lab("dumm-iface address add e-eth0 10.0.0.2/24")


def _loaded(lab: Lab) -> bool:
    return bool(json.loads((lab.directory / "state.json").read_text())["template"] == "T")


@pytest.mark.uml
def test_interrupting_a_command_that_waits_for_a_guest(lab: Lab, stuck: Stuck) -> None:
    """The first Ctrl-C waits for the end, the second one restores the record."""
    lab("dumm-guest create a --start")
    lab("dumm-iface create a-eth0")
    lab("dumm-iface down a-eth0")
    stuck.stop("a")
    waiting = lab.start("dumm-iface up a-eth0")
    until(lambda: record(lab, "ifaces", "a-eth0")["up"], "it is recorded")
    until(lambda: is_free(lab.directory / ".lock"), "the guest is waited for")
    waiting.send_signal(signal.SIGINT)
    lab("dumm-bridge create lan0")
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(PATIENCE) == -signal.SIGINT
    assert record(lab, "ifaces", "a-eth0")["up"] is False
    # A killed command leaves the record, and the next command does the rest.
    waiting = lab.start("dumm-iface up a-eth0")
    until(lambda: record(lab, "ifaces", "a-eth0")["up"], "it is recorded")
    waiting.kill()
    waiting.wait()
    stuck.go_on()
    lab("dumm-iface up a-eth0")
    assert "eth0" in lab("dumm-guest exec a -- ip link show eth0 up").out


@pytest.mark.uml
def test_start_waits_for_the_end_of_the_previous_boot(lab: Lab) -> None:
    """Whatever process holds the alive lock of a guest that is not running, other guests are not
    delayed."""
    lab("dumm-guest create a b")
    with (lab.directory / "run/a/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        waiting = lab.start("dumm-guest start a")
        until(lambda: has_turn(lab, "a", waiting), "it has the turn")
        lab("dumm-guest start b")
        until(lambda: is_free(lab.directory / ".lock"), "it has not the lab's lock")
        assert waiting.poll() is None
    assert waiting.wait(PATIENCE) == 0
    assert state_of(lab, "a") == "running"


def test_launcher_of_a_jail_keeps_the_turn_until_the_pid_is_written(tmp_path: Path) -> None:
    path, pid_file = tmp_path / "turn", tmp_path / "pid"
    os.mkfifo(pid_file)  # the launcher waits until somebody reads
    own = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(own, fcntl.LOCK_EX)
    os.dup2(own, 60)
    # fmt: off
    argv = [
        "unshare", "-Ur", "--mount",
        JAIL, "jail", "--errors", "2", "--turn", "60", "--pid-file", str(pid_file),
        "--ro-bind", shutil.which("busybox") or "busybox", "/busybox",
        "--dev", "/dev/null", "/dev/null", "--", "/busybox", "sleep", "1000",
    ]
    # fmt: on
    with subprocess.Popen(argv, pass_fds=(60,)) as launcher:
        os.close(60)
        os.close(own)  # as if the command that starts the guest were killed
        assert not is_free(path)
        written = os.open(pid_file, os.O_RDONLY | os.O_NONBLOCK)
        # The launcher can open it for writing now; one that fails never does.
        until(
            lambda: select.select([written], [], [], 0)[0] or launcher.poll() is not None,
            "the launcher has written the pid",
        )
        pid, started = map(int, os.read(written, 100).split())
        os.close(written)
    assert launcher.returncode == 0
    pidfd = process.open_pidfd(pid, started)
    assert pidfd is not None
    try:
        until(partial(is_free, path), "the turn is free although the program runs")
        assert not process.wait_exit(pidfd, 0)
    finally:
        process.send_signal(pidfd, signal.SIGKILL)
        process.wait_exit(pidfd, PATIENCE)
        os.close(pidfd)
        until(lambda: not run_with(str(pid_file)), "the keeper of the jail has ended, too")


def run_with(argument: str) -> list[Path]:
    """Return the processes that have an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(path)
    return found


def test_ctrl_c_while_a_turn_waits_for_the_lab(lab: Lab) -> None:
    """Nothing has been begun, so the command ends, however long it would go on waiting."""
    lab("dumm-guest create alice")
    code = (
        "import os\nfrom dumm_tools import statefile\nfrom dumm_tools.running import turn\n"
        "statefile.LOCK_TIMEOUT = 1e6\n"
        "with turn.taken('.', 'alice'), statefile.transaction('.', apart=True):\n"
        "    print('changed')\n"
    )
    with (lab.directory / ".lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = lab.start([sys.executable, "-c", code])
        until(lambda: has_open(command.pid, lab.directory / ".lock"), "it waits")
        until(lambda: is_waiting(command.pid), "it waits for the lock")
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == -signal.SIGINT
    assert out == b""
    assert b"KeyboardInterrupt" in err


def test_ctrl_c_does_not_break_what_was_begun(tmp_path: Path) -> None:
    """After the host's end of a cable was cut, for example: the record follows."""
    labdir = recorded(tmp_path, "alice")

    def note(key: str) -> None:
        with store.transaction(labdir, apart=True) as change:
            change.state.extra[key] = 1

    def in_a_block_of_its_own() -> None:
        with unbroken():
            signal.raise_signal(signal.SIGINT)
            note("1")

    def after_a_first_change() -> None:
        with turn.taken(labdir, "alice"):
            note("2")
            signal.raise_signal(signal.SIGINT)
            note("3")

    def after_talking_to_the_guest() -> None:
        with turn.taken(labdir, "alice"):
            must_not_wait("a guest")  # called by all that talks to one
            signal.raise_signal(signal.SIGINT)
            note("4")

    def before_anything() -> None:
        with turn.taken(labdir, "alice"):
            signal.raise_signal(signal.SIGINT)
            note("never")

    for work in (
        *(in_a_block_of_its_own, after_a_first_change, after_talking_to_the_guest),
        before_anything,
    ):
        with pytest.raises(KeyboardInterrupt):
            work()
    assert sorted(store.load(labdir).extra) == ["1", "2", "3", "4"]
