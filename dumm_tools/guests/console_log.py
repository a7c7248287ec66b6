"""Following a console log, whose older half is discarded when it has become too long.

The keeper of the jail writes it (agent/jail/log.c): the first line then says how many bytes have
been discarded, and the rest has moved towards the start. While it is being moved, the log begins
with a null byte.
"""

from __future__ import annotations

import os
import re

#: The first line of a log whose beginning was discarded.
_GONE = re.compile(rb"\[(\d{1,20}) bytes before this are gone\]\n")
_HEAD = 64
_MOVING = b"\0"


class Reader:
    """Reads data that is appended to a log, starting `at` bytes after its start; the descriptor
    stays the caller's. The guest may print what the keeper writes: it can only fool its own
    readers."""

    def __init__(self, fd: int, at: int) -> None:
        self._fd = fd
        gone, head = _lost(self._head())
        self._seen = gone + max(0, at - head)  # bytes that the guest has printed, up to here
        self._within_line = False

    def _head(self) -> bytes:
        return os.pread(self._fd, _HEAD, 0)

    def read(self, size: int) -> bytes:
        """Read new data, at most `size` bytes; empty at the end, and while data is being moved: the
        file changes again when that is over. Where data was discarded before it was read, a line
        says how much."""
        while not (first := self._head()).startswith(_MOVING):
            gone, head = _lost(first)
            if self._seen < gone:
                return self._skip(gone)
            self._seen = min(self._seen, gone + os.fstat(self._fd).st_size)
            piece = os.pread(self._fd, size, self._seen - gone + head)
            after = self._head()
            if not after.startswith(_MOVING) and _lost(after) == (gone, head):
                self._seen += len(piece)
                self._within_line = not piece.endswith(b"\n") if piece else self._within_line
                return piece
        return b""

    def _skip(self, gone: int) -> bytes:
        end = b"\n" if self._within_line else b""
        missed, self._seen, self._within_line = gone - self._seen, gone, False
        return end + b"[%d bytes are missing here]\n" % missed


def _lost(head: bytes) -> tuple[int, int]:
    """The number of bytes discarded, and the length of the line that says so."""
    found = _GONE.match(head)
    return (int(found[1]), found.end()) if found else (0, 0)
