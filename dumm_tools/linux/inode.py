"""Per-inode flags of file systems: ioctl_iflags(2)."""

from __future__ import annotations

import fcntl
import os
import struct

_FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h with 64-bit long; the argument is an int
_FS_IOC_SETFLAGS = 0x40086602
_FS_TOPDIR_FL = 0x00020000


def spread(directory: str) -> None:
    """Have ext4 place each directory created in `directory` into a block group of its own
    (chattr(1), T). OSError if the file system does not support this."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        (flags,) = struct.unpack("=i", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, struct.pack("=i", 0)))
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=i", flags | _FS_TOPDIR_FL))
    finally:
        os.close(fd)
