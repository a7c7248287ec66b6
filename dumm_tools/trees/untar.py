"""Unpack an archive of unknown origin into a directory, and nowhere else.

Each name is resolved from the directory's own descriptor without following links, so `..`, an
absolute name, or a link planted earlier in the archive cannot lead out. An archive that tries is
refused as a whole. Names are bytes and need not be UTF-8.

A layer of a container image goes upon the layers below: there, members replace what has their name,
and the directories above them may be links of an earlier layer, which are resolved as in a guest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from dumm_tools.errors import DummError
from dumm_tools.model import Record
from dumm_tools.trees import attributes, cpio, decompress, formats, tarball, tree

Report = Callable[[str], None]
Parts = tuple[bytes, ...]
Archive = tarball.Archive | cpio.Archive

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 64 << 10
_ZEROS = bytes(_CHUNK)
_XATTR = "SCHILY.xattr."
_NONE = "is not a tar archive"
#: Data kept for a directory in addition to its path: lengths, mode, owner, time.
_RECORD = struct.Struct("=IHIIQ")
_DIRECTORIES_MAX = 16 << 20
_DEEPEST = 300
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OverflowError, ValueError, UnicodeError)


class Limits(NamedTuple):
    """Bounds for the contents of an archive that is not trusted with more: bytes of all files,
    holes included, and the number of members. Its files become ours, without privileges."""

    size: int
    entries: int


class _Job(Record):
    """The unpacking of one archive. `parent` caches the last directory used."""

    top: int
    own: bool
    directories: bytearray
    limits: Limits | None = None
    is_layer: bool = False
    parent: tuple[Parts, int] | None = None
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
) -> int:
    """Unpack an archive, compressed or not, from a stream that need not be seekable.

    Modes, times, hard links, holes and attributes are preserved, and owners for root, unless there
    are `limits`. Device nodes and other special members are skipped; their number is returned. A
    layer goes `upon` existing files; members of it for whose names this is true are skipped, too.
    DummError names `label` if the archive is damaged, ends too early, exceeds the limits, or would
    write outside the directory.
    """
    top = os.open(target, _DIRECTORY)
    own = os.geteuid() == 0 and limits is None
    job = _Job(top, own, bytearray(), limits, upon is not None)
    total = 0

    def unpack(archive: Archive, member: tarfile.TarInfo) -> None:
        nonlocal total
        total += member.size
        if limits and (total > limits.size or job.entries >= limits.entries):
            raise DummError(f"'{label}' is too large")
        if upon is None or not upon(member.name):
            _entry(job, archive, member)
        if progress and job.entries % 100 == 0:
            progress(f"{job.entries} files, {job.bytes >> 20} MB")

    try:
        if _members(source, label, unpack) == 0 and not job.is_layer:
            raise DummError(f"'{label}' is empty")
        _finish_directories(job)
    finally:
        _forget_parent(job)
        os.close(top)
    return job.left_aside


def read(source: BinaryIO, label: str, see: Callable[[tarfile.TarInfo], None]) -> str:
    """Look at the members of an archive; return the SHA-256 of the archive without its
    compression."""
    import hashlib

    digest = hashlib.sha256()
    _members(source, label, lambda _, member: see(member), digest.update)
    return digest.hexdigest()


def _members(
    source: BinaryIO,
    label: str,
    take: Callable[[Archive, tarfile.TarInfo], None],
    observe: Callable[[bytes], None] | None = None,
) -> int:
    """Call `take` for all members of an archive, and `observe` with its bytes; return their number.
    DummError if the archive is damaged or ends too early."""
    entries = 0
    try:
        with decompress.plain(source, label) as stream:
            archive = formats.archive(decompress.observed(stream, observe), label)
            while (member := archive.next()) is not None:
                entries += 1
                take(archive, member)
            if not archive.ended:
                why = "ends too early" if entries else _NONE
                raise DummError(f"'{label}' {why}")
            if not _drain(archive.rest()):
                raise DummError(
                    f"'{label}' continues after its end: is it several archives in one?"
                )
    except _DAMAGE as e:
        text = str(e) or type(e).__name__
        damaged = entries or isinstance(e, tarball.Damaged)
        raise DummError(f"'{label}' {f'is damaged: {text}' if damaged else _NONE}") from None
    except OSError as e:
        if (
            e.errno is None or type(e).__module__ == "gzip"
        ):  # raised by gzip and bz2 for corrupt data
            raise DummError(f"'{label}' is damaged: {e}") from None
        raise
    return entries


def _drain(stream: BinaryIO) -> bool:
    """Read to the end, which verifies checksums and lets a writing process finish. Return whether
    there was nothing but zeros."""
    zeros = True
    while data := stream.read(_CHUNK):
        zeros = zeros and data == _ZEROS[: len(data)]
    return zeros


def _entry(job: _Job, archive: Archive, member: tarfile.TarInfo) -> None:
    parts = _parts(job, member.name)
    job.entries += 1
    try:
        if member.isdir():
            if job.is_layer and parts:
                _replace_by_directory(_directory(job, parts[:-1]), parts[-1])
                _forget_parent(job)
            fd = _directory(job, parts)
            for name, value in _xattrs(job, member):
                attributes.put(fd, name, value)
            _remember(job, parts, member)
            return
        if not parts:
            raise DummError("the archive's root is not a directory")
        special = member.isfifo() and job.limits is None
        if not (member.isreg() or member.issym() or member.islnk() or special):
            job.left_aside += 1
            return
        at = _directory(job, parts[:-1])
        if member.islnk():
            _hard_link(job, parts, member)
            return
        _clear(job, at, parts[-1])
        if member.isreg():
            _file(job, archive, member, at, parts[-1])
            return
        if member.issym():
            os.symlink(_bytes(member.linkname), parts[-1], dir_fd=at)
        else:
            os.mkfifo(parts[-1], 0o600, dir_fd=at)
        owner = _owner(job, member.uid, member.gid)
        mode = None if member.issym() else _mode(job, member)
        attributes.finish_special(at, parts[-1], owner, mode, _times(member))
    except OSError as e:
        if e.errno is not None:
            e.filename = member.name
        raise


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def parts(name: str) -> Parts:
    """The components of a member's name in a layer; DummError if it leads elsewhere."""
    found = tuple(p for p in _bytes(name).split(b"/") if p not in (b"", b"."))
    if len(found) > _DEEPEST:
        raise DummError(f"directories are nested too deeply: '{name[:60]}...'")
    if b".." in found:
        raise DummError(f"refused: a name in the archive leads out of it, {name!r}")
    return found


