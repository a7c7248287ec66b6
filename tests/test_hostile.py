"""A compromised guest kernel may send anything to the host's commands: on a line, on the mconsole,
over netlink. The worst consequence is a timely error."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from siege import frame
from support import PATIENCE
from support.checks import has_open, one_line_error, until
from support.guests import pid_of, state_of, timed_out
from support.labs import Lab, shared
from support.programs import compiled

from dumm_tools import messages
from dumm_tools.agent.client import Control, Line
from dumm_tools.agent.protocol import BadFrame, LineLost
from dumm_tools.cli import ending
from dumm_tools.errors import DummError, TimedOut
from dumm_tools.linux import mconsole, netlink, qdisc, route, rtnl, rule
from dumm_tools.running import contact


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Make a test that never ends fail."""

    def expired(*_: object) -> None:
        raise AssertionError("it went on without end")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.alarm(int(PATIENCE))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def talker(say: Callable[[], object]) -> Iterator[None]:
    """Call `say` again and again in another process, as fast as a guest could."""
    pid = os.fork()
    if pid == 0:
        while True:
            try:
                say()
            except BlockingIOError:
                continue
            except BaseException:
                os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[tuple[Line, int]]:
    """A client's end of a line, and a descriptor to write to as the guest."""
    for way in ("in", "out"):
        os.mkfifo(tmp_path / f"line0.{way}")
    pidfd = os.pidfd_open(os.getpid())
    ours = Line(str(tmp_path), 0, pidfd)
    theirs = os.open(tmp_path / "line0.out", os.O_RDWR | os.O_NONBLOCK)
    yield ours, theirs
    with contextlib.suppress(OSError):
        ours.close()
    os.close(theirs)
    os.close(pidfd)


@pytest.mark.slow
@pytest.mark.attack("endless-answer")
@pytest.mark.parametrize(
    "said",
    [
        b"\x00" * 65536,
        b"r" * 65536,
        os.urandom(65536),
        frame(b"r", b"x" * 16 + b"no words"),
        b"r\xff\xff\xff" + b"y" * 65536,
    ],
)
def test_endless_output_on_a_line(line: tuple[Line, int], said: bytes) -> None:
    ours, theirs = line
    with talker(lambda: os.write(theirs, said)), pytest.raises(TimeoutError):
        ours.hello(0.3)


def test_unexpected_frames(line: tuple[Line, int]) -> None:
    ours, theirs = line
    said = frame(b"o", b"z" * 1000) * 8
    with talker(lambda: os.write(theirs, said)), pytest.raises(TimeoutError):
        ours.wait_frame(0.3, (b"n",))


@pytest.mark.slow
@pytest.mark.attack("endless-answer")
def test_endless_netlink_list(line: tuple[Line, int]) -> None:
    """Every message is part of the answer, and none is the last one."""
    ours, theirs = line
    with contextlib.ExitStack() as stack:

        class Channel(Control):
            def send(self, data: bytes) -> None:
                (number,) = struct.unpack_from("=I", data, 8)
                head = struct.pack("=IHHII", 32, rtnl.RTM_NEWLINK, netlink.NLM_F_MULTI, number, 0)
                said = frame(b"n", head + bytes(16)) * 100
                stack.enter_context(talker(lambda: os.write(theirs, said)))

        request = rtnl.link(rtnl.RTM_GETLINK, "links", flags=netlink.NLM_F_DUMP)
        with pytest.raises(BadFrame):
            netlink.query(Channel(ours), request, 30)


def test_guest_that_fills_the_input_fifo(line: tuple[Line, int], tmp_path: Path) -> None:
    """It has the same FIFO, and can write to it what the host would have to discard."""
    ours, _ = line
    ours.close()
    way_in = os.open(tmp_path / "line0.in", os.O_RDWR | os.O_NONBLOCK)
    with talker(lambda: os.write(way_in, bytes(65536))):
        Line(str(tmp_path), 0, ours.pidfd).close()
    os.close(way_in)


