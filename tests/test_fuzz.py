"""Everything that reads a guest's data, fed with invalid data that hypothesis generates.

Whatever the data, the reader ends in time, takes little memory, and returns a result or raises one
of the errors that commands print as one line.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import PATIENCE as HANG

from dumm_tools import waiting
from dumm_tools.agent import protocol, session
from dumm_tools.agent.client import LINES, Control, Line, LineLost
from dumm_tools.agent.program import Program
from dumm_tools.errors import DummError
from dumm_tools.guests import readiness
from dumm_tools.linux import mconsole, netlink, qdisc, route, rtnl, rule
from dumm_tools.net import link_requests
from dumm_tools.running import liveness

pytestmark = pytest.mark.slow

#: The exceptions that a reader may raise.
ERRORS = (DummError, OSError, LineLost, waiting.Ended)
#: Bytes that a reader may use beyond the size of its input.
MEMORY = 200 << 20

#: How many cases each reader gets, and how many of them are in one example: most of the time is
#: spent on generating examples.
CASES = {
    "frames": (3000, 20),
    "ready": (1500, 10),
    "split": (1500, 10),
    "answers": (2400, 10),
    "transact": (600, 10),
    "mconsole": (600, 10),
    "mconsole_socket": (30, 1),
    "files": (400, 10),
    "hello": (150, 1),
    "control": (120, 1),
    "session": (200, 1),
}
assert sum(number for number, _ in CASES.values()) >= 10_000

#: How many seconds a lying guest waits for a frame after the host's HELLO.
PATIENCE = 0.005

Case = TypeVar("Case")
Test = Callable[..., None]


def cases(name: str, case: st.SearchStrategy[Case]) -> Callable[[Test], Test]:
    """Run a test on several cases at a time, as `many`, until its reader has had all of them."""
    number, group = CASES[name]

    def decorate(test: Test) -> Test:
        bound = settings(
            max_examples=number // group,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # shrinking a hang would take many hangs
            suppress_health_check=list(HealthCheck),
        )
        return bound(given(many=st.lists(case, min_size=group, max_size=group))(test))

    return decorate


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Check one case: a result or one of the errors, in time, with little memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, HANG)
    try:
        with contextlib.suppress(*ERRORS):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Make a hang a failure; `bounded` sets the limit."""

    def expired(*_: object) -> None:
        raise AssertionError("it went on without end")

    previous = signal.signal(signal.SIGALRM, expired)
    yield
    signal.signal(signal.SIGALRM, previous)


# ---- what may be sent ----

KINDS = [
    *(protocol.READY, protocol.OUTPUT, protocol.ERRORS, protocol.TAKEN, protocol.BULK_TAKEN),
    *(protocol.DEAF, protocol.STATUS, protocol.FAILED, protocol.ANSWER, protocol.DONE),
    *(protocol.TAKEN_LINE, protocol.UP),
]
#: Numbers at limits that somebody may have had in mind.
EDGES = [0, 1, 2, 9, 127, 128, 137, 255, 256, 4095, 4096, 16384, 0x60000000, 1 << 31, (1 << 32) - 1]
numbers = st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 32) - 1))
words = st.sampled_from([struct.pack("<I", n) for n in EDGES])
payloads = st.one_of(
    words, st.binary(max_size=24), st.tuples(words, st.binary(max_size=9)).map(b"".join)
)
#: Placeholders for the nonce and the number that the host sent last.
NONCE, NUMBER = b"\xffthe given nonce", b"\xffnum"
assert len(NONCE) == protocol.NONCE
READY_TEXTS = [
    b"0123456789abcdef 7.2.0 0000000000000000 ",
    b"- 6.1 00000000000000ff /sys: errno 99999999999999999999; x: errno 4096; y: errno 2",
    b"- 6.1 ffffffffffffffff \x1b]0;owned\x07",
    b"no words",
]


def frame(kind: bytes, payload: bytes, size: int | None = None) -> bytes:
    """A frame for the host, which may claim a wrong size."""
    size = len(payload) if size is None else size
    return kind + size.to_bytes(3, "little") + payload


