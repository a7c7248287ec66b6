"""openat2(2): resolve a path with a directory as its root, whatever links it contains, or one that
must not contain any."""

from __future__ import annotations

import ctypes
import errno
import os

_NUMBER = 437  # the same on all architectures (asm-generic/unistd.h)
_RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_IN_ROOT = 0x10
#: EAGAIN means that a concurrent rename kept the kernel from resolving a `..` safely.
_TRIES = 100
_CWD = -100  # AT_FDCWD, linux/fcntl.h

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open what `path` refers to for a process whose root directory is `root`; return a descriptor.

    Absolute paths and links, and `..`, stay below `root`.
    """
    return _open(root, path, flags, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)


def open_plain(path: str, flags: int) -> int:
    """Open a path that had no links when it was recorded; return a descriptor. OSError: ELOOP if a
    part of it is a link now."""
    return _open(_CWD, path, flags, _RESOLVE_NO_SYMLINKS)


def _open(at: int, path: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_TRIES):
        fd: int = _libc.syscall(
            ctypes.c_long(_NUMBER),
            ctypes.c_int(at),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), path)