class _Liar:
    """A kernel that answers as the host's does, with some bytes changed."""

    def __init__(self, answers: list[bytes], changes: list[tuple[int, int]], cut: int) -> None:
        self._answers, self._changes, self._cut = answers, changes, cut
        self._number = 0

    def send(self, data: bytes) -> None:
        (self._number,) = struct.unpack_from("=I", data, 8)

    def receive(self, _timeout: float) -> bytes:
        if not self._answers:
            raise TimeoutError
        said = bytearray(self._answers.pop(0))
        at = 0
        while at + 16 <= len(said):
            length = int.from_bytes(said[at : at + 4], sys.byteorder)
            struct.pack_into("=I", said, at + 8, self._number)
            for place, byte in self._changes:  # not the header: another test changes that
                if place + 16 < length:
                    said[at + 16 + place] = byte
            at += max(16, (length + 3) & ~3)
        return bytes(said[: len(said) - self._cut])


@pytest.fixture(scope="module")
def true_answers() -> dict[str, list[bytes]]:
    """The host kernel's messages about a device with addresses, routes and shaping."""
    heard: list[bytes] = []
    with netlink.host() as channel:

        class Channel:
            send = staticmethod(channel.send)

            def receive(self, timeout: float) -> bytes:
                heard.append(channel.receive(timeout))
                return heard[-1]

        answers = {}
        for name, ask in ASKED.items():
            ask(Channel())
            answers[name] = list(heard)
            heard.clear()
    return answers


ASKED: dict[str, Callable[[netlink.Channel], object]] = {
    "link": lambda channel: rtnl.find_link(channel, "lo"),
    "links": rtnl.links,
    "addresses": lambda channel: rtnl.addresses(channel, 1),
    "routes": route.routes,
    "rules": rule.rules,
    "qdisc": lambda channel: qdisc.read(channel, 1),
}


@pytest.mark.parametrize("asked", ASKED)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.sampled_from([0, 0, 0, 1, 4, 20, 60]),
)
@settings(max_examples=60, deadline=None)
def test_damaged_netlink_answers(
    true_answers: dict[str, list[bytes]], asked: str, changes: list[tuple[int, int]], cut: int
) -> None:
    """The outcome is an OSError or an answer, nothing else."""
    with contextlib.suppress(OSError):
        ASKED[asked](_Liar(list(true_answers[asked]), changes, cut))


def test_empty_netlink_answer() -> None:
    done = struct.pack("=IHHIIi", 20, 2, 0, 0, 0, 0)  # NLMSG_ERROR without an error
    with pytest.raises(OSError, match="Bad message"):
        rtnl.find_link(_Liar([done], [], 0), "eth0")


# ---- the mconsole ----


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[Callable[[], bytes]], Path]]:
    """A mconsole that answers each request with an endless stream of datagrams from `answers()`"""
    with contextlib.ExitStack() as stack:

        def start(answers: Callable[[], bytes]) -> Path:
            directory = tmp_path / "run/a/uml/m"
            directory.mkdir(parents=True)
            server = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            path = directory / "mconsole"
            here = os.getcwd()
            os.chdir(directory)
            server.bind("mconsole")
            os.chdir(here)

            def serve() -> None:
                _, client = server.recvfrom(65536)
                os.chdir(tmp_path / "run/a")
                while True:
                    server.sendto(answers(), client)

            stack.enter_context(talker(serve))
            return path

        yield start


@pytest.mark.slow
@pytest.mark.attack("endless-answer")
def test_endless_mconsole_answers(answering: Callable[..., Path]) -> None:
    path = answering(lambda: struct.pack("<III", 0, 1, 4) + b"more")
    with pytest.raises(TimeoutError):
        mconsole.request(str(path), "version", 0.3)


def test_invalid_mconsole_answers(answering: Callable[..., Path], tmp_path: Path) -> None:
    answering(lambda: b"?")
    with pytest.raises(DummError, match="gave an invalid answer") as raised:
        contact.mconsole(str(tmp_path), "a", "version")
    assert not isinstance(raised.value, TimedOut)


