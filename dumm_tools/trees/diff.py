"""Changes in the top layer of a stack relative to the layers below it."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from dumm_tools.errors import DummError
from dumm_tools.trees import attributes, layer

Kind = Literal["A", "M", "D"]
_DEEPEST = 300
_CHUNK = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Files that disappear during the comparison are not an error.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})


class Change(NamedTuple):
    """A path that was added, modified or deleted; absolute, as in the guest."""

    kind: Kind
    path: bytes


def changes(top: str | int, lower: Sequence[str | int], marks: layer.Marks) -> list[Change]:
    """The changes in the directory `top` relative to the stack `lower`, sorted by path. Each is a
    path or a descriptor.

    A deleted directory is listed together with everything that was in it, and so is one that was
    replaced with another type of file. A file that was only copied up to the top layer is not a
    change, and neither is the time of a directory, which changes with its contents.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # several descriptors for each level of directories
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        upper = layer.opened(top)
    except FileNotFoundError:
        return []
    try:
        with layer.Directory.open(lower, marks) as below:
            found = list(
                _inside(_Place(upper, below, marks, b"", 0, layer.is_opaque(upper, marks)))
            )
            if below.fds and directory_differs(upper, below.fds[0]):
                found.append(Change("M", b"/"))
    finally:
        os.close(upper)
    return sorted(found, key=lambda c: c.path)


class _Place(NamedTuple):
    """A directory of the top layer, the directories below it in the stack, and its path. If it
    hides those, so does each directory in it."""

    fd: int
    below: layer.Directory
    marks: layer.Marks
    path: bytes
    depth: int
    hides: bool


def _inside(here: _Place) -> Iterator[Change]:
    if here.depth > _DEEPEST:
        raise DummError(f"directories are nested too deeply: '{os.fsdecode(here.path[:60])}...'")
    names = [os.fsencode(n) for n in os.listdir(here.fd)]
    gone = layer.deleted_names(names, here.marks)
    if here.hides:
        gone |= here.below.names()
    gone.difference_update(names)
    for name in gone:
        yield from _deleted(here.below, name, here.path, here.depth)
    for name in names:
        if layer.is_mark(name, here.marks):
            continue
        try:
            yield from _entry(here, name)
        except OSError as e:
            if e.errno not in _GONE:
                e.filename = os.fsdecode(here.path + b"/" + name)
                raise


def _entry(here: _Place, name: bytes) -> Iterator[Change]:
    path = here.path + b"/" + name
    info = os.stat(name, dir_fd=here.fd, follow_symlinks=False)
    if layer.is_whiteout(info):
        yield from _deleted(here.below, name, here.path, here.depth)
        return
    old = here.below.look(name)
    if stat.S_ISDIR(info.st_mode):
        fd = layer.open_directory(here.fd, name)
        try:
            if old is None:
                yield Change("A", path)
            elif not stat.S_ISDIR(old[1].st_mode):
                yield Change("M", path)
            with here.below.below(name) as below:
                if below.fds and directory_differs(fd, below.fds[0]):
                    yield Change("M", path)
                hides = here.hides or layer.is_opaque(fd, here.marks)
                yield from _inside(_Place(fd, below, here.marks, path, here.depth + 1, hides))
        finally:
            os.close(fd)
    elif old is None:
        yield Change("A", path)
    elif stat.S_ISDIR(old[1].st_mode):
        yield Change("M", path)
        with here.below.below(name) as below:
            yield from _all(below, path, here.depth + 1)
    elif file_differs(here.fd, old[0], name, info, old[1]):
        yield Change("M", path)


def _deleted(below: layer.Directory, name: bytes, path: bytes, depth: int) -> Iterator[Change]:
    """`name` and everything in it, if it exists at all."""
    found = below.look(name)
    if found is None:
        return
    yield Change("D", path + b"/" + name)
    if stat.S_ISDIR(found[1].st_mode):
        with below.below(name) as inside:
            yield from _all(inside, path + b"/" + name, depth + 1)


def _all(below: layer.Directory, path: bytes, depth: int) -> Iterator[Change]:
    if depth > _DEEPEST:
        raise DummError(f"directories are nested too deeply: '{os.fsdecode(path[:60])}...'")
    for name in below.names():
        yield from _deleted(below, name, path, depth)


def _owner_and_mode(info: os.stat_result, owners: bool) -> tuple[int, ...]:
    return (info.st_mode, info.st_uid, info.st_gid) if owners else (info.st_mode,)


def directory_differs(new: int, old: int, *, owners: bool = True) -> bool:
    """Whether the attributes of two open directories differ, except for their times."""
    a, b = _owner_and_mode(os.fstat(new), owners), _owner_and_mode(os.fstat(old), owners)
    return a != b or _xattrs(b".", new) != _xattrs(b".", old)


def file_differs(
    new_at: int,
    old_at: int,
    name: bytes,
    new: os.stat_result,
    old: os.stat_result,
    *,
    owners: bool = True,
    unit: int = 1,
) -> bool:
    """Whether two files of a name that are not directories differ, their times in this unit (ns).
    Cheap checks come first."""
    same = _owner_and_mode(new, owners) == _owner_and_mode(old, owners)
    if not same or new.st_mtime_ns // unit != old.st_mtime_ns // unit:
        return True
    kind = stat.S_IFMT(new.st_mode)
    if kind == stat.S_IFLNK:
        if os.readlink(name, dir_fd=new_at) != os.readlink(name, dir_fd=old_at):
            return True
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        if new.st_rdev != old.st_rdev:
            return True
    elif kind == stat.S_IFREG and (
        new.st_size != old.st_size or not _same_file(new_at, old_at, name)
    ):
        return True
    return _xattrs(name, new_at) != _xattrs(name, old_at)


def _same_file(new_at: int, old_at: int, name: bytes) -> bool:
    with (
        open(os.open(name, _FILE, dir_fd=new_at), "rb", buffering=0) as new,
        open(os.open(name, _FILE, dir_fd=old_at), "rb", buffering=0) as old,
    ):
        return same_data(new.fileno(), old.fileno())


def same_data(one: int, other: int) -> bool:
    """Whether two open files have the same contents."""
    at = 0
    while True:
        a, b = os.pread(one, _CHUNK, at), os.pread(other, _CHUNK, at)
        if a != b:
            return False
        if not a:
            return True
        at += len(a)


def _xattrs(name: bytes, at: int) -> dict[str, bytes]:
    # Python has no getxattrat(2); a descriptor's name in /proc serves as a prefix.
    path = b"/proc/self/fd/%d/%s" % (at, name)
    try:
        found = os.listxattr(path, follow_symlinks=False)
        return {
            n: os.getxattr(path, n, follow_symlinks=False)
            for n in found
            if not attributes.is_private(n)
        }
    except OSError as e:
        if e.errno in attributes.NOT_POSSIBLE:
            return {}
        raise
