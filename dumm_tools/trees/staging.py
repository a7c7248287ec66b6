"""Directories that get their name only when they are complete, or lose it before they are removed.

Until then they are in `.NAME.tmp-...` next to that name, a directory that only we can enter, locked
as long as its maker lives. The next command cleans up what a killed one leaves there, unless it
contains a file `lock` that somebody has locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from dumm_tools.errors import DummError

_TEMP = ".tmp-"
_LOCK = "lock"


@contextlib.contextmanager
def scratch(parent: str, name: str) -> Iterator[str]:
    """A temporary directory in `parent`, removed with its contents at the end."""
    from dumm_tools.trees import tree

    path, fd = _made(parent, name)
    try:
        yield path
    finally:
        if os.path.lexists(path):
            tree.remove(path)
        os.close(fd)


@contextlib.contextmanager
def staged(final: str, mode: int) -> Iterator[str]:
    """An empty directory that becomes `final`, which must not exist, if the block succeeds."""
    with scratch(*os.path.split(final)) as path:
        new = os.path.join(path, "new")
        os.mkdir(new)
        os.chmod(new, mode)  # regardless of the umask
        yield new
        _move(new, final)


@contextlib.contextmanager
def replaced(final: str, mode: int, lock: str) -> Iterator[str]:
    """An empty directory that takes the place of the directory `final` if the block succeeds.

    The old directory is removed unless somebody holds the file `lock`, which goes with it; then it
    is left to `sweep`.
    """
    from dumm_tools.linux import renaming
    from dumm_tools.trees import tree

    path, fd = _made(*os.path.split(final))
    try:
        new, old_lock = os.path.join(path, "new"), os.path.join(path, _LOCK)
        try:
            os.mkdir(new)
            os.chmod(new, mode)  # regardless of the umask
            yield new
            # Killed between any two of these, the lock guards both directories.
            os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.link(lock, old_lock)
            if not renaming.exchange(new, final):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(final, os.path.join(path, "old"))
                os.rename(new, final)
            os.unlink(lock)
        finally:
            if not _in_use(path):
                tree.remove(path)
    finally:
        os.close(fd)


def discard(parent: str, name: str) -> None:
    """Remove the directory `name` in `parent`; its name becomes free at once. ValueError for
    anything but a name: whatever is joined to a directory must not lead out of it."""
    if not is_name(name):
        raise ValueError(f"not a name: {name!r}")
    with scratch(parent, name) as place:
        _move(os.path.join(parent, name), os.path.join(place, "old"))


def is_name(name: object) -> bool:
    """Whether it is the name of an entry of a directory, and not a path that leads out of it."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name


def put_aside(path: str) -> None:
    """Free the name of a directory, and leave its removal to the next `sweep`."""
    place, fd = _made(*os.path.split(path))
    try:
        _move(path, os.path.join(place, "old"))
    except BaseException:
        os.rmdir(place)
        raise
    finally:
        os.close(fd)


def sweep(parent: str, name: str = "") -> None:
    """Remove abandoned temporary directories in `parent`: those for `name`, or all."""
    from dumm_tools.trees import tree

    for path in abandoned(parent, name):
        # One that cannot be removed does not make the caller fail.
        with contextlib.suppress(OSError, DummError):
            tree.remove(path)


def abandoned(parent: str, name: str = "") -> Iterator[str]:
    """The temporary directories in `parent` that nobody uses any more, locked while they are
    looked at: those for `name`, or all."""
    for entry in os.listdir(parent):
        if not entry.startswith(f".{name}{_TEMP}" if name else ".") or _TEMP not in entry:
            continue
        path = os.path.join(parent, entry)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            in_use = _in_use(path)
        except OSError:
            in_use = True
        try:
            if not in_use:
                yield path
        finally:
            os.close(fd)


def _in_use(path: str) -> bool:
    """Whether somebody holds the lock in a temporary directory."""
    try:
        fd = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _made(parent: str, name: str) -> tuple[str, int]:
    """A new locked directory; if a sweep removes it before it is locked, another one."""
    while True:
        path = os.path.join(parent, f".{name}{_TEMP}{os.getpid()}-{os.urandom(4).hex()}")
        os.mkdir(path, 0o700)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.isdir(path):
                return path, fd
        except BlockingIOError:
            pass
        os.close(fd)


def _move(old: str, new: str) -> None:
    """Rename a directory, even if its owner may not write to it (rename(2), EACCES)."""
    mode = os.stat(old).st_mode & 0o7777
    if mode & 0o200:
        os.rename(old, new)
        return
    os.chmod(old, mode | 0o200)
    os.rename(old, new)
    os.chmod(new, mode)
