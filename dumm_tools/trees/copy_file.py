"""Copy one file that is not a directory (`copying`)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from dumm_tools.trees import attributes, copy_job, data, layer, replacing
from dumm_tools.trees.copy_job import Entry, Job, Where

#: How to open a file without blocking, in case a FIFO has just replaced it.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy(job: Job, entry: Entry, info: os.stat_result) -> None:
    """Copy a file, or report that it is skipped."""
    key = (info.st_dev, info.st_ino)
    if job.replace:
        if not entry.where:
            refuse_same(entry, info)
        replacing.refuse_device(entry.dst, entry.as_name)
    if job.marks and layer.is_mark(os.fsencode(entry.name), job.marks):
        _mark_deleted(os.fsencode(entry.name), entry.dst)
        return
    if job.update and _is_same(job, entry, info):
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


def _is_same(job: Job, entry: Entry, info: os.stat_result) -> bool:
    """Whether the destination has the file already: its type, size, times, mode and owner are
    compared, and where links point to."""
    try:
        there = os.stat(entry.as_name, dir_fd=entry.dst, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_IFMT(there.st_mode) != stat.S_IFMT(info.st_mode):
        return False
    owner = copy_job.owner(job, info)
    if owner is not None and (there.st_uid, there.st_gid) != owner:
        return False
    if stat.S_ISLNK(info.st_mode):
        target = os.readlink(entry.name, dir_fd=entry.src)
        return os.readlink(entry.as_name, dir_fd=entry.dst) == target
    return (there.st_size, there.st_mtime_ns, stat.S_IMODE(there.st_mode)) == (
        info.st_size,
        info.st_mtime_ns,
        copy_job.mode(job, info),
    )


def _make(job: Job, entry: Entry, how: Callable[[str], object]) -> None:
    if job.replace:
        replacing.make(entry.dst, entry.as_name, how)
    else:
        how(entry.as_name)


def _file(job: Job, entry: Entry) -> None:
    old = os.open(entry.name, FILE, dir_fd=entry.src)
    try:
        info = os.fstat(old)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.ESTALE, "was replaced while it was being copied")
        if job.replace:
            with replacing.file(entry.dst, entry.as_name) as new:
                data.copy(old, new, info)
                copy_job.finish(job, old, new, info)
            return
        new = os.open(entry.as_name, _NEW, 0o600, dir_fd=entry.dst)
        try:
            data.copy(old, new, info)
            copy_job.finish(job, old, new, info)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _link(job: Job, first: Where, entry: Entry) -> bool:
    """Make a hard link to `first`, which was copied before; return False if it is gone."""
    at = os.dup(job.top)
    try:
        for part in first[:-1]:
            at, above = os.open(part, copy_job.DIRECTORY, dir_fd=at), at
            os.close(above)

        def link(new: str) -> None:
            os.link(first[-1], new, src_dir_fd=at, dst_dir_fd=entry.dst, follow_symlinks=False)

        _make(job, entry, link)
    except (FileNotFoundError, NotADirectoryError):
        return False
    finally:
        os.close(at)
    return True


def _special(job: Job, entry: Entry, info: os.stat_result) -> bool:
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
        mode = None if kind == stat.S_IFLNK else copy_job.mode(job, info)
        attributes.finish_special(entry.dst, new, copy_job.owner(job, info), mode, times)

    try:
        _make(job, entry, special)
    except PermissionError:
        if made or always:
            raise
        return False
    return True


def refuse_same(entry: Entry, info: os.stat_result) -> None:
    """Raise OSError if a file would be copied to itself."""
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(entry.as_name, dir_fd=entry.dst, follow_symlinks=False)
        if os.path.samestat(there, info):
            raise OSError(errno.EINVAL, "it is the same file")


def _mark_deleted(name: bytes, dst: int) -> None:
    """Translate a file of fuse-overlayfs that marks a name as deleted."""
    deleted = name[len(layer.PREFIX) :]
    if not deleted.startswith(layer.PREFIX):
        os.mknod(deleted, stat.S_IFCHR, dir_fd=dst)