def test_operands_are_handled_despite_failures_of_others(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever one of them does, even if it hits an error of our own."""
    failures: dict[str, Exception] = {
        "a": OverflowError("a"),
        "b": DummError("b"),
        "c": LineLost("c"),
        "d": OSError(1, "d"),
    }
    seen = []

    def action(operand: str) -> None:
        seen.append(operand)
        if operand in failures:
            raise failures[operand]

    with click.Context(click.Command("dumm-guest"), info_name="dumm-guest"):
        assert ending.each("abcde", action) == 1
    assert seen == list("abcde")
    said = [line for line in capfd.readouterr().err.splitlines() if "hint" not in line]
    assert said == [
        "dumm-guest: internal error: OverflowError: a",
        "dumm-guest: b",
        "dumm-guest: internal error: LineLost: c",
        "dumm-guest: d",
    ]


@pytest.mark.attack("names-for-the-terminal")
def test_control_characters_in_messages_are_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    ending.report("dumm-guest", "guest 'a': \x1b]0;owned\x07\x1b[2J\x9bA \u00e4")
    assert capfd.readouterr().err == (
        "dumm-guest: guest 'a': \\x1b]0;owned\\x07\\x1b[2J\\x9bA \u00e4\n"
    )
    assert messages.printable("/tmp/\udcff\udc9b") == "/tmp/\\xff\\x9b"  # a name that is not text


# ---- guests whose kernel is a hostile program ----

#: Lies at the start, each with the expected message.
AT_START = {
    "words": "cannot start guest 'words': guest 'words' gave an invalid answer",
    "boot": "cannot start guest 'boot': guest 'boot' answered for another boot",
}
#: Lies that make a start wait for its whole timeout.
NEVER_READY = ("silent", "long", "up", "noise")
NO_ANSWER = "gave an invalid answer"
#: Lies of running guests: a command ({} for a time limit), its exit status, its message.
WHILE_IT_RUNS = {
    "code": ("dumm-iface address list --live code-eth0", 1, "Bad message"),
    "kind": ("dumm-iface route list --live kind", 1, "Bad message"),
    "short": ("dumm-iface route list --live short", 1, "Bad message"),
    "dump": ("dumm-iface address list --live dump-eth0", 1, NO_ANSWER),
    "routes": ("dumm-iface route list --live routes", 1, "there are more than 100000"),
    "done": ("dumm-iface route add done-eth0 10.0.0.0/8", 1, ""),
    "taken": ("dumm-guest exec taken -- cat", 125, NO_ANSWER),
    "status": ("dumm-guest exec status -- cat", 125, NO_ANSWER),
    "stopped": ("dumm-guest exec stopped -- cat", 125, NO_ANSWER),
    "bulk": ("dumm-guest exec bulk -- cat", 125, NO_ANSWER),
    "file": ("dumm-guest exec file -- cat", 125, NO_ANSWER),
    "failed": ("dumm-guest exec failed -- cat", 125, NO_ANSWER),
    "line": ("dumm-guest exec line -- cat", 125, NO_ANSWER),
    "unknown": ("dumm-guest exec unknown -- cat", 125, NO_ANSWER),
    "large": ("dumm-guest exec large -- cat", 125, NO_ANSWER),
    "output": ("dumm-guest exec --timeout {} output -- cat", 5, "ran longer than {} s"),
    "mute": ("dumm-guest exec --timeout {} mute -- cat", 5, "ran longer than {} s"),
    "more": ("dumm-guest mconsole more -- version", 1, "gave an invalid answer on its mconsole"),
    "length": ("dumm-guest mconsole length -- version", 1, NO_ANSWER),
}
OTHERS = ("slow", "busy", "mute1", "output2", "output3")
#: KiB of memory that a command may use, including everything it maps.
MEMORY = 250_000


@pytest.fixture(scope="module")
def lab(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a kernel pack whose kernel is a program that lies as its arguments say."""
    names = [*WHILE_IT_RUNS, *OTHERS]
    with shared(tmp_path_factory.mktemp("hostile"), packs) as lab:
        pack = lab.directory / "pack/usr/bin"
        pack.mkdir(parents=True)
        compiled("liar.c", pack / "linux.uml")
        try:
            liars(lab, *names)
            lab(["dumm-guest", "start", *names])
            yield lab
        finally:
            lab("dumm-guest stop --kill --all", status=None)


def liars(lab: Lab, *names: str) -> None:
    """Create guests that tell the lies in their names."""
    lab(["dumm-guest", "create", *names, "--kernel", lab.directory / "pack"])
    lab(["dumm-iface", "create", *(f"{name}-eth0" for name in names)])


def bounded(lab: Lab, command: str, status: int, stdin: bytes = b"") -> str:
    """Run a command in little memory; return its message."""
    argv = ["sh", "-c", f"ulimit -v {MEMORY}; exec {command}"]
    return lab(argv, status=status, stdin=stdin).err


@pytest.mark.attack("lies-at-the-start")
@pytest.mark.uml
@pytest.mark.xdist_group("hostile")
def test_lies_at_the_start_affect_no_other_guest(lab: Lab) -> None:
    bad = [*AT_START, *NEVER_READY, "errno", "escape"]
    good = ["good1", "good2", "good3"]
    liars(lab, *bad)
    lab(["dumm-guest", "create", *good])
    command = f"dumm-guest start --timeout {PATIENCE} {' '.join([*bad, *good])}"
    starting = lab.start(["sh", "-c", f"ulimit -v {MEMORY}; exec {command}"])
    for name in good:
        until(partial(_is_running, lab, name), f"{name} runs")
    lab(["dumm-guest", "exec", "good3", "--", "true"])
    assert starting.poll() is None
    for name in NEVER_READY:
        os.kill(pid_of(lab, name), signal.SIGKILL)
    text = starting.communicate(timeout=PATIENCE)[1].decode()
    assert starting.returncode == 1, text
    said = text.splitlines()
    for message in AT_START.values():
        assert f"dumm-guest: {message}" in said, text
    text += bounded(lab, f"dumm-guest start --timeout 10 {' '.join(NEVER_READY)}", 5)
    for name in NEVER_READY:
        assert f"dumm-guest: guest '{name}' was not ready in time\n" in text
    assert "internal error" not in text
    assert "\x1b" not in text
    # A guest that sends strange messages but is ready counts as running.
    for name in (*good, "errno", "escape"):
        assert state_of(lab, name) == "running"
    for name in (*AT_START, *NEVER_READY):
        assert state_of(lab, name) in ("stopped", "crashed")
    lab(["dumm-guest", "stop", *good])
    lab(["dumm-guest", "delete", *good])


def _is_running(lab: Lab, name: str) -> bool:
    return state_of(lab, name) == "running"


@pytest.mark.attack("lies")
@pytest.mark.uml
@pytest.mark.xdist_group("hostile")
@pytest.mark.parametrize("name", WHILE_IT_RUNS)
def test_lies_of_a_running_guest_end_in_a_one_line_error(lab: Lab, name: str) -> None:
    command, status, message = WHILE_IT_RUNS[name]

    def run(limit: str) -> str:
        err = bounded(lab, command.format(limit), status, stdin=bytes(300_000))
        return one_line_error(err, command.split()[0])

    first = timed_out(run)
    assert message in first
    assert "internal error" not in first


@pytest.mark.attack("slow-answers")
@pytest.mark.uml
@pytest.mark.xdist_group("hostile")
def test_timeout_covers_all_answers_of_a_guest(lab: Lab) -> None:
    """Each answer arrives in time, all together do not."""
    root = str(lab.directory)

    def converse() -> None:
        with contact.control(root, "slow", 1.0) as control:
            for _ in range(10):
                rtnl.links(control)

    with pytest.raises(TimedOut, match="does not answer"):
        converse()


@pytest.mark.uml
@pytest.mark.xdist_group("hostile")
def test_guest_that_claims_all_its_lines_are_busy(lab: Lab) -> None:
    err = bounded(lab, "dumm-guest exec --timeout 1 busy -- true", 5)
    assert one_line_error(err) == "guest 'busy' does not answer"


@pytest.mark.attack("deaf-to-signals")
@pytest.mark.uml
@pytest.mark.xdist_group("hostile")
@pytest.mark.parametrize(
    ("name", "number"), [("mute1", signal.SIGINT), ("output2", signal.SIGINT), ("output3", 15)]
)
def test_signal_ends_a_command_that_the_guest_keeps_waiting(
    lab: Lab, name: str, number: int
) -> None:
    process = lab.start(f"dumm-guest exec {name} -- true")
    path = lab.directory / f"run/{name}/line1.in"
    until(lambda: has_open(process.pid, path), "it has its line")
    until(lambda: signal.SIGTERM in _caught(process.pid), "it takes signals")
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number


def _caught(pid: int) -> set[int]:
    """The signals that a process has handlers for (proc_pid_status(5))."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt:"))
    return {n for n in range(1, 65) if mask >> (n - 1) & 1}
