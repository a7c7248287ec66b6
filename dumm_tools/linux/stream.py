"""Writing to inherited pipes, terminals and sockets without ever blocking."""

from __future__ import annotations

import contextlib
import os
import select
import stat

_PIECE = 1 << 16
#: Seconds that a terminal may take to accept what we write.
_BLOCKED = 0.05
_PTMX = os.makedev(5, 2)  # Documentation/admin-guide/devices.txt


def writer(fd: int) -> int:
    """A non-blocking descriptor for the file that `fd` refers to, to be closed by the caller.

    O_NONBLOCK belongs to the open file description, which our parent and other processes share, so
    a pipe or terminal is opened again. If that is not possible, as with a socket or with a file of
    another user, the descriptor is a duplicate, and `write` takes care.
    """
    mode, device = os.fstat(fd).st_mode, os.fstat(fd).st_rdev
    # Opening the master of a terminal creates a new terminal (pty(7)).
    if stat.S_ISFIFO(mode) or (os.isatty(fd) and device != _PTMX):
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags)
    return os.dup(fd)


def write(fd: int, data: bytes | bytearray) -> int:
    """Write as much as possible without blocking to a descriptor that poll reported as ready;
    return the number of bytes."""
    # A pipe that poll reports as ready takes PIPE_BUF bytes without blocking; a file takes all.
    patient = os.get_blocking(fd) and not stat.S_ISREG(os.fstat(fd).st_mode)
    piece = select.PIPE_BUF if patient else _PIECE
    if patient and os.isatty(fd):
        return _write_at_most(fd, bytes(data[:piece]))
    try:
        return os.write(fd, data[:piece])
    except BlockingIOError:
        return 0


def _write_at_most(fd: int, data: bytes) -> int:
    """Write to a terminal, which may accept less than it is given and then block: a timer
    interrupts that. os.write would begin again, or lose the count if a handler raised."""
    import signal

    from dumm_tools.linux import libc

    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _BLOCKED, _BLOCKED)  # repeatedly: the first may be early
    try:
        written = libc.call("write", fd, data, len(data))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    if written >= 0:
        return written
    poll = select.poll()
    poll.register(fd, 0)
    return os.write(fd, data[:1]) if poll.poll(0) else 0  # an error, or an interrupt
