"""Consoles: the output of a guest's kernel, its raw terminals, and text typed at them.

tty0 of a guest is its kernel's console: output goes to console.log, input comes from a FIFO. tty1
to tty3 are FIFOs in both directions, for a getty of the guest's own init.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import select
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from dumm_tools.errors import Conflict, DummError, NotFound, TimedOut
from dumm_tools.guests import readiness, run_dir
from dumm_tools.guests.console_log import Reader
from dumm_tools.linux import fifo, inotify, stream, tty
from dumm_tools.running import guest_views, liveness
from dumm_tools.statefile import load
from dumm_tools.waiting import ended_by_signals

#: Ctrl-]: ends an attached console.
DETACH = b"\x1d"
#: Input is sent in pieces of this many bytes, PACE seconds apart: a guest's terminal holds 4096
#: unread bytes; a UML kernel that has to throttle one never reads from it again (line_throttle,
#: arch/um/drivers/line.c).
PIECE = 128
PACE = 0.05
SEND_MAX = 2048
#: Maximum size of output pending for our terminal.
PIECE_OF_OUTPUT = 16384

#: Size of a single read of a log, and maximum size of `last` lines.
PIECE_OF_LOG = 1 << 16
LOOK_BACK = 64 << 20

Write = Callable[[bytes], object]


class ConsoleView(NamedTuple):
    """A raw terminal of a running guest."""

    guest: str
    line: int
    path: str
    attached: bool


def _log(labdir: str, name: str) -> str:
    guest_views.get(load(labdir), name)
    path = os.path.join(liveness.run_dir(labdir, name), "console.log")
    if not os.path.exists(path):
        raise NotFound(f"guest '{name}' has no console log yet", hint=f"dumm-guest start {name}")
    return path


def log(labdir: str, name: str, write: Write, *, last: int | None, follow: bool) -> None:
    """Write the console's log, or its `last` lines; with `follow`, continue until the guest
    ends."""
    path = _log(labdir, name)
    held = b""  # the first half of an end of line, perhaps

    def put(text: bytes) -> None:
        nonlocal held
        text = held + text
        held = text[-1:] if text.endswith(b"\r") else b""
        write(text.removesuffix(held).replace(b"\r\n", b"\n"))

    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if last is not None:
            file.seek(_start_of_last(file, size, last))
        # In pieces: its length is up to the guest.
        while (left := size - file.tell()) > 0 and (
            piece := file.readline(min(left, PIECE_OF_LOG))
        ):
            put(piece)
        if follow:
            _follow(labdir, name, path, Reader(file.fileno(), file.tell()), put)
    write(held)


def _start_of_last(file: BinaryIO, size: int, lines: int) -> int:
    """The position of the last lines of a file of `size` bytes, at most LOOK_BACK bytes before its
    end."""
    if not lines:
        return size
    at = size
    while at > max(0, size - LOOK_BACK):
        step = min(PIECE_OF_LOG, at)
        file.seek(at - step)
        block = file.read(step)
        end = len(block)
        if at == size and block.endswith(b"\n"):
            end -= 1  # it ends the last line
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            lines -= 1
            if not lines:
                return at - step + end + 1
        at -= step
    return at


def _follow(labdir: str, name: str, path: str, reader: Reader, write: Write) -> None:
    pidfd = liveness.pidfd_of(labdir, name)
    watch = inotify.watch(path)
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        if pidfd is not None:
            poll.register(pidfd, select.POLLIN)
        ended = pidfd is None
        while True:
            while piece := reader.read(65536):
                write(piece)
            if ended:
                return
            ended = pidfd in dict(poll.poll())
            inotify.drain(watch)
            if ended:
                with contextlib.suppress(TimedOut):
                    liveness.await_end(labdir, name, readiness.LAST_WORDS)
    finally:
        os.close(watch)
        if pidfd is not None:
            os.close(pidfd)


def send(labdir: str, name: str, line: int, text: str) -> None:
    """Type `text` and Enter at a raw terminal; Conflict if nothing is reading from it."""
    liveness.need_running(labdir, load(labdir), guest_views.get(load(labdir), name))
    data = os.fsencode(text) + b"\n"
    if len(data) > SEND_MAX:
        raise DummError(
            f"a console accepts at most {SEND_MAX - 1} bytes at a time",
            hint="dumm-guest exec accepts any amount on its standard input",
        )
    with _open(labdir, name, line, "in") as fd:
        try:
            sent = os.write(fd, data)
        except BlockingIOError:
            sent = 0
    if sent != len(data):
        raise Conflict(f"nothing is reading from the console of guest '{name}'")


@contextlib.contextmanager
def _open(labdir: str, name: str, line: int, way: str) -> Iterator[int]:
    path = os.path.join(liveness.run_dir(labdir, name), f"tty{line}.{way}")
    try:
        fd = fifo.open_nonblocking(path)
    except FileNotFoundError:
        raise NotFound(
            f"guest '{name}' has no line {line}", hint=f"0 to {run_dir.CONSOLES - 1}"
        ) from None
    try:
        yield fd
    finally:
        os.close(fd)


def attach(labdir: str, name: str, line: int, attached: Callable[[], object]) -> None:
    """Connect our terminal to a raw terminal of the guest until Ctrl-] or the guest's end; call
    `attached` once connected. waiting.Ended."""
    state = load(labdir)
    liveness.need_running(labdir, state, guest_views.get(state, name))
    if not (os.isatty(0) and os.isatty(1)):
        raise DummError("attach needs a terminal", hint="log, send and dumm-guest exec do not")
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_open(labdir, name, line, "in"))
        try:
            fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"line {line} of guest '{name}' is already attached") from None
        pidfd = liveness.pidfd_of(labdir, name)
        if pidfd is None:
            raise Conflict(f"guest '{name}' is not running")
        stack.callback(os.close, pidfd)
        if line == 0:
            path = _log(labdir, name)
            theirs = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, theirs)
            read = Reader(theirs, os.fstat(theirs).st_size).read
            wake = inotify.watch(path)
            stack.callback(os.close, wake)
        else:
            theirs = wake = stack.enter_context(_open(labdir, name, line, "out"))
            read = functools.partial(os.read, theirs)
        attached()
        stack.enter_context(ended_by_signals())
        stack.enter_context(tty.raw(0))
        screen = stream.writer(1)
        stack.callback(os.close, screen)
        _relay(ours, read, wake, line == 0, pidfd, screen)


def _relay(
    ours: int, read: Callable[[int], bytes], wake: int, is_log: bool, pidfd: int, screen: int
) -> None:
    """Input has priority in each round, and output is sent in pieces that our terminal accepts:
    neither a guest that prints endlessly nor a blocked terminal disables Ctrl-]."""
    keys, output = bytearray(), bytearray()
    next_piece = 0.0
    more = ended = False
    while True:
        left = next_piece - time.monotonic()
        if keys and left <= 0:
            with contextlib.suppress(BlockingIOError):
                del keys[: os.write(ours, keys[:PIECE])]
            next_piece = time.monotonic() + PACE
            continue
        poll = select.poll()
        poll.register(0, select.POLLIN)
        if output:
            poll.register(screen, select.POLLOUT)
        elif not (more or ended):
            poll.register(wake, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
        at_once = not output and (more or ended)
        events = dict(poll.poll(0 if at_once else left * 1000 + 1 if keys else None))
        if 0 in events:
            typed, detached, _ = os.read(0, 4096).partition(DETACH)
            keys += typed
            if detached or not typed:
                return
        if output:
            if screen in events:
                del output[: stream.write(screen, output)]
            continue
        ended = ended or pidfd in events
        if at_once or wake in events or ended:
            if is_log:
                inotify.drain(wake)
            piece = b""
            with contextlib.suppress(BlockingIOError):
                piece = read(PIECE_OF_OUTPUT)
            # Kernel messages in the log end with bare newlines; our terminal is in raw mode.
            output += piece.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            more = bool(piece)
            if ended and not more:
                return


def list_(labdir: str) -> list[ConsoleView]:
    """The raw terminals of all running guests."""
    state = load(labdir)
    found = []
    for name, guest in sorted(state.guests.items()):
        if liveness.guest_state(labdir, state, guest) not in ("running", "paused"):
            continue
        for line in range(run_dir.CONSOLES):
            path = os.path.join(liveness.run_dir(labdir, name), f"tty{line}.in")
            found.append(ConsoleView(name, line, path, _attached(path)))
    return found


def _attached(path: str) -> bool:
    fd = fifo.open_nonblocking(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
