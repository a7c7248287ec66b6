"""A program in the guest, with our stdin, stdout, stderr and signals as its own.

Bytes for the program's stdin go over the line while they are few. A line takes 2 MB/s into a
guest, so larger pieces go by files in run/NAME/xfer, which the agent reads through hostfs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import struct
import time
from collections.abc import Iterator, Mapping, Sequence

from dumm_tools.agent.client import INPUT_WINDOW, Line, LineLost
from dumm_tools.errors import ExecFailed, TimedOut
from dumm_tools.linux import tty
from dumm_tools.model import Record

#: Pieces of stdin up to this size go over the line (bytes).
INLINE_MAX = 8192
BULK_SIZE = 1 << 20
#: Stop taking output from the guest while this much waits for our own reader (bytes).
BACKLOG_MAX = 4 << 20
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: When nothing happens, how often to see whether the guest has rebooted (milliseconds).
LOOK_MS = 1000
#: Seconds from SIGTERM to SIGKILL when --timeout has passed.
GRACE = 2.0


class Program(Record):
    """What to run. An argv of ["~"] is the user's login shell, a cwd of "~" the home directory."""

    argv: Sequence[str]
    env: Mapping[str, str] = {}
    cwd: str = "/"
    user: str = "root"
    terminal: bool = False
    timeout: float | None = None


def request(program: Program, rows: int, cols: int) -> bytes:
    """The payload of RUN (agent.h). ExecFailed when a string holds a NUL."""
    strings = [program.user, program.cwd, *program.argv]
    strings += [f"{k}={v}" for k, v in program.env.items()]
    raw = [os.fsencode(s) for s in strings]
    if any(b"\0" in s for s in raw):
        raise ExecFailed("an argument holds a NUL byte")
    head = struct.pack("<BHHH", int(program.terminal), rows, cols, len(program.argv))
    return head + b"".join(s + b"\0" for s in raw)


