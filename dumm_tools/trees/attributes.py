"""Set owners, modes, times and extended attributes, as far as the file system and our privileges
permit. No link is followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

#: Errors from setting an unsupported attribute or owner; any other error is a failure.
NOT_POSSIBLE = frozenset({errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL, errno.ENODATA})
#: Attributes that are meaningful only to the overlay that they come from.
_PRIVATE = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")


def is_private(name: str) -> bool:
    """Whether an attribute is meaningful only to the overlay that it comes from."""
    return name.startswith(_PRIVATE)


def listed(fd: int) -> list[str]:
    """The names of an open file's attributes, except those of overlays."""
    try:
        found = os.listxattr(fd)
    except OSError as e:
        if e.errno in NOT_POSSIBLE:
            return []
        raise
    return [name for name in found if not is_private(name)]


def put(fd: int, name: str, value: bytes) -> None:
    """Set an attribute if the file system and our privileges permit it."""
    try:
        os.setxattr(fd, name, value)
    except OSError as e:
        if e.errno not in NOT_POSSIBLE:
            raise


def chown(file: int | str | bytes, uid: int, gid: int, dir_fd: int | None = None) -> None:
    """Give a file to its owner if that is mapped in our user namespace; otherwise it stays ours."""
    try:
        if isinstance(file, int):
            os.fchown(file, uid, gid)
        else:
            os.chown(file, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as e:
        if e.errno not in NOT_POSSIBLE:
            raise


def finish(
    fd: int,
    owner: tuple[int, int] | None,
    values: Iterable[tuple[str, bytes]],
    mode: int,
    times: tuple[int, int],
) -> None:
    """Set an open file's owner, extended attributes, mode and times (ns): the owner first, since
    chown clears setuid and capabilities, the times last."""
    if owner:
        chown(fd, *owner)
    for name, value in values:
        put(fd, name, value)
    os.fchmod(fd, mode)
    os.utime(fd, ns=times)


def finish_special(
    at: int,
    name: str | bytes,
    owner: tuple[int, int] | None,
    mode: int | None,
    times: tuple[int, int],
) -> None:
    """Set the owner, mode and times of a FIFO or a device, which cannot be opened, or of a link,
    which has no mode."""
    if owner:
        chown(name, *owner, at)
    if mode is not None:
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            if not stat.S_ISLNK(os.fstat(node).st_mode):  # it has just been replaced
                # chmod does not accept an O_PATH descriptor, but its name in /proc (open(2)).
                os.chmod(f"/proc/self/fd/{node}", mode)
        finally:
            os.close(node)
    os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)
