"""Copy files and trees into a place that is in use, by descriptors and never through a link.

Both sides may change during a copy: a guest may be running. Files are replaced atomically: they are
written without a name, or under a temporary one, until they are complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from dumm_tools.errors import DummError
from dumm_tools.trees import tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 300
#: Errors after which trying other files is pointless.
_FATAL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE})

#: Attributes that may grant privileges: security.capability, and those that only root can set.
_RIGHTS = ("security.", "trusted.")

Report = Callable[[str], None]


@dataclass(slots=True)
class Job:
    """One call: several sources may go into one directory `top`, and keep their hard links. Files
    that are not `trusted` lose all privileges beyond those of their owner: setuid, setgid, and
    attributes that grant some."""

    top: int
    warn: Report
    error: Callable[[OSError], None]
    progress: Report
    trusted: bool = True
    own: bool = field(default_factory=lambda: os.geteuid() == 0)
    links: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    count: int = 0


def copy(job: Job, src: int, name: str, as_name: str, shown: str) -> None:
    """Copy `name`, of any type, from the directory `src` to `job.top` as `as_name`.

    Messages call it `shown`. Failures below a directory are reported to `job.error`.
    """
    _entry(job, src, name, job.top, as_name, (), shown)


def copy_tree(job: Job, src: int, as_name: str | None, shown: str) -> None:
    """Copy an open directory to `job.top` as `as_name`, or its contents if that is None."""
    if as_name is None:
        _refuse_itself(job, src, shown)
        _entries(job, src, job.top, (), shown)
    else:
        _directory(job, src, job.top, as_name, (), shown)


def _entry(
    job: Job, src: int, name: str, dst: int, as_name: str, where: tuple[str, ...], shown: str
) -> None:
    info = os.stat(name, dir_fd=src, follow_symlinks=False)
    kind = stat.S_IFMT(info.st_mode)
    key = (info.st_dev, info.st_ino)
    if not where:
        _refuse_same(dst, as_name, info)
    _refuse_device(dst, as_name)
    job.count += 1
    if job.count % 100 == 0:
        job.progress(f"{job.count} files")
    if kind == stat.S_IFDIR:
        fd = os.open(name, _DIRECTORY, dir_fd=src)
        try:
            _directory(job, fd, dst, as_name, where, shown)
        finally:
            os.close(fd)
        return
    if kind in (stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        job.warn(f"'{shown}' is a {'socket' if kind == stat.S_IFSOCK else 'device'}: skipped")
        return
    if info.st_nlink > 1 and key in job.links and _link(job, job.links[key], dst, as_name):
        return
    if kind == stat.S_IFREG:
        _file(job, src, name, dst, as_name)
    else:
        _replace(dst, as_name, lambda new: _special(job, src, name, dst, new, info))
    if info.st_nlink > 1:
        job.links[key] = (*where, as_name)


def _directory(job: Job, src: int, dst: int, name: str, where: tuple[str, ...], shown: str) -> None:
    info = os.fstat(src)
    if not where:
        _refuse_itself(job, src, shown)
        _refuse_same(dst, name, info)
    if len(where) > _DEEPEST:
        raise DummError(f"directories are nested too deeply: '{shown}'")
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=dst)
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=dst)
    except OSError as e:
        if e.errno in (errno.ENOTDIR, errno.ELOOP):
            raise OSError(e.errno, "the existing file is not a directory", shown) from None
        raise
    try:
        _entries(job, src, fd, (*where, name), shown)
        _attributes(job, src, fd, info)
    finally:
        os.close(fd)


def _refuse_same(dst: int, name: str, info: os.stat_result) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(name, dir_fd=dst, follow_symlinks=False), info):
            raise OSError(errno.EINVAL, "it is the same file")


def _refuse_device(dst: int, name: str) -> None:
    """Raise OSError if a device or a socket would be replaced."""
    with contextlib.suppress(FileNotFoundError):
        kind = stat.S_IFMT(os.stat(name, dir_fd=dst, follow_symlinks=False).st_mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
            raise OSError(errno.EEXIST, "the existing file is a device or a socket")


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


def _entries(job: Job, src: int, dst: int, where: tuple[str, ...], shown: str) -> None:
    for name in sorted(os.listdir(src)):
        path = f"{shown.rstrip('/')}/{name}"
        try:
            _entry(job, src, name, dst, name, where, path)
        except OSError as e:
            e.filename = e.filename if e.filename and e.filename.startswith(path) else path
            if e.errno in _FATAL:
                raise
            job.error(e)


def _file(job: Job, src: int, name: str, dst: int, as_name: str) -> None:
    # Without blocking, in case a FIFO has just replaced it.
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=src)
    try:
        info = os.fstat(old)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.ESTALE, "was replaced while it was being copied")
        new, temporary = _nameless(dst)
        try:
            tree.copy_data(old, new, info)
            _attributes(job, old, new, info)
            if temporary is None:
                # linkat(2): the way to give a name to an unnamed file.
                own = f"/proc/self/fd/{new}"
                _replace(dst, as_name, lambda n: os.link(own, n, dst_dir_fd=dst))
            else:
                os.rename(temporary, as_name, src_dir_fd=dst, dst_dir_fd=dst)
                temporary = None
        finally:
            os.close(new)
            if temporary is not None:
                os.unlink(temporary, dir_fd=dst)
    finally:
        os.close(old)


def copy_into(src: int, name: str, target: int) -> None:
    """Copy the contents of a file into an open device or FIFO. OSError."""
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=src)
    with open(old, "rb") as file:
        if not stat.S_ISREG(os.fstat(old).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        while piece := file.read(1 << 20):
            while piece:
                piece = piece[os.write(target, piece) :]


def _nameless(dst: int) -> tuple[int, str | None]:
    """A new file that disappears if we are killed; it has a temporary name if the file system does
    not support unnamed files."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=dst), None
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    name = _temporary()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=dst), name


