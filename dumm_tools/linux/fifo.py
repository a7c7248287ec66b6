"""FIFOs as serial lines (fifo(7))."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

#: fcntl(2): set a pipe's capacity.
F_SETPIPE_SZ = fcntl.F_SETPIPE_SZ


def make(path: str) -> None:
    """Create a FIFO, or reuse an existing one; OSError(EEXIST) if something else has that name."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None


def open_both(path: str) -> int:
    """Open for reading and writing, which never blocks and never sees a hang-up."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def open_nonblocking(path: str) -> int:
    """Like `open_both`, but on a separate open file description that does not block."""
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def enlarge(fd: int, size: int) -> None:
    """Request a capacity of `size` bytes; a user above the limit (pipe(7)) keeps the
    present one."""
    try:
        fcntl.fcntl(fd, F_SETPIPE_SZ, size)
    except OSError:
        return
