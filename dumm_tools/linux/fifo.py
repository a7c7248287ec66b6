"""FIFOs as serial lines (fifo(7))."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

#: fcntl(2): set a pipe's capacity.
F_SETPIPE_SZ = fcntl.F_SETPIPE_SZ


def make(path: str) -> None:
    """Make a FIFO, or take one that is there; what else lies there is OSError(EEXIST)."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None


def open_both(path: str) -> int:
    """Open for reading and writing, which never blocks and never sees a hang-up."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def open_nonblocking(path: str) -> int:
    """As `open_both`, on an open file description of our own that does not block."""
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def enlarge(fd: int, size: int) -> None:
    """Ask for `size` bytes of capacity; a user past the limit (pipe(7)) keeps what there is."""
    try:
        fcntl.fcntl(fd, F_SETPIPE_SZ, size)
    except OSError:
        return
