"""Unpack an archive of unknown origin into a directory, and nowhere else (`within`)."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from dumm_tools.errors import DummError
from dumm_tools.model import Record
from dumm_tools.trees import attributes, layer, members, tarball, within
from dumm_tools.trees.members import Archive
from dumm_tools.trees.within import Parts, Target

Report = Callable[[str], None]

_CHUNK = 64 << 10
_ZEROS = bytes(_CHUNK)
_XATTR = "SCHILY.xattr."
#: Data kept for a directory in addition to its path: lengths, mode, owner, time.
_RECORD = struct.Struct("=IHIIQ")
_DIRECTORIES_MAX = 16 << 20
_OPAQUE = f"{_XATTR}{layer.KERNEL.opaque[0]}"
#: Decides about each member of an archive before it is unpacked.
Guard = Callable[[Archive, tarfile.TarInfo], bool]


class Limits(NamedTuple):
    """Bounds for the contents of an archive that is not trusted with more: bytes of all files,
    holes included, and the number of members. Its files become ours, without privileges."""

    size: int
    entries: int


class _Job(Record):
    """The unpacking of one archive."""

    target: Target
    own: bool
    directories: bytearray
    limits: Limits | None = None
    marks: layer.Marks | None = None
    left_aside: int = 0
    entries: int = 0
    bytes: int = 0


def extract(
    source: BinaryIO,
    label: str,
    target: str,
    progress: Report | None = None,
    limits: Limits | None = None,
    upon: Callable[[str], bool] | None = None,
    marks: layer.Marks | None = None,
    guard: Guard | None = None,
) -> int:
    """Unpack an archive, compressed or not, from a stream that need not be seekable.

    Modes, times, hard links, holes and attributes are preserved, and owners for root, unless there
    are `limits`. Device nodes and other special members are skipped; their number is returned. A
    layer goes `upon` existing files; members of it for whose names this is true are skipped, too.
    With `marks`, deleted names and opaque directories are marked in this way; in the archive they
    are as root's overlayfs has them. Members that the `guard` does not want are skipped as well.
    DummError names `label` if the archive is damaged, ends too early, exceeds the limits, or would
    write outside the directory.
    """
    top = os.open(target, within.DIRECTORY)
    own = os.geteuid() == 0 and limits is None
    job = _Job(Target(top, upon is not None), own, bytearray(), limits, marks)
    total = 0

    def unpack(archive: Archive, member: tarfile.TarInfo) -> None:
        nonlocal total
        total += member.size
        if limits and (total > limits.size or job.entries >= limits.entries):
            raise DummError(f"'{label}' is too large")
        if not (upon and upon(member.name)) and (guard is None or guard(archive, member)):
            _entry(job, archive, member)
        if progress and job.entries % 100 == 0:
            progress(f"{job.entries} files, {job.bytes >> 20} MB")

    try:
        if members.each(source, label, unpack) == 0 and not job.target.is_layer:
            raise DummError(f"'{label}' is empty")
        _finish_directories(job)
    finally:
        within.forget(job.target)
        os.close(top)
    return job.left_aside


def _entry(job: _Job, archive: Archive, member: tarfile.TarInfo) -> None:
    parts = within.parts_in(job.target, member.name)
    job.entries += 1
    try:
        if member.isdir():
            if job.target.is_layer and parts:
                at = within.directory(job.target, parts[:-1])
                within.replace_by_directory(at, parts[-1])
                within.forget(job.target)
            fd = within.directory(job.target, parts)
            for name, value in _xattrs(job, member):
                attributes.put(fd, name, value)
            if job.marks and member.pax_headers.get(_OPAQUE) == "y":
                layer.make_opaque(fd, job.marks)
            _remember(job, parts, member)
            return
        if not parts:
            raise DummError("the archive's root is not a directory")
        if job.marks and member.ischr() and (member.devmajor, member.devminor) == (0, 0):
            at = within.directory(job.target, parts[:-1])
            within.clear(job.target, at, parts[-1])
            os.mknod(parts[-1], stat.S_IFCHR, dir_fd=at)
            return
        special = member.isfifo() and job.limits is None
        if not (member.isreg() or member.issym() or member.islnk() or special):
            job.left_aside += 1
            return
        at = within.directory(job.target, parts[:-1])
        if member.islnk():
            within.hard_link(job.target, parts, member)
            return
        within.clear(job.target, at, parts[-1])
        if member.isreg():
            _file(job, archive, member, at, parts[-1])
            return
        if member.issym():
            os.symlink(within.encoded(member.linkname), parts[-1], dir_fd=at)
        else:
            os.mkfifo(parts[-1], 0o600, dir_fd=at)
        owner = _owner(job, member.uid, member.gid)
        mode = None if member.issym() else _mode(job, member)
        attributes.finish_special(at, parts[-1], owner, mode, _times(member))
    except OSError as e:
        if e.errno is not None:
            e.filename = member.name
        raise


def _file(job: _Job, archive: Archive, member: tarfile.TarInfo, at: int, name: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=at)
    try:
        # The archive contains only the pieces: a hole, which may be larger than any disk, takes
        # no time.
        pieces = [(0, member.size)] if archive.pieces is None else archive.pieces
        for start, size in pieces:
            os.lseek(fd, start, os.SEEK_SET)
            _data(archive, size, fd)
            job.bytes += size
        os.ftruncate(fd, member.size)
        owner = _owner(job, member.uid, member.gid)
        attributes.finish(fd, owner, _xattrs(job, member), _mode(job, member), _times(member))
    finally:
        os.close(fd)


def _data(archive: Archive, size: int, fd: int) -> None:
    while size:
        chunk = archive.read(min(size, _CHUNK))
        if not chunk:
            raise tarball.Damaged("unexpected end of data")
        size -= len(chunk)
        if chunk == _ZEROS:
            os.lseek(fd, len(chunk), os.SEEK_CUR)
            continue
        while chunk:
            chunk = chunk[os.write(fd, chunk) :]


def _owner(job: _Job, uid: int, gid: int) -> tuple[int, int] | None:
    return (uid, gid) if job.own else None


def _mode(job: _Job, member: tarfile.TarInfo) -> int:
    if job.limits is not None:
        return 0o755 if member.mode & 0o111 or member.isdir() else 0o644
    return member.mode & 0o7777


def _xattrs(job: _Job, member: tarfile.TarInfo) -> Iterator[tuple[str, bytes]]:
    for key, value in () if job.limits is not None else member.pax_headers.items():
        name = key.removeprefix(_XATTR)
        if name != key and not attributes.is_private(name):
            yield name, within.encoded(value)


def _times(member: tarfile.TarInfo) -> tuple[int, int]:
    at = int(min(max(member.mtime, 0), 1 << 33)) * 1_000_000_000
    if 0 < member.mtime < 1 << 33:  # exactly: a float has too few digits
        at += int(f"{member.pax_headers.get('mtime', '').partition('.')[2]:0<9.9}")
    return at, at


def _remember(job: _Job, parts: Parts, member: tarfile.TarInfo) -> None:
    """Keep a directory's owner, mode and time, packed, until everything is unpacked."""
    path = b"/".join(parts)
    numbers = (_mode(job, member), member.uid, member.gid, _times(member)[0])
    job.directories += _RECORD.pack(len(path), *numbers) + path
    if len(job.directories) > _DIRECTORIES_MAX:
        raise DummError("the archive has too many directories")


def _finish_directories(job: _Job) -> None:
    """Set the modes and times of directories, deepest first, since they may forbid access."""
    places, at = [], 0
    while at < len(job.directories):
        size, *_ = _RECORD.unpack_from(job.directories, at)
        places.append((_RECORD.size + at, size))
        at += _RECORD.size + size

    def depth(place: tuple[int, int]) -> int:
        start, size = place
        return job.directories.count(b"/", start, start + size) + (size > 0)

    places.sort(key=depth, reverse=True)
    for start, size in places:
        _, mode, uid, gid, time = _RECORD.unpack_from(job.directories, start - _RECORD.size)
        path = bytes(job.directories[start : start + size])
        fd = within.directory(job.target, tuple(filter(None, path.split(b"/"))))
        attributes.finish(fd, _owner(job, uid, gid), (), mode, (time, time))
