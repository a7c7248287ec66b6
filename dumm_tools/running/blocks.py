"""Notes of changes for the time of a command, in run/blocks.d.

A note is locked by its command as long as that runs. Of two commands that overlap, the one that
ends first passes on to the other what that has replaced. The note of one that was killed stays: the
next one with the same change takes it over, and any other change of the same thing forgets it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Container, Iterable, Iterator
from typing import NamedTuple

from dumm_tools import waiting
from dumm_tools.errors import DummError

#: In run/. Names with a dot cannot be a guest's.
_PLACE = "blocks.d"
Value = str | float | bool | None


class Change(NamedTuple):
    """A subject with its values before and during the command, and where in a list it was."""

    subject: tuple[str, ...]
    before: Value
    after: Value
    position: int | None = None


class Block(NamedTuple):
    """The note of a running command."""

    path: str
    fd: int


def begin(labdir: str, look: Callable[[], Iterable[Change]]) -> Block:
    """Note the changes that `look` finds, with the values of this moment."""
    list(look())  # its errors come before anything is made
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(labdir, "run"), 0o700)
    with contextlib.suppress(FileExistsError):
        os.mkdir(_place(labdir), 0o700)
    with _lock(labdir):
        changes = list(look())
        for left in _left(labdir):
            changes = [_inherited(change, _read(left)) for change in changes]
        _forget(labdir, {change.subject for change in changes})
        number = max(map(_number, _notes(labdir)), default=0) + 1
        path = os.path.join(_place(labdir), str(number))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        _write(fd, changes)
        return Block(path, fd)


@contextlib.contextmanager
def ending(labdir: str, block: Block) -> Iterator[Callable[[], list[Change]]]:
    """Yield a function that finds the changes that must be undone, unless something else is there
    by now. It is called where others cannot make these changes. Afterwards the note is removed; if
    undoing fails, it stays."""

    def look() -> list[Change]:
        with _lock(labdir):
            return _pass_on(labdir, block)

    yield look
    with _lock(labdir):
        _pass_on(labdir, block)  # to commands that have begun meanwhile
        os.unlink(block.path)


def forget(labdir: str, subjects: Container[tuple[str, ...]]) -> None:
    """Forget what commands that were killed have left of these: it is about to be changed."""
    if os.path.isdir(_place(labdir)):
        with _lock(labdir):
            _forget(labdir, subjects)


def left(labdir: str) -> list[Change]:
    """The changes of commands that were killed, the latest first."""
    if not os.path.isdir(_place(labdir)):
        return []
    with _lock(labdir):
        return [change for path in _left(labdir) for change in _read(path)]


def _pass_on(labdir: str, block: Block) -> list[Change]:
    """Have later commands that replaced values of a block restore the earlier ones. Return the
    changes that no other command relies on."""
    rest = passing = _read(block.path)
    for path in _notes(labdir):
        if _number(path) <= _number(block.path):
            continue
        noted = _read(path)
        _replace(path, [_inherited(change, passing) for change in noted])
        same = {(change.subject, change.after) for change in noted}
        # A command after one with the same value has replaced the value of that one.
        passing = [change for change in passing if (change.subject, change.after) not in same]
        if _is_locked(path):
            rest = [change for change in rest if (change.subject, change.after) not in same]
    return rest


def _follows(change: Change, earlier: Change) -> bool:
    return (change.subject, change.before) == (earlier.subject, earlier.after)


def _inherited(change: Change, earlier: Iterable[Change]) -> Change:
    """A change that also replaces the earlier ones."""
    for each in earlier:
        if _follows(change, each):
            return change._replace(before=each.before, position=each.position)
    return change


def _forget(labdir: str, subjects: Container[tuple[str, ...]]) -> None:
    for path in _left(labdir):
        rest = [change for change in _read(path) if change.subject not in subjects]
        if rest:
            _replace(path, rest)
        else:
            os.unlink(path)


def _place(labdir: str) -> str:
    return os.path.join(labdir, "run", _PLACE)


@contextlib.contextmanager
def _lock(labdir: str) -> Iterator[None]:
    """Keep others from the notes; held for milliseconds."""
    try:
        fd = os.open(_place(labdir), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as e:
        raise DummError(f"cannot open '{_place(labdir)}': {e.strerror}") from None
    try:
        waiting.lock(fd, 10, "the notes of running blocks")
        yield
    finally:
        os.close(fd)


def _number(path: str) -> int:
    return int(os.path.basename(path))


def _notes(labdir: str) -> list[str]:
    """The notes, oldest first."""
    place = _place(labdir)
    names = filter(str.isdecimal, os.listdir(place))
    return sorted((os.path.join(place, name) for name in names), key=_number)


def _left(labdir: str) -> list[str]:
    """The notes of commands that were killed, latest first."""
    return [path for path in reversed(_notes(labdir)) if not _is_locked(path)]


def _is_locked(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _read(path: str) -> list[Change]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.readline()
    try:
        return [Change(tuple(subject), *rest) for subject, *rest in json.loads(text)]
    except (ValueError, TypeError):  # killed while it was written
        return []


def _replace(path: str, changes: list[Change]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _write(fd, changes)
    finally:
        os.close(fd)


def _write(fd: int, changes: list[Change]) -> None:
    """Replace the first line, which is all that counts."""
    text = json.dumps(changes).encode() + b"\n"
    os.pwrite(fd, text, 0)
    os.ftruncate(fd, len(text))
