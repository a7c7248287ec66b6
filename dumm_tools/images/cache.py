"""Kernel packs and masters that several labs share, below $XDG_CACHE_HOME/dumm.

Next to each NAME there is `.NAME.lock`. A running guest holds it shared through an inherited
descriptor; building and deleting hold it exclusively. New objects are staged next to them
(`trees.staging`): a killed command never leaves a partial pack under its name.

Replacing an object does not wait for its guests: the old one is kept for them, with its lock
(`staging.replaced`), and the name gets a new lock. So a lock counts only if it still has its name
once it is taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from typing import Literal

from dumm_tools import trust
from dumm_tools.errors import Conflict, DummError, NotFound

Kind = Literal["kernels", "masters"]
#: The noun for an object of each kind, for messages.
NOUN: dict[Kind, str] = {"kernels": "kernel", "masters": "master"}


def directory(kind: Kind) -> str:
    """The directory for objects of a kind; it need not exist. Conflict if others could put some
    there."""
    return place(kind)


def place(name: str) -> str:
    """The directory `name` of the cache; it need not exist. Conflict if others could write to
    it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # "relative paths must be ignored": XDG base directories
        base = os.path.expanduser("~/.cache")
    if not base.startswith("/"):
        raise DummError("cannot determine the home directory", hint="set HOME or XDG_CACHE_HOME")
    path = os.path.join(base, "dumm", name)
    trust.check_cache(path)
    return path


def names(kind: Kind) -> list[str]:
    """The names of all objects of a kind, sorted."""
    try:
        with os.scandir(directory(kind)) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except FileNotFoundError:
        return []


def is_name(name: str) -> bool:
    """Whether an object of the cache could bear this name; an operand may be anything."""
    return bool(name) and not name.startswith(".") and "/" not in name and "\0" not in name


def find(kind: Kind, name: str) -> str | None:
    """The path of the object called `name`, None if there is none."""
    if not is_name(name):
        return None
    path = os.path.join(directory(kind), name)
    if not os.path.isdir(path):
        return None
    if kind == "kernels":  # the root directory of a master keeps the mode of its distribution
        trust.check_cache(path)
    return path


def missing(kind: Kind, name: str, hint: str | None = None) -> NotFound:
    """The error for an object that does not exist; `hint` is for a name that is like no other."""
    from dumm_tools.missing import similar

    known = names(kind)
    if hint is None and known:
        hint = f"there is {', '.join(known[:10])}"
    return NotFound(f"no {NOUN[kind]} '{name}'", hint=similar(name, known, hint))


def lock_of(kind: Kind, path: str) -> str | None:
    """The lock that guards the directory `path`, None if it is not an object of the cache.

    A working set refers to a pack with a symbolic link, so the resolved path is used.
    """
    parent, name = os.path.split(os.path.realpath(path))
    if name.startswith(".") or parent != os.path.realpath(directory(kind)):
        return None
    return os.path.join(parent, f".{name}.lock")


def facts_path(kind: Kind, path: str) -> str | None:
    """The file with what is known about the object of the cache at `path`, which need not exist;
    None for other directories. It goes with its object."""
    lock = lock_of(kind, path)
    return lock.removesuffix(".lock") + ".json" if lock is not None else None


def hold(lock: str, path: str) -> int:
    """Take the lock of the object at `path` shared; the descriptor protects it from deletion.

    Conflict while it is being deleted, NotFound if it was deleted meanwhile. The descriptor is
    close-on-exec: pass it explicitly to the guest's process.
    """
    try:
        fd = _locked(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"'{path}' is being made or deleted") from None
    if not os.path.isdir(path):
        os.close(fd)
        raise NotFound(f"'{path}' was deleted")
    return fd


def guards(lock: str, fd: int) -> bool:
    """Whether what was locked by `hold` still has its name, and has not been replaced."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(lock))
    return False


@contextlib.contextmanager
def held(kind: Kind, path: str) -> Iterator[None]:
    """Protect the object at `path` from deletion meanwhile; see `hold`."""
    lock = lock_of(kind, path)
    fd = hold(lock, path) if lock is not None else None
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def scratch(kind: Kind, name: str) -> Iterator[str]:
    """A temporary directory next to the objects; anything left in it at the end is removed."""
    from dumm_tools.trees import staging

    place = made(kind)
    staging.sweep(place)
    with staging.scratch(place, name) as path:
        yield path


@contextlib.contextmanager
def build(
    kind: Kind,
    name: str,
    *,
    may_exist: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Iterator[str | None]:
    """Yield an empty directory that becomes `name` if the block succeeds.

    If `name` already exists, this is a Conflict, or with `may_exist` None is yielded and there is
    nothing to do. Two builds of the same name wait for each other.
    """
    from dumm_tools.trees import staging

    place = made(kind)
    final = os.path.join(place, name)
    if _present(kind, final, name, may_exist):
        yield None
        return
    with _exclusive(place, name, progress):
        if _present(kind, final, name, may_exist):
            yield None
            return
        staging.sweep(place)
        # A killed command may have left it.
        _forget_facts(place, name)
        # A root directory that only its owner may enter would shut out a guest's ordinary users.
        with staging.staged(final, 0o755) as work:
            yield work


@contextlib.contextmanager
def replacing(kind: Kind, name: str) -> Iterator[str]:
    """Yield an empty directory that takes the place of the object `name` if the block succeeds.

    Guests that run from the old one keep it: it is removed when they have ended, by the next
    command that makes or deletes something here. The caller sees to it that only one replaces.
    """
    from dumm_tools.trees import staging

    place = made(kind)
    staging.sweep(place)
    final = os.path.join(place, name)
    with staging.replaced(final, 0o755, os.path.join(place, f".{name}.lock")) as work:
        yield work


def delete(kind: Kind, name: str) -> None:
    """Delete an object. NotFound if there is none, Conflict while guests run from it."""
    if find(kind, name) is None:
        raise missing(kind, name)
    place = directory(kind)
    try:
        fd = _locked(os.path.join(place, f".{name}.lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"{NOUN[kind]} '{name}' is in use") from None
    try:
        if find(kind, name) is None:
            raise missing(kind, name)
        from dumm_tools.trees import staging, tree

        tree.refuse_mounts(os.path.join(place, name))
        staging.sweep(place)
        staging.discard(place, name)
        _forget_facts(place, name)
    finally:
        os.close(fd)


def _forget_facts(place: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(place, f".{name}.json"))


def _present(kind: Kind, final: str, name: str, may_exist: bool) -> bool:
    if not os.path.lexists(final):
        return False
    if may_exist and os.path.isdir(final):
        return True
    raise Conflict(f"{NOUN[kind]} '{name}' already exists")


def made(name: str) -> str:
    """The directory `name` of the cache, created if missing.

    Only we can access it: a master may contain setuid root programs.
    """
    from dumm_tools.trees import exposure

    path = place(name)
    parent = os.path.dirname(path)
    os.makedirs(os.path.dirname(parent), exist_ok=True)
    for each in (parent, path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(each, 0o700)
    if exposure.is_open(path):
        os.chmod(path, 0o700)
    return path


@contextlib.contextmanager
def _exclusive(place: str, name: str, progress: Callable[[str], None] | None) -> Iterator[None]:
    lock = os.path.join(place, f".{name}.lock")
    try:
        fd = _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if progress:
            progress(f"waiting for another command that uses the name '{name}'")
        fd = _locked(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def _locked(lock: str, operation: int) -> int:
    """A descriptor of the file `lock`, locked by flock(2) while the file has this name."""
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, operation)
            if guards(lock, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
