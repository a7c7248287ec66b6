"""A tree as a tar archive (pax) that is the same whenever and by whomever it is made: members are
sorted, belong to root, and have one time and one of two modes."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence

from dumm_tools.errors import DummError

_CHUNK = 1 << 20
_BLOCK = 512
_RECORD = 20 * _BLOCK
#: 2000-01-01. tar(1) calls 0 implausibly old.
TIME = 946684800


def stream(root: str, name: str, skip: Sequence[str] = ()) -> Iterator[bytes]:
    """The bytes of an archive of the directory `root`, as the directory `name` in it. Files other
    than directories, links and regular files are left out, and so are those in `skip`: paths in
    `root`."""
    return ended(tree(root, name, skip))


def tree(root: str, name: str, skip: Sequence[str] = ()) -> Iterator[bytes]:
    """The members of such an archive."""
    skipped = {f"{name}/{path}" for path in skip}
    for path, inside in _paths(root, name):
        if inside not in skipped:
            yield from _member(path, inside)


def ended(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """An archive of these members: they, and the mark of its end."""
    size = 0
    for piece in pieces:
        size += len(piece)
        yield piece
    end = 2 * _BLOCK
    yield bytes(end + -(size + end) % _RECORD)


def text(name: str, data: bytes) -> Iterator[bytes]:
    """A regular file with these contents."""
    member = _header(name, 0o644)
    member.size = len(data)
    yield encoded(member)
    yield data
    yield bytes(-len(data) % _BLOCK)


def directory(name: str) -> Iterator[bytes]:
    """A directory."""
    member = _header(name, 0o755)
    member.type = tarfile.DIRTYPE
    yield encoded(member)


def _paths(root: str, name: str) -> Iterator[tuple[str, str]]:
    yield root, name
    with os.scandir(root) as entries:
        found = sorted(entries, key=lambda e: os.fsencode(e.name))
    for entry in found:
        inside = f"{name}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _paths(entry.path, inside)
        else:
            yield entry.path, inside


def _member(path: str, name: str) -> Iterator[bytes]:
    info = os.lstat(path)
    if stat.S_ISREG(info.st_mode):
        yield from _file(path, name)
        return
    member = _header(name, info.st_mode)
    if stat.S_ISDIR(info.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    elif stat.S_ISLNK(info.st_mode):
        member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, os.readlink(path)
    else:
        return
    yield encoded(member)


def _file(path: str, name: str) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        member = _header(name, info.st_mode)
        member.size = left = info.st_size
        yield encoded(member)
        while left:
            piece = os.read(fd, min(left, _CHUNK))
            if not piece:
                raise DummError(f"'{path}' has been truncated meanwhile")
            left -= len(piece)
            yield piece
        yield bytes(-info.st_size % _BLOCK)
    finally:
        os.close(fd)


def _header(name: str, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mtime = TIME
    member.mode = 0o755 if mode & 0o111 else 0o644
    return member


def encoded(member: tarfile.TarInfo) -> bytes:
    """The blocks of a member before its data."""
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