sizes = st.one_of(st.none(), st.none(), st.none(), st.integers(0, (1 << 24) - 1))
frames = st.builds(frame, st.sampled_from(KINDS), payloads, sizes)
ready_texts = st.one_of(
    st.sampled_from(READY_TEXTS), st.binary(max_size=60), st.text(max_size=60).map(str.encode)
)
readies = st.builds(lambda text: frame(protocol.READY, NONCE + text), ready_texts)
said = st.one_of(
    frames,
    readies,
    st.binary(max_size=40),
    st.just(protocol.OPENED),
    st.just(NONCE),
    st.just(frame(protocol.OUTPUT, bytes(60000))),
)


def pack(*parts: bytes) -> bytes:
    return b"".join(parts)


# ---- netlink ----


def attribute(kind: int, payload: bytes, size: int | None) -> bytes:
    size = len(payload) + 4 if size is None else size
    return struct.pack("=HH", size, kind) + payload + bytes(-len(payload) % 4)


def message(kind: int, flags: int, number: bytes, body: bytes, size: int | None) -> bytes:
    size = len(body) + 16 if size is None else size
    return pack(
        struct.pack("=IHH", size, kind, flags), number, bytes(4), body, bytes(-len(body) % 4)
    )


#: Attribute types that the decoder looks for, and lengths of their values.
attributes = st.builds(
    attribute,
    st.sampled_from([1, 2, 3, 4, 5, 8, 9, 10, 11, 15, 18, 52, 53, 56, 0x8009]),
    st.one_of(
        st.sampled_from([b"netem\0", b"lo\0", bytes(4), bytes(6), bytes(16), bytes(24)]),
        st.binary(max_size=40),
        st.builds(attribute, st.integers(1, 53), st.binary(max_size=12), st.none()),
    ),
    st.one_of(st.none(), st.none(), st.none(), st.integers(0, 65535)),
)
heads = st.one_of(
    st.sampled_from(
        [
            struct.pack("=BxHiII", 0, 1, 2, 1, 0),
            struct.pack("=BBBBI", 2, 24, 0, 0, 1),
            struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 3, 0, 1, 0),
            struct.pack("=BBBBBBBBI", 10, 255, 0, 0, 254, 3, 0, 1, 0),
            struct.pack("=BxxxiIII", 0, 1, 0x10000, 0xFFFFFFFF, 0),
            struct.pack("=i", 0),
            struct.pack("=i", -22),
            struct.pack("=i", 1 << 30),
            struct.pack("=i", -1 << 31),
        ]
    ),
    st.binary(max_size=24),
)
messages = st.builds(
    message,
    st.sampled_from([2, 3, 16, 20, 24, 36, 36, 24, 1000]),
    st.sampled_from([0, 2, 2, 2, 0x100, 0x200, 0x302]),
    st.sampled_from([NUMBER, NUMBER, NUMBER, b"\1\0\0\0"]),
    st.builds(lambda head, parts: pack(head, *parts), heads, st.lists(attributes, max_size=4)),
    st.one_of(st.none(), st.none(), st.none(), st.none(), st.integers(0, 200)),
)
datagrams = st.lists(messages, min_size=1, max_size=3).map(lambda parts: pack(*parts))


