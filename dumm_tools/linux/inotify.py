"""inotify(7): wait for a file to change, or for files in directories to come, go or be closed."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

# linux/inotify.h
IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8
IN_CLOSE = 0x18
IN_MOVED_FROM, IN_MOVED_TO = 0x40, 0x80
IN_CREATE, IN_DELETE = 0x100, 0x200
IN_DELETE_SELF, IN_MOVE_SELF = 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED = 0x4000, 0x8000
IN_DONT_FOLLOW = 0x2000000
IN_ONESHOT = 0x80000000
IN_CLOEXEC = os.O_CLOEXEC
IN_NONBLOCK = os.O_NONBLOCK

_libc = ctypes.CDLL(None, use_errno=True)


def watch(path: str, events: int = IN_MODIFY) -> int:
    """A descriptor that becomes readable when the file is written to; empty it with `drain`."""
    fd = _libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
    if fd >= 0 and _libc.inotify_add_watch(fd, os.fsencode(path), events) >= 0:
        return int(fd)
    failure = _failure(path)
    if fd >= 0:
        os.close(fd)
    raise failure


def drain(fd: int) -> None:
    """Discard pending events."""
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        return


class Event(NamedTuple):
    """An event, and the file of a watched directory that it is about ("": to what is watched)."""

    watch: int
    mask: int
    name: str


_EVENT = struct.Struct("iIII")  # struct inotify_event
#: Enough for hundreds of events.
_PIECE = 1 << 16


class Watches:
    """Watches on many files and directories. Links are not followed."""

    def __init__(self) -> None:
        self.fd = _libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
        if self.fd < 0:
            raise _failure("inotify")

    def fileno(self) -> int:
        """The descriptor that becomes readable when something has happened."""
        return int(self.fd)

    def add(self, path: str, events: int) -> int:
        """Watch a file or directory; return the number of the watch, which is that of the same file
        before. OSError, with ENOSPC if the user may not have more."""
        watch = _libc.inotify_add_watch(
            self.fd, os.fsencode(path), ctypes.c_uint32(events | IN_DONT_FOLLOW)
        )
        if watch < 0:
            raise _failure(path)
        return int(watch)

    def remove(self, watch: int) -> None:
        """End a watch; one that has ended by itself is ignored."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> list[Event]:
        """The events that have come."""
        try:
            data = os.read(self.fd, _PIECE)
        except BlockingIOError:
            return []
        found, offset = [], 0
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + length].rstrip(b"\0")
            found.append(Event(watch, mask, os.fsdecode(name)))
            offset += length
        return found

    def close(self) -> None:
        """End all watches."""
        os.close(self.fd)


def _failure(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