def _temporary() -> str:
    return f".dumm-{os.urandom(6).hex()}"


def _replace(dst: int, name: str, make: Callable[[str], object]) -> None:
    """Create something called `name`, atomically replacing what exists."""
    try:
        make(name)
        return
    except FileExistsError:
        pass
    temporary = _temporary()
    make(temporary)
    try:
        os.rename(temporary, name, src_dir_fd=dst, dst_dir_fd=dst)
    finally:
        # Two names of the same file stay two names (rename(2)), and a directory is not replaced.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=dst)


def _link(job: Job, first: tuple[str, ...], dst: int, name: str) -> bool:
    """Make a hard link to `first`, which was copied before; return False if that is gone."""
    at = os.dup(job.top)
    try:
        for part in first[:-1]:
            at, above = os.open(part, _DIRECTORY, dir_fd=at), at
            os.close(above)

        def make(new: str) -> None:
            os.link(first[-1], new, src_dir_fd=at, dst_dir_fd=dst, follow_symlinks=False)

        _replace(dst, name, make)
    except (FileNotFoundError, NotADirectoryError):
        return False
    finally:
        os.close(at)
    return True


def _special(job: Job, src: int, name: str, dst: int, new: str, info: os.stat_result) -> None:
    """Copy a symbolic link or a FIFO."""
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=src), new, dir_fd=dst)
    else:
        os.mkfifo(new, 0o600, dir_fd=dst)
    if job.own:
        tree.chown(new, info.st_uid, info.st_gid, dst)
    if stat.S_ISFIFO(info.st_mode):
        # chmod(2) would follow a link that has replaced it.
        node = os.open(new, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dst)
        try:
            if stat.S_ISFIFO(os.fstat(node).st_mode):
                os.chmod(f"/proc/self/fd/{node}", _mode(job, info))
        finally:
            os.close(node)
    times = (info.st_atime_ns, info.st_mtime_ns)
    os.utime(new, ns=times, dir_fd=dst, follow_symlinks=False)


def _mode(job: Job, info: os.stat_result) -> int:
    mode = stat.S_IMODE(info.st_mode)
    return mode if job.trusted else mode & ~(stat.S_ISUID | stat.S_ISGID)


def _attributes(job: Job, old: int, new: int, info: os.stat_result) -> None:
    """Set the owner first (chown clears setuid and capabilities), times last."""
    if job.own:
        tree.chown(new, info.st_uid, info.st_gid)
    for name in tree.xattrs(old):
        if job.trusted or not name.startswith(_RIGHTS):
            tree.set_xattr(new, name, os.getxattr(old, name))
    os.fchmod(new, _mode(job, info))
    os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns))
