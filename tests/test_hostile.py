"""What a guest's kernel that somebody has taken over may say to the host's commands: on a line, on
the mconsole, by netlink. The worst that comes of it is an error, in time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumm_tools import messages, reach
from dumm_tools.agent.client import Control, Line
from dumm_tools.cli import common
from dumm_tools.errors import DummError, TimedOut
from dumm_tools.linux import mconsole, netlink, qdisc, route, rtattr, rtnl


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """What never ends fails."""

    def expired(*_: object) -> None:
        raise AssertionError("it went on without end")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.alarm(40)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def talker(say: Callable[[], object]) -> Iterator[None]:
    """Do `say` again and again, in a process of its own: as fast as a guest could."""
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


def frame(kind: bytes, payload: bytes) -> bytes:
    """A frame to the host (src/agent.h)."""
    return kind + len(payload).to_bytes(3, "little") + payload


@pytest.fixture
def line(tmp_path: Path) -> Iterator[tuple[Line, int]]:
    """A client's end of a line, and a descriptor to speak for the guest."""
    for way in ("in", "out"):
        os.mkfifo(tmp_path / f"line0.{way}")
    pidfd = os.pidfd_open(os.getpid())
    ours = Line(str(tmp_path), 0, pidfd)
    theirs = os.open(tmp_path / "line0.out", os.O_RDWR | os.O_NONBLOCK)
    yield ours, theirs
    ours.close()
    os.close(theirs)
    os.close(pidfd)


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
def test_a_line_that_never_stops(line: tuple[Line, int], said: bytes) -> None:
    ours, theirs = line
    with talker(lambda: os.write(theirs, said)), pytest.raises(TimeoutError):
        ours.hello(0.3)


def test_frames_that_nobody_asked_for(line: tuple[Line, int]) -> None:
    ours, theirs = line
    said = frame(b"o", b"z" * 1000) * 8
    with talker(lambda: os.write(theirs, said)), pytest.raises(TimeoutError):
        ours.wait_frame(0.3, (b"n",))


def test_a_kernel_whose_list_has_no_end(line: tuple[Line, int]) -> None:
    """Each of the messages is part of the answer, and none the last one."""
    ours, theirs = line
    with contextlib.ExitStack() as stack:

        class Channel(Control):
            def send(self, data: bytes) -> None:
                (number,) = struct.unpack_from("=I", data, 8)
                head = struct.pack("=IHHII", 16, rtnl.RTM_GETLINK, netlink.NLM_F_MULTI, number, 0)
                said = frame(b"n", head) * 100
                stack.enter_context(talker(lambda: os.write(theirs, said)))

        request = rtattr.message(rtnl.RTM_GETLINK, netlink.NLM_F_DUMP, bytes(16))
        with pytest.raises(TimeoutError):
            netlink.query(Channel(ours), netlink.Request(request, "links"), 0.3)


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
            for place, byte in self._changes:  # behind the header: that is another test
                if place + 16 < length:
                    said[at + 16 + place] = byte
            at += max(16, (length + 3) & ~3)
        return bytes(said[: len(said) - self._cut])


@pytest.fixture(scope="module")
def true_answers() -> dict[str, list[bytes]]:
    """What the host's kernel says of a device with addresses, routes and a shape."""
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
    "index": lambda channel: rtnl.index_of(channel, "lo"),
    "addresses": lambda channel: rtnl.addresses(channel, 1),
    "routes": route.routes,
    "qdisc": lambda channel: qdisc.read(channel, 1),
}


@pytest.mark.parametrize("asked", ASKED)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.sampled_from([0, 0, 0, 1, 4, 20, 60]),
)
@settings(max_examples=150, deadline=None)
def test_answers_that_are_damaged(
    true_answers: dict[str, list[bytes]], asked: str, changes: list[tuple[int, int]], cut: int
) -> None:
    """An OSError, or an answer: nothing else."""
    with contextlib.suppress(OSError):
        ASKED[asked](_Liar(list(true_answers[asked]), changes, cut))


def test_an_answer_with_nothing_in_it() -> None:
    done = struct.pack("=IHHIIi", 20, 2, 0, 0, 0, 0)  # NLMSG_ERROR, without an error
    with pytest.raises(OSError, match="Bad message"):
        rtnl.find_link(_Liar([done], [], 0), "eth0")


# ---- the mconsole ----


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[Callable[[], bytes]], Path]]:
    """A mconsole that answers each request with datagrams without end: `answers()`"""
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


def test_a_mconsole_that_never_stops(answering: Callable[..., Path]) -> None:
    path = answering(lambda: struct.pack("<III", 0, 1, 4) + b"more")
    with pytest.raises(TimeoutError):
        mconsole.request(str(path), "version", 0.3)


def test_a_mconsole_that_talks_nonsense(answering: Callable[..., Path], tmp_path: Path) -> None:
    answering(lambda: b"?")
    with pytest.raises(DummError, match="no proper answer") as raised:
        reach.mconsole(str(tmp_path), "a", "version")
    assert not isinstance(raised.value, TimedOut)


def test_a_message_is_not_for_the_terminal_to_obey(capfd: pytest.CaptureFixture[str]) -> None:
    common.report("dumm-guest", "guest 'a': \x1b]0;owned\x07\x1b[2J\x9bA \u00e4")
    assert capfd.readouterr().err == (
        "dumm-guest: guest 'a': \\x1b]0;owned\\x07\\x1b[2J\\x9bA \u00e4\n"
    )
    assert messages.printable("/tmp/\udcff\udc9b") == "/tmp/\\xff\\x9b"  # a name that is no text