class Kernel:
    """Answers as it is told, then stays silent."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self._answers = list(answers)
        self._number = bytes(4)

    def send(self, data: bytes) -> None:
        self._number = data[8:12]

    def receive(self, _timeout: float) -> bytes:
        if not self._answers:
            raise TimeoutError
        return self._answers.pop(0).replace(NUMBER, self._number)


ASKED: list[Callable[[netlink.Channel], object]] = [
    lambda channel: rtnl.find_link(channel, "lo"),
    rtnl.links,
    lambda channel: rtnl.addresses(channel, 1),
    route.routes,
    rule.rules,
    lambda channel: link_requests.shape_of(qdisc.read(channel, 1)),
]


@pytest.mark.attack("damaged-frames")
@cases("answers", st.tuples(st.sampled_from(ASKED), st.lists(datagrams, max_size=3)))
def test_damaged_netlink_answers_to_queries(
    many: list[tuple[Callable[[netlink.Channel], object], list[bytes]]],
) -> None:
    for ask, answers in many:
        with bounded():
            ask(Kernel(answers))


@cases("transact", st.lists(datagrams, max_size=3))
def test_damaged_netlink_acknowledgements(many: list[list[bytes]]) -> None:
    requests = [rtnl.link(rtnl.RTM_SETLINK, name, index=1, up=True) for name in "abc"]
    for answers in many:
        with bounded():
            netlink.transact(Kernel(answers), requests)


# ---- frames ----


@pytest.mark.attack("damaged-frames")
@cases("frames", st.lists(st.one_of(frames, st.binary(max_size=9)), max_size=3).map(b"".join))
def test_damaged_frames(many: list[bytes]) -> None:
    for data in many:
        with bounded():
            inbox = bytearray(data)
            for kind, number, rest in protocol.frames(inbox):
                assert kind in KINDS
                assert 0 <= number < 1 << 32
                assert len(rest) < 1 << 16
        assert len(inbox) <= 1 << 16


@cases("ready", ready_texts)
def test_damaged_agent_messages(many: list[bytes]) -> None:
    for text in many:
        with bounded():
            ready = protocol.ready(bytes(16) + text, LINES)
            assert ready.trouble.isprintable()
            assert ready.release.isprintable()
            assert max(ready.busy, default=0) < LINES


# ---- a line ----


@contextlib.contextmanager
def guest(directory: Path, answers: Sequence[bytes]) -> Iterator[int]:
    """A compromised guest: it sends one message for each frame that it receives, or if none
    arrives, and dies. Return its pidfd."""
    pid = os.fork()
    if pid == 0:
        try:
            _lie(directory, answers)
        finally:
            os._exit(0)
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _lie(directory: Path, answers: Sequence[bytes]) -> None:
    heard = os.open(directory / "line1.in", os.O_RDWR)
    out = os.open(directory / "line1.out", os.O_RDWR | os.O_NONBLOCK)
    inbox, nonce, number = b"", bytes(16), bytes(4)
    patience = None
    for answer in answers:
        while inbox.count(protocol.END) < 2 and select.select([heard], [], [], patience)[0]:
            inbox += os.read(heard, 65536)
        patience = PATIENCE
        if inbox.count(protocol.END) >= 2:
            _, one, inbox = inbox.split(protocol.END, 2)
            one = one.replace(protocol.ESC + protocol.ESC_END, protocol.END)
            one = one.replace(protocol.ESC + protocol.ESC_ESC, protocol.ESC)
            if one[:1] == protocol.HELLO:
                nonce = one[1:]
            elif one[:1] == protocol.NETLINK:
                number = one[9:13]
        os.write(out, answer.replace(NONCE, nonce).replace(NUMBER, number))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with one line."""
    directory = tmp_path_factory.mktemp("line")
    (directory / "uml").mkdir()
    (directory / "xfer").mkdir()
    for way in ("in", "out"):
        os.mkfifo(directory / f"line1.{way}")
    return directory


