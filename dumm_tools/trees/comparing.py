"""Whether one tree is a copy of another."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from dumm_tools.errors import DummError
from dumm_tools.trees import diff, layer

_DEEPEST = 300
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def difference(
    one: str, other: str, *, owners: bool = True, skip: tuple[str, ...] = (), unit: int = 1
) -> bytes | None:
    """The first path, relative to both directories, that is not the same in them; None if there is
    none. A missing directory counts as an empty one. Sockets and devices, which copies skip, do not
    count, and neither do the two directories' own attributes, the contents of what is mounted in
    the first one, and directories in `skip`. Times are compared in the `unit` (ns)."""
    fds = [_opened(one), _opened(other)]
    skipped = frozenset((s.st_dev, s.st_ino) for s in map(os.stat, skip))
    device = os.fstat(fds[0]).st_dev if fds[0] is not None else 0
    try:
        return _inside(_Place(fds[0], fds[1], b""), _How(owners, device, skipped, unit))
    finally:
        for fd in fds:
            if fd is not None:
                os.close(fd)


def _opened(path: str) -> int | None:
    try:
        return os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return None


def _entries(fd: int | None) -> dict[bytes, os.stat_result]:
    if fd is None:
        return {}
    found = {}
    for name in map(os.fsencode, os.listdir(fd)):
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:  # a guest is running
            continue
        if not _is_skipped(info):
            found[name] = info
    return found


def _is_skipped(info: os.stat_result) -> bool:
    mode = info.st_mode
    device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return stat.S_ISSOCK(mode) or (device and not layer.is_whiteout(info))


class _How(NamedTuple):
    """Whether owners are compared, the device of the first tree, inodes that are left out, and the
    unit of times."""

    owners: bool
    device: int
    skipped: frozenset[tuple[int, int]]
    unit: int


class _Place(NamedTuple):
    """A directory in both trees, None where it is missing, and its path."""

    one: int | None
    other: int | None
    path: bytes


def _inside(at: _Place, how: _How) -> bytes | None:
    if at.path.count(b"/") > _DEEPEST:
        raise DummError(f"directories are nested too deeply: '{os.fsdecode(at.path[:60])}...'")
    here, there = _entries(at.one), _entries(at.other)
    for name in sorted({*here, *there}):
        a, b = here.get(name), there.get(name)
        where = at.path + b"/" + name
        if a is not None and (a.st_dev, a.st_ino) in how.skipped:
            continue
        if a is None or b is None or at.one is None or at.other is None:
            return where
        if stat.S_ISDIR(a.st_mode) != stat.S_ISDIR(b.st_mode):
            return where
        if not stat.S_ISDIR(a.st_mode):
            if diff.file_differs(at.one, at.other, name, a, b, owners=how.owners, unit=how.unit):
                return where
            continue
        fds = layer.open_directory(at.one, name), layer.open_directory(at.other, name)
        try:
            if diff.directory_differs(*fds, owners=how.owners):
                return where
            found = _inside(_Place(*fds, where), how) if a.st_dev == how.device else None
        finally:
            for fd in fds:
                os.close(fd)
        if found is not None:
            return found
    return None
