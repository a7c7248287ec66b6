"""Our stdin, or a copy of it, passed on to a program in a guest.

Small amounts go over the line. A line carries 2 MB/s into a guest, so larger pieces go through
files in run/NAME/xfer, which the agent reads through hostfs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import time

from dumm_tools.agent import protocol
from dumm_tools.agent.client import Line
from dumm_tools.agent.protocol import INPUT_WINDOW
from dumm_tools.agent.steps import Wants
from dumm_tools.waiting import Ended

#: Pieces up to this size go over the line (bytes).
INLINE_MAX = 8192
BULK_SIZE = 1 << 20
#: Seconds after which a guest that has not accepted any input will not.
STUCK = 2.0
INTERRUPT = b"\x03"  # Ctrl-C on a raw terminal


class Feed:
    """Passes on a descriptor, perhaps a `terminal`, to the program on a line; None is one that is
    at its end."""

    def __init__(self, line: Line, directory: str, terminal: bool, stdin: int | None = 0) -> None:
        self._line = line
        self._terminal = terminal
        self._directory = directory
        self._stdin = stdin
        self._unsent = bytearray()  # read from stdin, not sent yet for lack of room
        self._inline = 0  # bytes sent but not acknowledged
        self._taken_at = 0.0  # when there were last none, or some were acknowledged
        self._bulk: list[int] = []  # files sent but not acknowledged
        self._files: set[str] = set()

    def begin(self) -> None:
        """The program is being started."""
        if self._stdin is None:
            self._line.queue(protocol.INPUT_END)

    def wants(self) -> Wants:
        """The events to poll for: data, if there is room for more."""
        may = self._stdin is not None and self._may_read()
        return {self._stdin: select.POLLIN} if may and self._stdin is not None else {}

    def read(self, events: Wants) -> None:
        """Read, if poll reported data, and pass them on. Ended by Ctrl-C if the guest is stuck."""
        if self._stdin is not None and events.get(self._stdin):
            self._read()

    @property
    def is_ended(self) -> bool:
        """Whether there is no more input, or nobody to read it."""
        return self._stdin is None

    @property
    def is_taken(self) -> bool:
        """Whether the program has read everything that was sent."""
        return not (self._inline or self._bulk or self._unsent)

    def taken(self, count: int) -> None:
        """The program has read so much of what went over the line."""
        self._inline -= protocol.within(count, 0, self._inline)
        self._taken_at = time.monotonic()

    def bulk_taken(self, which: int) -> None:
        """The program has read a file."""
        if which not in self._bulk:
            raise protocol.BadFrame
        self._bulk.remove(which)

    def end(self) -> None:
        """The program reads no more."""
        self._stdin = None
        self._unsent.clear()

    def _may_read(self) -> bool:
        if self._unsent:
            return False
        if self._bulk:
            return len(self._bulk) < 2
        return self._inline < INPUT_WINDOW and not self._line.outbox

    def _read(self) -> None:
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
        stuck = self._inline and time.monotonic() - self._taken_at > STUCK
        if self._terminal and INTERRUPT in data and stuck and os.isatty(0):
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

    def send(self) -> None:
        """Send as much as the window has room for. More is pending only if a disk was full: then,
        once all files are used up, the line carries piece by piece what a file should have."""
        if self._bulk:
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
        path = self._file(which)
        self._files.add(path)
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

    def _file(self, which: int) -> str:
        return os.path.join(self._directory, "xfer", f"{self._line.number}.{which}")

    def clean(self) -> None:
        """Remove the files that were passed on."""
        for path in self._files:
            with contextlib.suppress(OSError):
                os.unlink(path)
