"""What a stack of directories means: what is there, what was deleted, what hides what is below.

As overlayfs has it (Documentation/filesystems/overlayfs.rst in the kernel): a character device
0:0 in an upper layer deletes a name of the layers below, and a directory marked as opaque hides
all that is below it. fuse-overlayfs has files for both as well. Names are bytes, and everything
goes by directory descriptors.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NONE = frozenset({errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES})
#: What the names of fuse-overlayfs' notes begin with.
PREFIX = b".wh."
_OPAQUE_FILE = b".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Marks:
    """How a driver marks opaque directories, and whether files named `.wh.NAME` are marks."""

    opaque: tuple[str, ...]
    files: bool = False


#: overlayfs as root mounts it, ...
KERNEL = Marks(("trusted.overlay.opaque",))
#: ... overlayfs with `userxattr`, ...
USER = Marks(("user.overlay.opaque",))
#: ... and fuse-overlayfs, which understands them all.
FUSE = Marks((*KERNEL.opaque, *USER.opaque, "user.fuseoverlayfs.opaque"), files=True)


def is_whiteout(info: os.stat_result) -> bool:
    """Does it stand for a name that was deleted?"""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_mark(name: bytes, marks: Marks) -> bool:
    """Is it not a file of the layer's but a note of the driver's?"""
    return marks.files and name.startswith(PREFIX)


def is_opaque(fd: int, marks: Marks) -> bool:
    """Does the directory hide what is below it?"""
    for name in marks.opaque:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError as e:
            if e.errno not in _NONE:
                raise
    return marks.files and _stat(fd, _OPAQUE_FILE) is not None


def make_opaque(fd: int, marks: Marks) -> None:
    """Have a directory hide what is below it, for the kernel's overlayfs as well. OSError where
    that cannot be noted: the layer would mean something else."""
    for name in marks.opaque:
        try:
            os.setxattr(fd, name, b"y")
            return
        except PermissionError:  # trusted ones are not for a user namespace
            if name == marks.opaque[-1]:
                raise


def deleted_names(names: Sequence[bytes], marks: Marks) -> set[bytes]:
    """The names that files of the kind `.wh.NAME` in a directory delete."""
    if not marks.files:
        return set()
    return {n[len(PREFIX) :] for n in names if n.startswith(PREFIX) and n[4:8] != PREFIX}


def _stat(at: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def open_directory(at: int, name: bytes) -> int:
    """Open a directory in a directory, never through a link."""
    return os.open(name, _DIRECTORY, dir_fd=at)


class Directory:
    """A directory as several layers together show it: their descriptors, the top first.

    One without any is an empty directory. It closes its descriptors.
    """

    __slots__ = ("_marks", "fds")

    def __init__(self, fds: Sequence[int], marks: Marks) -> None:
        self.fds = list(fds)
        self._marks = marks

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds:
            os.close(fd)

    @classmethod
    def open(cls, paths: Sequence[str], marks: Marks) -> Directory:
        """The root of a stack of layers, the top first."""
        merged = cls([], marks)
        try:
            for path in paths:
                merged.fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                if is_opaque(merged.fds[-1], marks):
                    break
        except BaseException:
            merged.__exit__()
            raise
        return merged

    def names(self) -> set[bytes]:
        """All that is there."""
        shown: set[bytes] = set()
        hidden: set[bytes] = set()
        for fd in self.fds:
            found = [os.fsencode(n) for n in os.listdir(fd)]
            for name in found:
                if name in hidden or name in shown or is_mark(name, self._marks):
                    continue
                info = _stat(fd, name)
                if info is not None:
                    (hidden if is_whiteout(info) else shown).add(name)
            hidden |= deleted_names(found, self._marks) - shown
        return shown

    def look(self, name: bytes) -> tuple[int, os.stat_result] | None:
        """The layer's directory that has `name` for us, and what it is there; None if nothing."""
        for fd in self.fds:
            info = _stat(fd, name)
            if info is not None:
                return None if is_whiteout(info) else (fd, info)
            if self._marks.files and _stat(fd, PREFIX + name) is not None:
                return None
        return None

    def below(self, name: bytes) -> Directory:
        """The directory `name` as the layers show it; empty where it is none."""
        merged = Directory([], self._marks)
        try:
            for fd in self.fds:
                info = _stat(fd, name)
                if info is not None and not stat.S_ISDIR(info.st_mode):
                    break
                if info is not None:
                    merged.fds.append(open_directory(fd, name))
                    if is_opaque(merged.fds[-1], self._marks):
                        break
                elif self._marks.files and _stat(fd, PREFIX + name) is not None:
                    break
        except BaseException:
            merged.__exit__()
            raise
        return merged
