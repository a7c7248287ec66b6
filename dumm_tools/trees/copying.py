"""Copy files and trees, by descriptors and never through a link, into an empty directory or into a
place that is in use.

Modes, times, hard links, holes and extended attributes are preserved, and owners for root. Both
sides may change during a copy: a guest may be running.
"""

from __future__ import annotations

import errno
import os
import stat

from dumm_tools.errors import DummError
from dumm_tools.trees import attributes, copy_file, copy_job, data, layer, replacing
from dumm_tools.trees.copy_job import Entry, Job, Where

_DEEPEST = 300
#: Errors after which trying other files is pointless.
_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE})
_GONE = frozenset({errno.ENOENT, errno.ESTALE})


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
    dst = os.open(target, copy_job.DIRECTORY)
    try:
        inodes = frozenset((s.st_dev, s.st_ino) for s in map(os.stat, skip))
        info = os.fstat(src)
        job = Job(dst, skipped.append, marks=marks, live=live, device=info.st_dev, excluded=inodes)
        _entries(job, src, dst, (), "")
        if private:
            # Its access control list (acl(5)) is an attribute, and would be copied too.
            copy_job.mark_opaque(job, src, dst)
            os.fchmod(dst, 0o700)
        else:
            copy_job.finish(job, src, dst, info)
    finally:
        os.close(src)
        os.close(dst)
    return len(skipped)


def copy(job: Job, src: int, name: str, as_name: str, shown: str) -> None:
    """Copy `name`, of any type, from the directory `src` to `job.top` as `as_name`; messages call
    it `shown`."""
    entry = Entry(src, name, job.top, as_name, (), shown)
    info = _look(job, entry)
    (_directory if stat.S_ISDIR(info.st_mode) else copy_file.copy)(job, entry, info)


def copy_directory(job: Job, src: int, as_name: str | None, shown: str) -> None:
    """Copy an open directory to `job.top` as `as_name`, or its contents if that is None."""
    if as_name is None:
        _refuse_itself(job, src, shown)
        _entries(job, src, job.top, (), shown)
    else:
        _directory(job, Entry(src, ".", job.top, as_name, (), shown), os.fstat(src))


def update(job: Job, src: int, where: Where, shown: str) -> None:
    """Copy the contents of an open directory to the directory `where` below `job.top`, which is
    made if necessary."""
    _refuse_itself(job, src, shown)
    dst = _make_way(job, where)
    try:
        _entries(job, src, dst, where, shown)
    finally:
        os.close(dst)


def update_file(job: Job, src: int, name: str, where: Where, shown: str) -> None:
    """Copy the file `name` in the directory `src` to `where` below `job.top`."""
    dst = _make_way(job, where[:-1])
    try:
        entry = Entry(src, name, dst, where[-1], where[:-1], shown)
        copy_file.copy(job, entry, _look(job, entry))
    finally:
        os.close(dst)


def pour(src: int, name: str, target: int) -> None:
    """Copy the contents of a file into an open device or FIFO. OSError."""
    old = os.open(name, copy_file.FILE, dir_fd=src)
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
        entry = Entry(src, name, dst, name, where, prefix + name)
        try:
            info = _look(job, entry)
            (_directory if stat.S_ISDIR(info.st_mode) else copy_file.copy)(job, entry, info)
        except OSError as e:
            if job.live and e.errno in _GONE and not _exists(src, name):
                continue
            if not (isinstance(e.filename, str) and e.filename.startswith(entry.shown)):
                e.filename = entry.shown
            if job.error is None or e.errno in _FATAL:
                raise
            job.error(e)


def _look(job: Job, entry: Entry) -> os.stat_result:
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


def _directory(job: Job, entry: Entry, info: os.stat_result) -> None:
    if (info.st_dev, info.st_ino) in job.excluded:
        return
    src = os.open(entry.name, copy_job.DIRECTORY, dir_fd=entry.src)
    try:
        if job.replace and not entry.where:
            _refuse_itself(job, src, entry.shown)
            copy_file.refuse_same(entry, info)
        keep = job.update and _exists(entry.dst, entry.as_name)
        dst = _make_directory(job, entry)
        try:
            if job.device in (None, info.st_dev):
                _entries(job, src, dst, (*entry.where, entry.as_name), entry.shown)
            if not keep:
                copy_job.finish(job, src, dst, info)
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _make_directory(job: Job, entry: Entry) -> int:
    try:
        os.mkdir(entry.as_name, 0o700, dir_fd=entry.dst)
    except FileExistsError:
        if not job.replace:
            raise
        replacing.refuse_device(entry.dst, entry.as_name)
    try:
        if job.update:
            return _open_below(job, (*entry.where, entry.as_name))
        return os.open(entry.as_name, copy_job.DIRECTORY, dir_fd=entry.dst)
    except OSError as e:
        if e.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
            raise OSError(e.errno, "the existing file is not a directory", entry.shown) from None
        raise


def _open_below(job: Job, where: Where) -> int:
    """Open a directory below `job.top`, as a process would whose root directory that is."""
    from dumm_tools.linux import openat2

    return openat2.open_in_root(job.top, "/".join(where) or ".", os.O_RDONLY | os.O_DIRECTORY)


def _make_way(job: Job, where: Where) -> int:
    """Open the directory `where` below `job.top`; directories that do not exist are made."""
    for depth in range(len(where)):
        at = _open_below(job, where[:depth])
        try:
            entry = Entry(at, "", at, where[depth], where[:depth], "/".join(where[: depth + 1]))
            known = _exists(at, where[depth])
            made = _make_directory(job, entry)
            try:
                if not known:
                    os.fchmod(made, 0o755)
                    if job.owner:
                        attributes.chown(made, *job.owner)
            finally:
                os.close(made)
        finally:
            os.close(at)
    return _open_below(job, where)


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
