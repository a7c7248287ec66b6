"""The members of a tar archive for a layer of a guest: sorted, and with everything that makes a
file what it is: owners, modes, times, hard links, holes, extended attributes, and the marks of
deleted names and opaque directories, in the form of the kernel's overlayfs (character devices 0:0
and trusted.overlay.opaque), whatever their form in the layer.

All access is by descriptors, never through a link: a guest may be changing the layer meanwhile.
The holes of an archived file are its zeros, so that a file that is unpacked and archived again
gives the same member, whatever its file system makes of them.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator

from dumm_tools.model import Record
from dumm_tools.trees import attributes, layer, tarring
from dumm_tools.trees.tarball import PIECES_MAX

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_XATTR = "SCHILY.xattr."
#: As deep as `within` unpacks.
_DEEPEST = 300
_BLOCK = 512
_CHUNK = 64 << 10
_ZEROS = bytes(_CHUNK)
#: How often a small file is read until it does not change meanwhile.
_ATTEMPTS = 5
_TIME_MAX = 1 << 33
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})


def _nothing(_: str) -> None:
    """Report nothing."""


class Reading(Record):
    """How a layer is read. Devices, sockets and files that are nested too deeply are reported to
    `left_out`, files that changed while they were read to `changed`."""

    marks: layer.Marks = layer.KERNEL
    left_out: Callable[[str], None] = _nothing
    changed: Callable[[str], None] = _nothing
    #: Opens the layer, and files outside of layers.
    open: Callable[[str, int], int] = os.open
    device: int = 0
    #: The first name of each file that has several, by (device, inode).
    links: dict[tuple[int, int], str] = {}


def members(root: str, name: str, how: Reading) -> Iterator[bytes]:
    """The directory `root` as the directory `name`. File systems mounted in it are left out."""
    fd = how.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _directory(how.but(device=os.fstat(fd).st_dev, links={}), fd, name)
    finally:
        os.close(fd)


def plain_file(path: str, name: str, how: Reading, mode: int | None = 0o600) -> Iterator[bytes]:
    """A regular file outside of layers, as ours, and without its attributes; with its own mode if
    `mode` is None."""
    fd = how.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        member = tarfile.TarInfo(name)
        member.mode = stat.S_IMODE(info.st_mode) if mode is None else mode
        _set_time(member, info)
        yield from _contents(how, fd, member)
    finally:
        os.close(fd)


def _directory(how: Reading, fd: int, name: str) -> Iterator[bytes]:
    info = os.fstat(fd)
    member = _header(name, info, _xattrs(fd))
    member.type = tarfile.DIRTYPE
    if layer.is_opaque(fd, how.marks):
        _add(member, **{f"{_XATTR}{layer.KERNEL.opaque[0]}": "y"})
    yield tarring.encoded(member)
    if info.st_dev != how.device:
        return
    for entry in sorted(os.listdir(fd), key=os.fsencode):
        inside = f"{name}/{entry}"
        try:
            yield from _entry(how, fd, entry, inside)
        except OSError as e:
            if e.errno not in _GONE:
                e.filename = inside
                raise


def _entry(how: Reading, at: int, entry: str, name: str) -> Iterator[bytes]:
    info = os.stat(entry, dir_fd=at, follow_symlinks=False)
    kind = stat.S_IFMT(info.st_mode)
    if name.count("/") >= _DEEPEST:
        how.left_out(name)
    elif layer.is_whiteout(info):
        yield _whiteout(name)
    elif layer.is_mark(os.fsencode(entry), how.marks):
        deleted = layer.deleted_names([os.fsencode(entry)], how.marks)
        for each in deleted:
            yield _whiteout(f"{name.rpartition('/')[0]}/{os.fsdecode(each)}")
    elif kind == stat.S_IFDIR:
        fd = os.open(entry, _DIRECTORY, dir_fd=at)
        try:
            yield from _directory(how, fd, name)
        finally:
            os.close(fd)
    elif kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO):
        how.left_out(name)
    elif (first := how.links.get((info.st_dev, info.st_ino))) is not None:
        member = _header(name, info, {})
        member.type, member.linkname = tarfile.LNKTYPE, first
        yield tarring.encoded(member)
    else:
        yield from _file(how, at, entry, name, info)
        if info.st_nlink > 1:
            how.links[info.st_dev, info.st_ino] = name


def _file(how: Reading, at: int, entry: str, name: str, info: os.stat_result) -> Iterator[bytes]:
    if not stat.S_ISREG(info.st_mode):
        member = _header(name, info, {})
        member.type = tarfile.FIFOTYPE
        if stat.S_ISLNK(info.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(entry, dir_fd=at)
        yield tarring.encoded(member)
        return
    fd = os.open(entry, _FILE, dir_fd=at)
    try:
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode):
            yield from _contents(how, fd, _header(name, info, _xattrs(fd)))
    finally:
        os.close(fd)


def _contents(how: Reading, fd: int, member: tarfile.TarInfo) -> Iterator[bytes]:
    """A file's header and its data: at most what it has now, even if it grows."""
    before = os.fstat(fd)
    size = before.st_size
    if size <= _CHUNK:
        for _ in range(_ATTEMPTS):
            data = os.pread(fd, _CHUNK, 0)
            after = os.fstat(fd)
            if _same(before, after) and len(data) == after.st_size:
                break
            before = after
        else:
            how.changed(member.name)
        member.size = len(data)
        _set_time(member, before)
        yield tarring.encoded(member)
        yield data
        yield bytes(-len(data) % _BLOCK)
        return
    pieces = _pieces(fd, size)
    done = 0
    if pieces == [(0, size)]:
        member.size = size
        yield tarring.encoded(member)
    else:
        table = _make_sparse(member, pieces, size)
        yield tarring.encoded(member)
        yield table
    for start, length in pieces:
        for at in range(start, start + length, _CHUNK):
            most = min(_CHUNK, start + length - at)
            data = os.pread(fd, most, at)
            yield data.ljust(most, b"\0")  # it may have been truncated meanwhile
            done += most
    yield bytes(-done % _BLOCK)
    if not _same(before, os.fstat(fd)):
        how.changed(member.name)


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def _pieces(fd: int, size: int) -> list[tuple[int, int]]:
    """Where a file has data other than whole chunks of zeros: offsets and lengths."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size and len(found) < PIECES_MAX - 2:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA) // _CHUNK * _CHUNK
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            break  # only a hole is left
        data = os.pread(fd, min(_CHUNK, size - at), at)
        if data != _ZEROS[: len(data)]:
            if found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + min(_CHUNK, size - at))
            else:
                found.append((at, min(_CHUNK, size - at)))
        at += _CHUNK
    else:
        if at < size:
            found.append((at, size - at))
    return found


def _make_sparse(member: tarfile.TarInfo, pieces: list[tuple[int, int]], size: int) -> bytes:
    """Make a member a sparse file (GNU tar, format 1.0 of pax); return the table before its
    data."""
    place, _, base = member.name.rpartition("/")
    sparse = {"major": "1", "minor": "0", "name": member.name, "realsize": str(size)}
    _add(member, **{f"GNU.sparse.{key}": value for key, value in sparse.items()})
    member.name = f"{place}/GNUSparseFile.0/{base}"
    shown = pieces if pieces and sum(pieces[-1]) == size else [*pieces, (size, 0)]
    table = f"{len(shown)}\n".encode() + b"".join(b"%d\n%d\n" % piece for piece in shown)
    table += bytes(-len(table) % _BLOCK)
    member.size = len(table) + sum(length for _, length in pieces)
    return table


def _whiteout(name: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = tarfile.CHRTYPE, 0, tarring.TIME
    return tarring.encoded(member)


def _header(name: str, info: os.stat_result, values: dict[str, bytes]) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode = stat.S_IMODE(info.st_mode)
    member.uid, member.gid = info.st_uid, info.st_gid
    member.pax_headers = {
        f"{_XATTR}{key}": value.decode("utf-8", "surrogateescape")
        for key, value in sorted(values.items())
    }
    _set_time(member, info)
    return member


def _set_time(member: tarfile.TarInfo, info: os.stat_result) -> None:
    whole, rest = divmod(min(max(info.st_mtime_ns, 0), _TIME_MAX * 1_000_000_000), 1_000_000_000)
    member.mtime = whole
    others = {key: value for key, value in member.pax_headers.items() if key != "mtime"}
    member.pax_headers = {**others, "mtime": f"{whole}.{rest:09}"} if rest else others


def _add(member: tarfile.TarInfo, **headers: str) -> None:
    member.pax_headers = {**member.pax_headers, **headers}


def _xattrs(fd: int) -> dict[str, bytes]:
    found = {}
    for name in attributes.listed(fd):
        try:
            found[name] = os.getxattr(fd, name)
        except OSError as e:
            if e.errno not in attributes.NOT_POSSIBLE:
                raise
    return found
