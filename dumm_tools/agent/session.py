"""A program in the guest that uses our stdin, stdout, stderr and signals as its own.

Small amounts of data for the program's stdin go over the line. A line carries 2 MB/s into a guest,
so larger pieces go through files in run/NAME/xfer, which the agent reads through hostfs.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal
import struct
import time
from collections.abc import Iterator, Mapping, Sequence

from dumm_tools.agent import protocol
from dumm_tools.agent.client import Line, LineLost, Rebooted
from dumm_tools.agent.protocol import INPUT_WINDOW
from dumm_tools.errors import ExecFailed, TimedOut
from dumm_tools.linux import stream, tty
from dumm_tools.model import Record
from dumm_tools.waiting import Ended

#: Pieces of stdin up to this size go over the line (bytes).
INLINE_MAX = 8192
BULK_SIZE = 1 << 20
#: Stop accepting output from the guest while this much is waiting for our own reader (bytes).
BACKLOG_MAX = 4 << 20
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: Interval of checks whether the guest has rebooted while nothing happens (milliseconds).
LOOK_MS = 1000
#: Seconds from SIGTERM after --timeout, or from a signal without effect, to our own exit; after
#: half of it a program that has exceeded its timeout gets SIGKILL.
GRACE = 2.0
INTERRUPT = b"\x03"  # Ctrl-C on a raw terminal


class Program(Record):
    """The program to run. An argv of ["~"] means the user's login shell, a cwd of "~" the home
    directory."""

    argv: Sequence[str]
    env: Mapping[str, str] = {}
    cwd: str = "/"
    user: str = "root"
    terminal: bool = False
    timeout: float | None = None


def request(program: Program, rows: int, cols: int) -> bytes:
    """The payload of RUN (src/protocol.h). ExecFailed if a string contains a NUL."""
    strings = [program.user, program.cwd, *program.argv]
    strings += [f"{k}={v}" for k, v in program.env.items()]
    raw = [os.fsencode(s) for s in strings]
    if any(b"\0" in s for s in raw):
        raise ExecFailed("an argument contains a NUL byte")
    head = struct.pack("<BHHH", protocol.RUN_TTY * program.terminal, rows, cols, len(program.argv))
    return head + b"".join(s + b"\0" for s in raw)


def refusal(program: Program, number: int, data: bytes) -> ExecFailed:
    """The error for a FAILED: the program could not be started."""
    reason = os.strerror(number)
    stage, _, subject = protocol.printable(data).partition(" ")
    if stage == "exec":
        subject = subject or program.argv[0]
        code = 127 if number in (errno.ENOENT, errno.ENOTDIR) else 126
        what = "command not found" if code == 127 and "/" not in subject else reason
        return ExecFailed(f"cannot run '{subject}': {what}", code)
    if stage in ("user", "group"):
        return ExecFailed(f"no {stage} '{subject}' in the guest")
    if stage == "directory":
        return ExecFailed(f"cannot change to '{subject}': {reason}")
    return ExecFailed(f"{stage} {subject}: {reason}")


class _Sink:
    """One of our outputs, to which we write only as much as it accepts without blocking."""

    def __init__(self, fd: int) -> None:
        self._given, self._fd = fd, -1
        self.backlog = bytearray()

    def register(self, poll: select.poll) -> None:
        """Register for notification when it accepts pending data."""
        if self.backlog:
            if self._fd < 0:
                try:
                    self._fd = stream.writer(self._given)
                except OSError:  # it is closed: the write will fail
                    self._fd = self._given
            poll.register(self._fd, select.POLLOUT)

    def write(self, events: dict[int, int]) -> bool:
        """Write if poll reported it as ready; return whether something was accepted."""
        if not self.backlog or self._fd not in events:
            return False
        taken = stream.write(self._fd, self.backlog)
        del self.backlog[:taken]
        return taken > 0

    def close(self) -> None:
        """Close our descriptors."""
        if self._fd not in (-1, self._given):
            os.close(self._fd)


class Session:
    """Runs one program on one line until it ends."""

    def __init__(self, line: Line, directory: str, program: Program, deadline: float) -> None:
        self._line = line
        self._directory = directory
        self._program = program
        self._stdin: int | None = 0
        self._unsent = bytearray()  # read from stdin, not sent yet for lack of room
        self._inline = 0  # bytes sent but not acknowledged
        self._taken_at = 0.0  # when there were last none, or some were acknowledged
        self._bulk: list[int] = []  # files sent but not acknowledged
        self._out, self._err = _Sink(1), _Sink(2)
        self._signals: list[int] = []
        self._status: int | None = None
        self._deadline = deadline
        self._overdue = 0
        # A signal that ends us unless the guest accepts it: its position in the data, deadline.
        self._signalled, self._signal_at, self._signal_until = 0, 0, math.inf
        self._moved_at = 0.0  # when our reader last accepted something
        self._boot, self._rebooted = self._boot_mark(), False

    def run(self) -> int:
        """The program's exit status: 0-255, or 128 + n if a signal killed it. ExecFailed if it
        could not be started, TimedOut, Ended, BrokenPipeError if our own reader went away."""
        rows, cols = tty.size()
        with self._watch_signals() as wakeup, tty.raw(0, self._program.terminal):
            try:
                self._line.send(protocol.RUN, request(self._program, rows, cols))
            except OSError as e:
                what = self._program.argv[0]
                raise ExecFailed(f"cannot run '{what}': {e.strerror}", 126) from None
            while not self._is_over() or self._out.backlog or self._err.backlog:
                self._step(wakeup)
        if self._status is None:
            raise Rebooted
        if self._overdue:
            raise self._too_long()
        return protocol.exit_status(self._status)

    def _step(self, wakeup: int) -> None:
        poll = select.poll()
        line, out, err = self._line, self._out, self._err
        poll.register(wakeup, select.POLLIN)
        if not self._is_over():
            line.register(poll, read=self._waiting() < BACKLOG_MAX)
            if self._stdin is not None and self._may_read():
                poll.register(self._stdin, select.POLLIN)
        for sink in (out, err):
            sink.register(poll)
        events = dict(poll.poll(self._wait_ms()))
        if not events and self._boot_mark() != self._boot:
            self._rebooted = True  # in the same process
        if wakeup in events:
            os.read(wakeup, 512)
        self._forward_signals()
        self._check_time()
        for sink in (out, err):
            self._write(sink, events)
        if not self._is_over():
            line.write()
            if line.readable(events):
                line.read()
                try:
                    self._take_frames()
                except Rebooted:
                    self._rebooted = True
            elif line.pidfd in events:
                raise LineLost
            if self._stdin is not None and events.get(self._stdin):
                self._read_stdin()
            self._send_inline()

    def _is_over(self) -> bool:
        return self._status is not None or self._rebooted

    def _waiting(self) -> int:
        return len(self._out.backlog) + len(self._err.backlog)

    # ---- time and signals ----

    def _wait_ms(self) -> int:
        until = min(self._deadline, self._signal_until) - time.monotonic()
        return max(0, int(min(LOOK_MS, until * 1000 + 1)))

    def _boot_mark(self) -> int:
        """A value that changes when the guest boots: its agent writes this file anew."""
        try:
            return os.lstat(os.path.join(self._directory, "uml", "ready")).st_mtime_ns
        except OSError:
            return 0

    def _check_time(self) -> None:
        now = time.monotonic()
        if now >= self._signal_until:
            self._signal_until = math.inf
            # Once the agent has delivered it, the program may handle it, as long as we can be told.
            if self._status is None and self._line.taken < self._signal_at:
                raise Ended(self._signalled)
            if self._waiting() >= BACKLOG_MAX or self._status is not None:
                self._signal_until = self._moved_at + GRACE
                if now >= self._signal_until:
                    raise Ended(self._signalled)
        if now >= self._deadline:
            if self._status is not None or self._overdue > 1:
                raise self._too_long()  # no reader for our output, or no answer from the guest
            number = signal.SIGKILL if self._overdue else signal.SIGTERM
            self._line.send(protocol.SIGNAL, bytes([number]))
            self._overdue += 1
            self._deadline = now + GRACE / 2

    def _too_long(self) -> TimedOut:
        return TimedOut(f"'{self._program.argv[0]}' ran longer than {self._program.timeout:g} s")

    @contextlib.contextmanager
    def _watch_signals(self) -> Iterator[int]:
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        wanted = [*FORWARDED, signal.SIGPIPE]
        if self._program.terminal:
            wanted.append(signal.SIGWINCH)
        previous = {n: signal.signal(n, lambda n, _: self._signals.append(n)) for n in wanted}
        old = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield read
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(read)
            os.close(write)

    def _forward_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGWINCH:
                self._line.send(protocol.RESIZE, struct.pack("<HH", *tty.size()))
            elif number != signal.SIGPIPE:
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        """Send the program a signal, which ends us if it cannot be delivered."""
        if self._status is not None:
            raise Ended(number)
        self._line.send(protocol.SIGNAL, bytes([number]))
        if self._signal_until == math.inf:
            self._signalled = number
            self._signal_at = self._line.sent + len(self._line.outbox)
            self._signal_until = time.monotonic() + GRACE

    # ---- output ----

    def _write(self, sink: _Sink, events: dict[int, int]) -> None:
        try:
            if sink.write(events):
                self._moved_at = time.monotonic()
        except OSError as e:
            # As in a local pipeline: the writer learns that there is no reader.
            for number in (signal.SIGPIPE, signal.SIGHUP):
                self._line.send(protocol.SIGNAL, bytes([number]))
            if isinstance(e, BrokenPipeError):
                raise
            raise ExecFailed(f"cannot write output: {e.strerror}") from None

    def _take_frames(self) -> None:
        for kind, number, data in self._line.frames():
            if kind == protocol.OUTPUT:
                self._out.backlog += data
            elif kind == protocol.ERRORS:
                self._err.backlog += data
            elif kind == protocol.TAKEN:
                self._inline -= protocol.within(number, 0, self._inline)
                self._taken_at = time.monotonic()
            elif kind == protocol.BULK_TAKEN:
                if number not in self._bulk:
                    raise protocol.BadFrame
                self._bulk.remove(number)
            elif kind == protocol.DEAF:
                self._stdin = None
                self._unsent.clear()
            elif kind == protocol.STATUS:
                self._status = number
                return  # nothing follows
            elif kind == protocol.FAILED:
                raise refusal(self._program, number, data)

    # ---- stdin ----

    def _may_read(self) -> bool:
        if self._unsent:
            return False
        if self._bulk:
            return len(self._bulk) < 2
        return self._inline < INPUT_WINDOW and not self._line.outbox

    def _read_stdin(self) -> None:
        room = INPUT_WINDOW - self._inline if self._inline else BULK_SIZE
        data = self._gather(room)
        if data is None:
            self._line.send(protocol.INPUT_END)
            self._stdin = None
            return
        self._check_keys(data)
        bulk = self._bulk or (len(data) > INLINE_MAX and not self._inline)
        if not (bulk and self._send_bulk(data)):
            self._unsent += data

    def _check_keys(self, data: bytes) -> None:
        """On a raw terminal Ctrl-C is for the program or, if the guest accepts no input, for us."""
        stuck = self._inline and time.monotonic() - self._taken_at > GRACE
        if self._program.terminal and INTERRUPT in data and stuck and os.isatty(0):
            raise Ended(signal.SIGINT)

    def _gather(self, room: int) -> bytes | None:
        """Read what is available without blocking, at most `room` bytes; None at the end."""
        assert self._stdin is not None
        data = bytearray()
        ready = select.poll()
        ready.register(self._stdin, select.POLLIN)
        while len(data) < room:
            try:
                piece = os.read(self._stdin, room - len(data))
            except BlockingIOError:
                break
            except OSError:  # EIO from a terminal that is gone
                piece = b""
            if not piece:
                return bytes(data) if data else None
            data += piece
            if not ready.poll(0):
                break
        return bytes(data)

    def _send_inline(self) -> None:
        """Send as much as the window has room for. More is pending only if a disk was full: then,
        once all files are used up, the line carries piece by piece what a file should have."""
        if self._bulk or self._status is not None:
            return
        while piece := bytes(self._unsent[: INPUT_WINDOW - self._inline]):
            if not self._inline:
                self._taken_at = time.monotonic()
            self._line.send(protocol.INPUT, piece)
            self._inline += len(piece)
            del self._unsent[: len(piece)]

    def _send_bulk(self, data: bytes) -> bool:
        """Pass on a large piece in a file; return False if there is no room for it."""
        which = 1 if 0 in self._bulk else 0
        path = os.path.join(self._directory, "xfer", f"{self._line.number}.{which}")
        try:
            with open(path, "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # whatever the umask: the kernel's user is another
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return False
        self._line.send(protocol.BULK, struct.pack("<BI", which, len(data)))
        self._bulk.append(which)
        return True

    def clean(self) -> None:
        """Remove the files of this session and close its descriptors."""
        self._out.close()
        self._err.close()
        for which in (0, 1):
            with contextlib.suppress(OSError):
                path = os.path.join(self._directory, "xfer", f"{self._line.number}.{which}")
                os.unlink(path)
