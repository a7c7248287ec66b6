"""Writing to pipes, terminals and sockets that were given to us, without ever waiting there."""

from __future__ import annotations

import contextlib
import os
import select
import stat

_PIECE = 1 << 16
_PTMX = os.makedev(5, 2)  # Documentation/admin-guide/devices.txt


def writer(fd: int) -> int:
    """A descriptor for what `fd` is open on that does not block, to be closed by the caller.

    O_NONBLOCK belongs to the open file description, which our parent and others have too: so a
    pipe or a terminal is opened anew. Where that cannot be, as with a socket or what another user
    gave us, it is the same again, and `write` takes care.
    """
    mode, device = os.fstat(fd).st_mode, os.fstat(fd).st_rdev
    # To open a terminal's master makes another terminal (pty(7)).
    if stat.S_ISFIFO(mode) or (os.isatty(fd) and device != _PTMX):
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags)
    return os.dup(fd)


def write(fd: int, data: bytes | bytearray) -> int:
    """Write what goes without waiting to a descriptor that poll found ready; so many bytes."""
    # poll says that a pipe takes PIPE_BUF bytes without blocking; a file takes all.
    patient = os.get_blocking(fd) and not stat.S_ISREG(os.fstat(fd).st_mode)
    piece = select.PIPE_BUF if patient else _PIECE
    try:
        return os.write(fd, data[:piece])
    except BlockingIOError:
        return 0
