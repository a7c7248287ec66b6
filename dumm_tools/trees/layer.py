"""The meaning of a stack of layers: which files exist, and which are deleted or hidden.

Same rules as overlayfs (Documentation/filesystems/overlayfs.rst in the kernel): a character device
0:0 in an upper layer deletes a name from the layers below, and a directory marked as opaque hides
everything below it. fuse-overlayfs can use files for both. Names are bytes, and all access is by
directory descriptors.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NONE = frozenset({errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES})
#: Prefix of the names of fuse-overlayfs' marker files.
PREFIX = b".wh."
_OPAQUE_FILE = b".wh..wh..opq"


class Marks(NamedTuple):
    """How a driver marks opaque directories, and whether files named `.wh.NAME` are marks."""

    opaque: tuple[str, ...]
    files: bool = False


#: overlayfs as mounted by root, ...
KERNEL = Marks(("trusted.overlay.opaque",))
#: ... overlayfs with `userxattr`, ...
USER = Marks(("user.overlay.opaque",))
#: ... and fuse-overlayfs, which understands them all.
FUSE = Marks((*KERNEL.opaque, *USER.opaque, "user.fuseoverlayfs.opaque"), files=True)


def is_whiteout(info: os.stat_result) -> bool:
    """Whether a file stands for a deleted name."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_mark(name: bytes, marks: Marks) -> bool:
    """Whether a name is that of a driver's marker rather than a file of the layer."""
    return marks.files and name.startswith(PREFIX)


def is_opaque(fd: int, marks: Marks) -> bool:
    """Whether the directory hides everything below it."""
    for name in marks.opaque:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError as e:
            if e.errno not in _NONE:
                raise
    return marks.files and _stat(fd, _OPAQUE_FILE) is not None


def make_opaque(fd: int, marks: Marks) -> None:
    """Make a directory hide everything below it, also for the kernel's overlayfs. OSError if that
    cannot be recorded, since the layer would then mean something else."""
    for name in marks.opaque:
        try:
            os.setxattr(fd, name, b"y")
            return
        except PermissionError:  # trusted attributes are not available in a user namespace
            if name == marks.opaque[-1]:
                raise


def deleted_names(names: Sequence[bytes], marks: Marks) -> set[bytes]:
    """The names deleted by files named `.wh.NAME` in a directory."""
    if not marks.files:
        return set()
    return {n[len(PREFIX) :] for n in names if n.startswith(PREFIX) and n[4:8] != PREFIX}


def _stat(at: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def open_directory(at: int, name: bytes) -> int:
    """Open a subdirectory, never through a link."""
    return os.open(name, _DIRECTORY, dir_fd=at)


def opened(place: str | int) -> int:
    """Open a layer's directory, given by its path or a descriptor. OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    return os.open(place, flags) if isinstance(place, str) else os.open(".", flags, dir_fd=place)


class Directory:
    """A directory as merged from several layers: their descriptors, top first.

    Without any descriptors it is an empty directory. It closes its descriptors.
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
    def open(cls, stack: Sequence[str | int], marks: Marks) -> Directory:
        """Open the root of a stack of layers, top first: paths, or descriptors, which stay the
        caller's."""
        merged = cls([], marks)
        try:
            for each in stack:
                merged.fds.append(opened(each))
                if is_opaque(merged.fds[-1], marks):
                    break
        except BaseException:
            merged.__exit__()
            raise
        return merged

    def names(self) -> set[bytes]:
        """All names in it."""
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
        """The layer's directory that provides `name`, and its status; None if it does not exist."""
        for fd in self.fds:
            info = _stat(fd, name)
            if info is not None:
                return None if is_whiteout(info) else (fd, info)
            if self._marks.files and _stat(fd, PREFIX + name) is not None:
                return None
        return None

    def below(self, name: bytes) -> Directory:
        """The directory `name` as merged from the layers; empty if it is not a directory."""
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