def _parts(job: _Job, name: str) -> Parts:
    """The components of a member's name; in a layer, an absolute one begins at its top."""
    if name.startswith("/") and not job.is_layer:
        raise DummError(f"refused: the archive has an absolute name, {name!r}")
    return parts(name)


def _directory(job: _Job, parts: Parts, make: bool = True) -> int:
    """A descriptor of the directory `parts`, created if missing; the job owns it."""
    if job.parent and job.parent[0] == parts:
        return job.parent[1]
    if job.is_layer:
        found = _directory_in_layer(job, parts, make)
        _forget_parent(job)
        job.parent = (parts, found)
        return found
    at = os.dup(job.top)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=at)
            below = os.open(part, _DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
    except OSError as e:
        os.close(at)
        if e.errno in (errno.ENOTDIR, errno.ELOOP):
            where = os.fsdecode(b"/".join(parts))
            raise DummError(
                f"refused: {where!r} is used as a directory in the archive, but is a link or file"
            ) from None
        raise
    _forget_parent(job)
    job.parent = (parts, at)
    return at


def _directory_in_layer(job: _Job, parts: Parts, make: bool) -> int:
    """Likewise in a layer: links of the layers below it are resolved as in a guest."""
    from dumm_tools.linux import openat2

    def resolved(path: Parts) -> int:
        text = os.fsdecode(b"/".join(path)) or "."
        return openat2.open_in_root(job.top, text, os.O_RDONLY | os.O_DIRECTORY)

    try:
        return resolved(parts)
    except OSError:
        if not make:
            raise
    at = resolved(())
    for number, part in enumerate(parts, 1):
        try:
            below = resolved(parts[:number])
        except OSError:
            _replace_by_directory(at, part)
            os.mkdir(part, 0o755, dir_fd=at)
            below = os.open(part, _DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    return at


def _replace_by_directory(at: int, name: bytes) -> None:
    """Remove anything but a directory that a lower layer has under this name."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=at)


def _forget_parent(job: _Job) -> None:
    if job.parent:
        os.close(job.parent[1])
        job.parent = None


def _clear(job: _Job, at: int, name: bytes) -> None:
    """Make way for a member that occurs again; nothing is ever written through an old one."""
    if job.is_layer:
        tree.remove_at(at, os.fsdecode(name))
        return
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        raise DummError(
            f"refused: {os.fsdecode(name)!r} is a directory in the archive, then something else"
        ) from None


def _hard_link(job: _Job, parts: Parts, member: tarfile.TarInfo) -> None:
    first = _parts(job, member.linkname)
    if first == parts or not first:
        return
    missing = DummError(
        f"refused: {member.name!r} is a link to {member.linkname!r}, which is not in the archive"
    )
    try:
        origin = os.dup(_directory(job, first[:-1], make=False))
    except FileNotFoundError:
        raise missing from None
    try:
        if stat.S_ISDIR(os.stat(first[-1], dir_fd=origin, follow_symlinks=False).st_mode):
            raise DummError(f"refused: {member.name!r} is a hard link to a directory")
        at = _directory(job, parts[:-1])
        _clear(job, at, parts[-1])
        os.link(first[-1], parts[-1], src_dir_fd=origin, dst_dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        raise missing from None
    finally:
        os.close(origin)


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
        if not attributes.is_private(name):
            yield name, _bytes(value)


def _times(member: tarfile.TarInfo) -> tuple[int, int]:
    at = int(min(max(member.mtime, 0), 1 << 33) * 1_000_000_000)
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
        fd = _directory(job, tuple(filter(None, path.split(b"/"))))
        attributes.finish(fd, _owner(job, uid, gid), (), mode, (time, time))
