"""inotify(7): wait for a file to change, or for a file in a directory to be closed."""

from __future__ import annotations

import ctypes
import os

IN_MODIFY = 0x2  # linux/inotify.h
IN_CLOSE = 0x18
IN_CLOEXEC = os.O_CLOEXEC
IN_NONBLOCK = os.O_NONBLOCK

_libc = ctypes.CDLL(None, use_errno=True)


def watch(path: str, events: int = IN_MODIFY) -> int:
    """A descriptor that becomes readable when the file is written to; empty it with `drain`."""
    fd = _libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
    if fd >= 0 and _libc.inotify_add_watch(fd, os.fsencode(path), events) >= 0:
        return int(fd)
    number = ctypes.get_errno()
    if fd >= 0:
        os.close(fd)
    raise OSError(number, os.strerror(number), path)


def drain(fd: int) -> None:
    """Discard pending events."""
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        return
