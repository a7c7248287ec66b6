"""Copy files and trees, by descriptors and never through a link, into an empty directory or into a
place that is in use.

Modes, times, hard links, holes and extended attributes are preserved, and owners for root. Both
sides may change during a copy: a guest may be running.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from dumm_tools.errors import DummError
from dumm_tools.model import Record
from dumm_tools.trees import attributes, data, layer, replacing

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Without blocking, in case a FIFO has just replaced it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 300
#: Errors after which trying other files is pointless.
_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE})
_GONE = frozenset({errno.ENOENT, errno.ESTALE})
#: Attributes that may grant privileges: security.capability, and those that only root can set.
_RIGHTS = ("security.", "trusted.")

Where = tuple[str, ...]


def _nothing(_: object) -> None:
    """Report nothing."""


class Job(Record):
    """A copy into the directory `top`; several sources may go there and keep their hard links.

    Devices and sockets are not copied but reported to `skipped`. Failures below a directory are
    reported to `error`; if that is None, the first one ends the copy.
    """

    top: int
    skipped: Callable[[str], None] = _nothing
    error: Callable[[OSError], None] | None = None
    progress: Callable[[str], None] = _nothing
    #: Existing files are replaced, each one atomically.
    replace: bool = False
    #: Files that are not trusted lose all privileges beyond those of their owner: setuid, setgid,
    #: and attributes that grant some.
    trusted: bool = True
    #: The source is a layer: its marks on other layers are copied too, and so are sockets and, if
    #: permitted, devices.
    marks: layer.Marks | None = None
    #: Files that are deleted before their turn are not an error.
    live: bool = False
    #: Directories on devices other than this are copied empty.
    device: int | None = None
    #: Directories, as (device, inode), that are not copied at all.
    excluded: frozenset[tuple[int, int]] = frozenset()

    #: The first copy of each file that has several names, by (device, inode).
    links: dict[tuple[int, int], Where] = {}
    count: int = 0


class _Entry(NamedTuple):
    """A file to copy: its directory and name, those of the copy, the copy's parent relative to the
    top, and the name for messages."""

    src: int
    name: str
    dst: int
    as_name: str
    where: Where
    shown: str


def copy_tree(
    source: str,
    target: str,
    *,
    skip: tuple[str, ...] = (),
    marks: layer.Marks | None = None,
    live: bool = False,
    private: bool = False,
) -> int:
    """Copy the contents of the directory `source` into the empty directory `target`. Devices and
    sockets are skipped; their number is returned. Directories on which something is mounted are
    copied empty, those listed in `skip` not at all.

    With `private`, nobody else can enter `target`, now or later: it stays ours, mode 0700.
    """
    skipped: list[str] = []
    src = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    dst = os.open(target, _DIRECTORY)
    try:
        inodes = frozenset((s.st_dev, s.st_ino) for s in map(os.stat, skip))
        info = os.fstat(src)
        job = Job(dst, skipped.append, marks=marks, live=live, device=info.st_dev, excluded=inodes)
        _entries(job, src, dst, (), "")
        if private:
            # Its access control list (acl(5)) is an attribute, and would be copied too.
            _mark_opaque(job, src, dst)
            os.fchmod(dst, 0o700)
        else:
            _finish(job, src, dst, info)
    finally:
        os.close(src)
        os.close(dst)
    return len(skipped)


def copy(job: Job, src: int, name: str, as_name: str, shown: str) -> None:
    """Copy `name`, of any type, from the directory `src` to `job.top` as `as_name`; messages call
    it `shown`."""
    entry = _Entry(src, name, job.top, as_name, (), shown)
    info = _look(job, entry)
    (_directory if stat.S_ISDIR(info.st_mode) else _other)(job, entry, info)


def copy_directory(job: Job, src: int, as_name: str | None, shown: str) -> None:
    """Copy an open directory to `job.top` as `as_name`, or its contents if that is None."""
    if as_name is None:
        _refuse_itself(job, src, shown)
        _entries(job, src, job.top, (), shown)
    else:
        _directory(job, _Entry(src, ".", job.top, as_name, (), shown), os.fstat(src))


def pour(src: int, name: str, target: int) -> None:
    """Copy the contents of a file into an open device or FIFO. OSError."""
    old = os.open(name, _FILE, dir_fd=src)
    try:
        mode = os.fstat(old).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        data.pour(old, target)
    finally:
        os.close(old)


# ---- the walk ----


def _entries(job: Job, src: int, dst: int, where: Where, shown: str) -> None:
    if len(where) > _DEEPEST:
        raise DummError(f"directories are nested too deeply: '{'/'.join(where[:8])}/...'")
    prefix = shown and f"{shown.rstrip('/')}/"
    for name in sorted(os.listdir(src)):
        entry = _Entry(src, name, dst, name, where, prefix + name)
        try:
            info = _look(job, entry)
            (_directory if stat.S_ISDIR(info.st_mode) else _other)(job, entry, info)
        except OSError as e:
            if job.live and e.errno in _GONE and not _exists(src, name):
                continue
            if not (isinstance(e.filename, str) and e.filename.startswith(entry.shown)):
                e.filename = entry.shown
            if job.error is None or e.errno in _FATAL:
                raise
            job.error(e)


def _look(job: Job, entry: _Entry) -> os.stat_result:
    job.count += 1
    if job.count % 100 == 0:
        job.progress(f"{job.count} files")
    return os.stat(entry.name, dir_fd=entry.src, follow_symlinks=False)


def _exists(at: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError as e:
        return e.errno not in _GONE
    return True


# ---- directories ----


def _directory(job: Job, entry: _Entry, info: os.stat_result) -> None:
    if (info.st_dev, info.st_ino) in job.excluded:
        return
    src = os.open(entry.name, _DIRECTORY, dir_fd=entry.src)
    try:
        if job.replace and not entry.where:
            _refuse_itself(job, src, entry.shown)
            _refuse_same(entry, info)
        dst = _make_directory(job, entry)
        try:
            if job.device in (None, info.st_dev):
                _entries(job, src, dst, (*entry.where, entry.as_name), entry.shown)
            _finish(job, src, dst, info)
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _make_directory(job: Job, entry: _Entry) -> int:
    try:
        os.mkdir(entry.as_name, 0o700, dir_fd=entry.dst)
    except FileExistsError:
        if not job.replace:
            raise
        replacing.refuse_device(entry.dst, entry.as_name)
    try:
        return os.open(entry.as_name, _DIRECTORY, dir_fd=entry.dst)
    except OSError as e:
        if e.errno in (errno.ENOTDIR, errno.ELOOP):
            raise OSError(e.errno, "the existing file is not a directory", entry.shown) from None
        raise


def _refuse_same(entry: _Entry, info: os.stat_result) -> None:
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(entry.as_name, dir_fd=entry.dst, follow_symlinks=False)
        if os.path.samestat(there, info):
            raise OSError(errno.EINVAL, "it is the same file")


def _refuse_itself(job: Job, src: int, shown: str) -> None:
    """Raise OSError if the destination is inside the directory to copy, which would never end."""
    source = os.fstat(src)
    at = os.dup(job.top)
    try:
        while True:
            here = os.fstat(at)
            if os.path.samestat(here, source):
                raise OSError(errno.EINVAL, "it would be copied into itself", shown)
            at, below = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at), at
            os.close(below)
            if os.path.samestat(os.fstat(at), here):
                return
    finally:
        os.close(at)


# ---- all else ----


def _other(job: Job, entry: _Entry, info: os.stat_result) -> None:
    key = (info.st_dev, info.st_ino)
    if job.replace:
        if not entry.where:
            _refuse_same(entry, info)
        replacing.refuse_device(entry.dst, entry.as_name)
    if job.marks and layer.is_mark(os.fsencode(entry.name), job.marks):
        _mark_deleted(os.fsencode(entry.name), entry.dst)
        return
    if info.st_nlink > 1 and key in job.links and _link(job, job.links[key], entry):
        return
    if stat.S_ISREG(info.st_mode):
        _file(job, entry)
    elif not _special(job, entry, info):
        kind = "socket" if stat.S_ISSOCK(info.st_mode) else "device"
        job.skipped(f"'{entry.shown}' is a {kind}")
        return
    if info.st_nlink > 1 and not layer.is_whiteout(info):
        job.links[key] = (*entry.where, entry.as_name)


def _make(job: Job, entry: _Entry, how: Callable[[str], object]) -> None:
    if job.replace:
        replacing.make(entry.dst, entry.as_name, how)
    else:
        how(entry.as_name)


def _file(job: Job, entry: _Entry) -> None:
    old = os.open(entry.name, _FILE, dir_fd=entry.src)
    try:
        info = os.fstat(old)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.ESTALE, "was replaced while it was being copied")
        if job.replace:
            with replacing.file(entry.dst, entry.as_name) as new:
                data.copy(old, new, info)
                _finish(job, old, new, info)
            return
        new = os.open(entry.as_name, _NEW, 0o600, dir_fd=entry.dst)
        try:
            data.copy(old, new, info)
            _finish(job, old, new, info)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _link(job: Job, first: Where, entry: _Entry) -> bool:
    """Make a hard link to `first`, which was copied before; return False if it is gone."""
    at = os.dup(job.top)
    try:
        for part in first[:-1]:
            at, above = os.open(part, _DIRECTORY, dir_fd=at), at
            os.close(above)

        def link(new: str) -> None:
            os.link(first[-1], new, src_dir_fd=at, dst_dir_fd=entry.dst, follow_symlinks=False)

        _make(job, entry, link)
    except (FileNotFoundError, NotADirectoryError):
        return False
    finally:
        os.close(at)
    return True


def _special(job: Job, entry: _Entry, info: os.stat_result) -> bool:
    """Copy a symbolic link or a FIFO, and from a layer a device or a socket; return False if that
    is not permitted."""
    kind = stat.S_IFMT(info.st_mode)
    always = kind in (stat.S_IFLNK, stat.S_IFIFO)
    if not always and not job.marks:
        return False
    made = False

    def special(new: str) -> None:
        nonlocal made
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(entry.name, dir_fd=entry.src), new, dir_fd=entry.dst)
        elif kind == stat.S_IFIFO:
            os.mkfifo(new, 0o600, dir_fd=entry.dst)
        else:
            os.mknod(new, info.st_mode, info.st_rdev, dir_fd=entry.dst)
        made = True
        times = (info.st_atime_ns, info.st_mtime_ns)
        mode = None if kind == stat.S_IFLNK else _mode(job, info)
        attributes.finish_special(entry.dst, new, _owner(info), mode, times)

    try:
        _make(job, entry, special)
    except PermissionError:
        if made or always:
            raise
        return False
    return True


# ---- attributes ----


def _mode(job: Job, info: os.stat_result) -> int:
    mode = stat.S_IMODE(info.st_mode)
    return mode if job.trusted else mode & ~(stat.S_ISUID | stat.S_ISGID)


def _owner(info: os.stat_result) -> tuple[int, int] | None:
    return (info.st_uid, info.st_gid) if os.geteuid() == 0 else None


def _finish(job: Job, old: int, new: int, info: os.stat_result) -> None:
    values = [
        (name, os.getxattr(old, name))
        for name in attributes.listed(old)
        if job.trusted or not name.startswith(_RIGHTS)
    ]
    if stat.S_ISDIR(info.st_mode):
        _mark_opaque(job, old, new)
    times = (info.st_atime_ns, info.st_mtime_ns)
    attributes.finish(new, _owner(info), values, _mode(job, info), times)


def _mark_opaque(job: Job, old: int, new: int) -> None:
    if job.marks and layer.is_opaque(old, job.marks):
        layer.make_opaque(new, job.marks)


def _mark_deleted(name: bytes, dst: int) -> None:
    """Translate a file of fuse-overlayfs that marks a name as deleted."""
    deleted = name[len(layer.PREFIX) :]
    if not deleted.startswith(layer.PREFIX):
        os.mknod(deleted, stat.S_IFCHR, dir_fd=dst)
