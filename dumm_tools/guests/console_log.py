"""Reading along in a console's log, whose older half goes when it has become too long.

The keeper of the jail writes it (agent/jail/log.c): the first line then says how many bytes have
gone, and what follows has moved towards the start.
"""

from __future__ import annotations

import os
import re

#: The first line of a log that has lost its beginning.
_GONE = re.compile(rb"\[(\d{1,20}) bytes before this are gone\]\n")


class Reader:
    """What comes to a log, from `at` bytes after its start on; a descriptor that stays the
    caller's."""

    def __init__(self, fd: int, at: int) -> None:
        self._fd = fd
        gone, head = self._lost()
        self._seen = gone + max(0, at - head)  # bytes that the guest has printed, up to here

    def _lost(self) -> tuple[int, int]:
        """How many bytes have gone, and the length of the line that says so."""
        found = _GONE.match(os.pread(self._fd, 64, 0))
        return (int(found[1]), found.end()) if found else (0, 0)

    def read(self, size: int) -> bytes:
        """What is new, `size` bytes at most; nothing at the end. What went unread is passed
        over."""
        gone, head = self._lost()
        # The line is the guest's where nothing has gone yet: it may lie, to its own readers.
        self._seen = min(max(self._seen, gone), gone + os.fstat(self._fd).st_size)
        piece = os.pread(self._fd, size, self._seen - gone + head)
        self._seen += len(piece)
        return piece