class _Sink:
    """One of our outputs: written only as far as it takes without blocking us."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.backlog = bytearray()
        # poll says that a pipe takes PIPE_BUF bytes without blocking; a file takes all.
        self._piece = BACKLOG_MAX if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF

    def write(self) -> None:
        with contextlib.suppress(BlockingIOError):  # whoever gave it to us may have made it so
            del self.backlog[: os.write(self.fd, self.backlog[: self._piece])]


class Session:
    """Runs one program on one line, to its end."""

    def __init__(self, line: Line, directory: str, program: Program, deadline: float) -> None:
        self._line = line
        self._directory = directory
        self._program = program
        self._stdin: int | None = 0
        self._inline = 0  # bytes sent and not taken yet
        self._bulk: list[int] = []  # files sent and not taken yet
        self._out, self._err = _Sink(1), _Sink(2)
        self._signals: list[int] = []
        self._status: int | None = None
        self._deadline = deadline
        self._overdue = 0
        self._boot = self._boot_mark()

    def run(self) -> int:
        """The program's exit status: 0-255, or 128 + n when a signal ended it. ExecFailed when it
        could not be started, TimedOut, BrokenPipeError when our own reader went away."""
        rows, cols = tty.size()
        with self._watch_signals() as wakeup, tty.raw(0, self._program.terminal):
            try:
                self._line.send(b"X", request(self._program, rows, cols))
            except OSError as e:
                what = self._program.argv[0]
                raise ExecFailed(f"cannot run '{what}': {e.strerror}", 126) from None
            while self._status is None or self._out.backlog or self._err.backlog:
                self._step(wakeup)
        if self._overdue:
            raise self._too_long()
        return (
            os.waitstatus_to_exitcode(self._status) & 0xFF
            if self._status & 0x7F == 0
            else (128 + (self._status & 0x7F))
        )

    def _step(self, wakeup: int) -> None:
        poll = select.poll()
        line, out, err = self._line, self._out, self._err
        poll.register(wakeup, select.POLLIN)
        if self._status is None:
            line.register(poll, read=len(out.backlog) + len(err.backlog) < BACKLOG_MAX)
            if self._stdin is not None and self._may_read():
                poll.register(self._stdin, select.POLLIN)
        for sink in (out, err):
            if sink.backlog:
                poll.register(sink.fd, select.POLLOUT)
        events = dict(poll.poll(self._wait_ms()))
        if not events and self._boot_mark() != self._boot:
            raise LineLost  # the guest has rebooted, in the same process: nothing will come
        if wakeup in events:
            os.read(wakeup, 512)
        self._forward_signals()
        self._check_deadline()
        for sink in (out, err):
            if sink.fd in events and sink.backlog:
                self._write(sink)
        if self._status is None:
            line.write()
            if line.readable(events):
                line.read()
                self._take_frames()
            elif line.pidfd in events:
                raise LineLost
            if self._stdin is not None and events.get(self._stdin):
                self._read_stdin()

    # ---- time and signals ----

    def _wait_ms(self) -> int:
        return max(0, int(min(LOOK_MS, (self._deadline - time.monotonic()) * 1000 + 1)))

    def _boot_mark(self) -> int:
        """Changes when the guest boots: its agent writes this file anew."""
        try:
            return os.stat(os.path.join(self._directory, "uml", "ready")).st_mtime_ns
        except OSError:
            return 0

    def _check_deadline(self) -> None:
        if self._status is None and time.monotonic() >= self._deadline:
            if self._overdue > 1:
                raise self._too_long()  # not even the guest's kernel answers
            number = signal.SIGKILL if self._overdue else signal.SIGTERM
            self._line.send(b"S", bytes([number]))
            self._overdue += 1
            self._deadline = time.monotonic() + GRACE

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
                self._line.send(b"W", struct.pack("<HH", *tty.size()))
            elif number != signal.SIGPIPE:
                self._line.send(b"S", bytes([number]))

    # ---- output ----

    def _write(self, sink: _Sink) -> None:
        try:
            sink.write()
        except OSError as e:
            # As in a pipeline of one machine: the writer learns that nobody reads.
            for number in (signal.SIGPIPE, signal.SIGHUP):
                self._line.send(b"S", bytes([number]))
            if isinstance(e, BrokenPipeError):
                raise
            raise ExecFailed(f"cannot write output: {e.strerror}") from None

    def _take_frames(self) -> None:
        for kind, payload in self._line.frames():
            if kind == b"o":
                self._out.backlog += payload
            elif kind == b"e":
                self._err.backlog += payload
            elif kind == b"k":
                self._inline -= int.from_bytes(payload, "little")
            elif kind == b"j":
                with contextlib.suppress(ValueError):
                    self._bulk.remove(payload[0])
            elif kind == b"c":
                self._stdin = None
            elif kind == b"x":
                self._status = int.from_bytes(payload, "little")
            elif kind == b"f":
                self._refused(int.from_bytes(payload[:4], "little"), payload[4:])

    def _refused(self, number: int, text: bytes) -> None:
        stage, _, subject = text.decode(errors="replace").partition(" ")
        reason = os.strerror(number)
        if stage == "exec":
            subject = subject or self._program.argv[0]
            code = 127 if number in (errno.ENOENT, errno.ENOTDIR) else 126
            what = "command not found" if code == 127 and "/" not in subject else reason
            raise ExecFailed(f"cannot run '{subject}': {what}", code)
        if stage in ("user", "group"):
            raise ExecFailed(f"no {stage} '{subject}' in the guest")
        if stage == "directory":
            raise ExecFailed(f"cannot change to '{subject}': {reason}")
        raise ExecFailed(f"{stage} {subject}: {reason}")

    # ---- stdin ----

    def _may_read(self) -> bool:
        if self._bulk:
            return len(self._bulk) < 2
        return self._inline < INPUT_WINDOW and not self._line.outbox

    def _read_stdin(self) -> None:
        room = INPUT_WINDOW - self._inline if self._inline else BULK_SIZE
        data = self._gather(room)
        if data is None:
            self._line.send(b"E")
            self._stdin = None
        elif self._bulk or (len(data) > INLINE_MAX and not self._inline):
            self._send_bulk(data)
        else:
            self._send_inline(data)

    def _gather(self, room: int) -> bytes | None:
        """What can be read without waiting, `room` bytes at most; None at the end."""
        assert self._stdin is not None
        data = bytearray()
        ready = select.poll()
        ready.register(self._stdin, select.POLLIN)
        while len(data) < room:
            try:
                piece = os.read(self._stdin, room - len(data))
            except BlockingIOError:
                break
            except OSError:  # EIO of a terminal that has gone
                piece = b""
            if not piece:
                return bytes(data) if data else None
            data += piece
            if not ready.poll(0):
                break
        return bytes(data)

    def _send_inline(self, data: bytes) -> None:
        # More than the window only when a disk was full: then the line carries it piece by piece.
        for at in range(0, len(data), INPUT_WINDOW):
            piece = data[at : at + INPUT_WINDOW]
            while self._inline + len(piece) > INPUT_WINDOW:
                if not self._heard():
                    return
            self._line.send(b"I", piece)
            self._inline += len(piece)

    def _heard(self) -> bool:
        """Wait for a word of the agent's; False when the program wants no more input."""
        self._line.pump(time.monotonic() + 3600)
        self._take_frames()
        return self._status is None and self._stdin is not None

    def _send_bulk(self, data: bytes) -> None:
        which = 1 if 0 in self._bulk else 0
        path = os.path.join(self._directory, "xfer", f"{self._line.number}.{which}")
        try:
            with open(path, "wb") as file:
                file.write(data)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
            while self._bulk:
                if not self._heard():
                    return
            self._send_inline(data)
            return
        self._line.send(b"J", struct.pack("<BI", which, len(data)))
        self._bulk.append(which)

    def clean(self) -> None:
        """Remove the files of this session."""
        for which in (0, 1):
            with contextlib.suppress(OSError):
                path = os.path.join(self._directory, "xfer", f"{self._line.number}.{which}")
                os.unlink(path)
