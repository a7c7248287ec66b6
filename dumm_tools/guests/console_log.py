"""Following a console log, whose older half is discarded when it has become too long.

The keeper of the jail writes it (agent/jail/log.c): the first line then says how many bytes have
been discarded, and the rest has moved towards the start.
"""

from __future__ import annotations

import os
import re

#: The first line of a log whose beginning was discarded.
_GONE = re.compile(rb"\[(\d{1,20}) bytes before this are gone\]\n")


class Reader:
    """Reads data that is appended to a log, starting `at` bytes after its start; the descriptor
    stays the caller's."""

    def __init__(self, fd: int, at: int) -> None:
        self._fd = fd
        gone, head = self._lost()
        self._seen = gone + max(0, at - head)  # bytes that the guest has printed, up to here

    def _lost(self) -> tuple[int, int]:
        """The number of bytes discarded, and the length of the line that says so."""
        found = _GONE.match(os.pread(self._fd, 64, 0))
        return (int(found[1]), found.end()) if found else (0, 0)

    def read(self, size: int) -> bytes:
        """Read new data, at most `size` bytes; empty at the end. Data discarded before it was read
        is skipped."""
        gone, head = self._lost()
        # The guest may have printed such a line itself: it can only fool its own readers.
        self._seen = min(max(self._seen, gone), gone + os.fstat(self._fd).st_size)
        piece = os.pread(self._fd, size, self._seen - gone + head)
        self._seen += len(piece)
        return piece
