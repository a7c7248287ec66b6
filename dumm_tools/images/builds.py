"""The directories in which kernels are built: $XDG_CACHE_HOME/dumm/builds/NAME. They are kept, so
that the next build of a kernel compiles only what has changed.

A build holds the lock `.NAME.lock` next to the directory, which is never renamed or removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from dumm_tools.errors import Conflict
from dumm_tools.images import cache


@contextlib.contextmanager
def opened(name: str, progress: Callable[[str], None] | None = None) -> Iterator[str]:
    """The directory for builds of the kernel `name`, made if missing. Another build waits."""
    from dumm_tools.trees import staging

    place = cache.made("builds")
    fd = _lock(place, name)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                progress(f"waiting for another build of '{name}'")
            fcntl.flock(fd, fcntl.LOCK_EX)
        staging.sweep(place)
        path = os.path.join(place, name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        staging.sweep(path)
        yield path
    finally:
        os.close(fd)


def origin(path: str) -> str | None:
    """The source of the kernel that is built in a directory, as `start` recorded it."""
    try:
        with open(os.path.join(path, "origin"), encoding="utf-8", errors="surrogateescape") as file:
            return file.read(4096)
    except FileNotFoundError:
        return None


def start(path: str, source: str) -> None:
    """Record the source of the kernel that is built in a directory, and empty it if that was
    another one."""
    from dumm_tools.trees import tree

    if origin(path) == source:
        return
    # First of all, so that a part of the old tree is not taken for a whole one.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, "origin"))
    for entry in os.listdir(path):
        there = os.path.join(path, entry)
        if os.path.isdir(there) and not os.path.islink(there):
            tree.remove(there)
        else:
            os.unlink(there)
    with open(
        os.path.join(path, "origin"), "w", encoding="utf-8", errors="surrogateescape"
    ) as file:
        file.write(source)


@contextlib.contextmanager
def idle(name: str) -> Iterator[str | None]:
    """The directory for builds of the kernel `name`, kept from being used meanwhile; None if there
    is none, whatever the name. Conflict during a build."""
    place = cache.place("builds")
    path = os.path.join(place, name)
    if not cache.is_name(name) or not os.path.isdir(path):
        yield None
        return
    fd = _lock(place, name)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"kernel '{name}' is being built") from None
        yield path if os.path.isdir(path) else None
    finally:
        os.close(fd)


def _lock(place: str, name: str) -> int:
    return os.open(
        os.path.join(place, f".{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
