"""openat2(2): a path looked up with a directory for its root, whatever links lie on the way."""

from __future__ import annotations

import ctypes
import errno
import os

_NUMBER = 437  # the same on all architectures (asm-generic/unistd.h)
_RESOLVE_NO_MAGICLINKS = 0x02  # linux/openat2.h
_RESOLVE_IN_ROOT = 0x10
#: The kernel says EAGAIN when a rename elsewhere keeps it from being sure of a `..`.
_TRIES = 100

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open what `path` means to a process whose root directory is `root`; a descriptor.

    Absolute paths and links, and `..`, stay below `root`.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_TRIES):
        fd: int = _libc.syscall(
            ctypes.c_long(_NUMBER),
            ctypes.c_int(root),
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