def emptied(directory: Path) -> None:
    """Remove what the previous case left."""
    for way in ("in", "out"):
        fd = os.open(directory / f"line1.{way}", os.O_RDWR | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while os.read(fd, 1 << 20):
                pass
        os.close(fd)


@contextlib.contextmanager
def talking(directory: Path, answers: Sequence[bytes]) -> Iterator[Line]:
    emptied(directory)
    with guest(directory, answers) as pidfd:
        line = Line(str(directory), 1, pidfd)
        try:
            yield line
        finally:
            line.close()


GOOD = frame(protocol.READY, NONCE + READY_TEXTS[0])


@cases("hello", st.lists(said, min_size=1, max_size=5))
def test_false_answers_to_hello(place: Path, many: list[list[bytes]]) -> None:
    for answer in many:
        with bounded(), talking(place, [pack(*answer)]) as line:
            line.hello(5.0)


answered = st.one_of(
    datagrams.map(lambda data: frame(protocol.ANSWER, data)),
    frames,
    st.builds(lambda n: frame(protocol.DONE, struct.pack("<I", n)), numbers),
)


@cases("control", st.lists(answered, min_size=1, max_size=6))
def test_false_answers_on_the_control_line(place: Path, many: list[list[bytes]]) -> None:
    for answers in many:
        with bounded(), talking(place, [GOOD, *answers]) as line:
            line.hello(5.0)
            control = Control(line)
            with contextlib.suppress(OSError):
                control.load_module("ipv6")
            for ask in ASKED:
                with contextlib.suppress(OSError):
                    ask(control)


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[int]:
    """Standard streams: endless input, and a reader of all output."""
    saved = [os.dup(fd) for fd in (0, 1, 2)]
    source = os.open(tmp_path / "stdin", os.O_RDWR | os.O_CREAT)
    os.write(source, bytes(100_000))
    null = os.open(os.devnull, os.O_WRONLY)
    for fd, ours in enumerate((source, null, null)):
        os.dup2(ours, fd)
    try:
        yield source
    finally:
        for fd, old in enumerate(saved):
            os.dup2(old, fd)
            os.close(old)
        os.close(source)
        os.close(null)


ran = st.one_of(
    frames,
    st.builds(
        lambda kind, n: frame(kind, struct.pack("<I", n)),
        st.sampled_from([protocol.TAKEN, protocol.STATUS, protocol.FAILED, protocol.TAKEN_LINE]),
        numbers,
    ),
    st.builds(lambda n: frame(protocol.BULK_TAKEN, bytes([n])), st.integers(0, 255)),
    st.just(frame(protocol.OUTPUT, bytes(50_000))),
)


@cases("session", st.lists(ran, min_size=1, max_size=6))
def test_false_messages_about_a_program(place: Path, streams: int, many: list[list[bytes]]) -> None:
    program = Program(["cat"], timeout=5)
    for answers in many:
        os.lseek(streams, 0, os.SEEK_SET)
        with bounded(), talking(place, [GOOD, *answers]) as line:
            line.hello(5.0)
            running = session.Session(line, str(place), program, time.monotonic() + 5)
            try:
                assert 0 <= running.run() <= 255
            finally:
                running.clean()


# ---- the mconsole ----

replies = st.builds(
    lambda error, more, size, text: struct.pack("<III", error, more, size) + text,
    numbers,
    st.sampled_from([0, 1, 1, 2]),
    st.one_of(st.integers(0, 600), numbers),
    st.binary(max_size=600),
)


@cases("mconsole", st.one_of(replies, st.binary(max_size=20)))
def test_damaged_mconsole_replies(many: list[bytes]) -> None:
    for data in many:
        with bounded():
            _, _, text = mconsole.unpack_reply(data)
            assert len(text) <= mconsole.MAX_DATA


@cases("mconsole_socket", st.lists(st.one_of(replies, st.binary(max_size=20)), max_size=4))
def test_damaged_mconsole_answers(tmp_path: Path, many: list[list[bytes]]) -> None:
    path = tmp_path / "m"
    for answers in many:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(str(path))
            pid = os.fork()
            if pid == 0:
                try:
                    _, client = server.recvfrom(65536)
                    for answer in answers:
                        server.sendto(answer, client)
                finally:
                    os._exit(0)
            with bounded():
                mconsole.request(str(path), "version", 0.05)
            os.waitpid(pid, 0)


# ---- files ----


@cases("files", st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_damaged_files_of_a_guest(tmp_path: Path, many: list[bytes]) -> None:
    run = tmp_path / "run/a"
    (run / "uml").mkdir(parents=True, exist_ok=True)
    for data in many:
        (run / "uml/ready").write_bytes(data)
        (run / "console.log").write_bytes(data)
        with bounded():
            liveness.ready_nonce(str(tmp_path), "a")
            words = readiness.last_words(str(tmp_path), "a")
            assert words.isprintable()
            assert len(words) <= 2000


@pytest.mark.attack("lies")
@pytest.mark.parametrize("kind", ["link", "directory", "fifo", "socket", "large"])
def test_other_file_types_in_place_of_a_guests_file(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run/a"
    (run / "uml").mkdir(parents=True)
    ready = run / "uml/ready"
    if kind == "link":
        ready.symlink_to("/etc/passwd")
    elif kind == "directory":
        ready.mkdir()
    elif kind == "fifo":
        os.mkfifo(ready)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(ready))
    else:
        with ready.open("wb") as file:
            file.truncate(1 << 40)
    with bounded():
        assert len(liveness.ready_nonce(str(tmp_path), "a")) <= 64
