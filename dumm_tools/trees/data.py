"""Copy the contents of open files, preserving holes."""

from __future__ import annotations

import errno
import os

_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF})
_SMALL = 128 << 10


def copy(old: int, new: int, info: os.stat_result) -> None:
    """Copy the contents of an open file to an empty one."""
    size = info.st_size
    if size <= _SMALL and info.st_blocks << 9 >= size:
        data = os.read(old, size)
        while data:
            data = data[os.write(new, data) :]
        return
    at = 0
    while at < size:
        try:
            at = os.lseek(old, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        end = min(os.lseek(old, at, os.SEEK_HOLE), size)
        while at < end:
            done = _copy_range(old, new, end - at, at)
            if done == 0:
                return  # the file was truncated meanwhile
            at += done
    os.ftruncate(new, size)


def _copy_range(old: int, new: int, count: int, at: int) -> int:
    try:
        done = os.copy_file_range(old, new, count, at, at)
        if done:
            return done
    except OSError as e:
        if e.errno not in _NO_COPY_RANGE:
            raise
    return os.pwrite(new, os.pread(old, min(count, 1 << 20), at), at)


def pour(old: int, target: int) -> None:
    """Write the contents of an open file to a device or a FIFO."""
    while piece := os.read(old, 1 << 20):
        while piece:
            piece = piece[os.write(target, piece) :]
