"""Create files under names that may exist, atomically: a reader sees all of the old file or all of
the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator


def make(at: int, name: str, how: Callable[[str], object]) -> None:
    """Have `how` create `name` in the directory `at`."""
    try:
        how(name)
        return
    except FileExistsError:
        pass
    temporary = _temporary()
    how(temporary)
    try:
        os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    finally:
        # Two names of one file stay two names (rename(2)), and a directory is not replaced.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=at)


@contextlib.contextmanager
def file(at: int, name: str) -> Iterator[int]:
    """A new file to write to, which gets its name if the block succeeds."""
    fd, temporary = _nameless(at)
    try:
        yield fd
        if temporary is None:
            # linkat(2): the way to give a name to an unnamed file.
            own = f"/proc/self/fd/{fd}"
            make(at, name, lambda new: os.link(own, new, dst_dir_fd=at))
        else:
            os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
            temporary = None
    finally:
        os.close(fd)
        if temporary is not None:
            os.unlink(temporary, dir_fd=at)


def refuse_device(at: int, name: str) -> None:
    """Raise OSError if a device or a socket would be replaced."""
    with contextlib.suppress(FileNotFoundError):
        kind = stat.S_IFMT(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
            raise OSError(errno.EEXIST, "the existing file is a device or a socket")


def _nameless(at: int) -> tuple[int, str | None]:
    """A new file that disappears if we are killed; it has a temporary name if the file system does
    not support unnamed files."""
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=at), None
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    name = _temporary()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=at), name


def _temporary() -> str:
    return f".dumm-{os.urandom(6).hex()}"
