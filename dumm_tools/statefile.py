"""state.json: read by anyone, written only inside `transaction` (dumm-state(5)).

Writers hold a lock on the sibling `.lock`, which is never renamed or removed, and replace
the file in one step; readers take no lock and see the old file or the new one. The lock is
held for milliseconds and is never inherited by a child.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from dumm_tools import holder, records, waiting
from dumm_tools.errors import DummError, NotFound
from dumm_tools.model import State
from dumm_tools.records import Outline

FILE = "state.json"
LOCK = ".lock"
#: Seconds to wait for another command's transaction.
LOCK_TIMEOUT = 10.0


def load(labdir: str) -> State:
    """Read the working set's state; NotFound if there is none, DummError if it is damaged."""
    return _decode(labdir, _read(labdir))


def outline(labdir: str) -> Outline:
    """The information needed before entering the lab's namespaces. Like `load`, but quicker for a
    lab with many guests."""
    return records.outline(os.path.join(labdir, FILE), _read(labdir))


def mentions(labdir: str, *keys: str) -> bool:
    """Whether a record may have one of these keys; quicker than `load`."""
    text = _read(labdir)
    return any(f'"{key}":' in text for key in keys)


class Transaction:
    """A state that may be changed, and whose changes may be saved before the end. A file that only
    differs in formatting is left as it is."""

    def __init__(self, labdir: str) -> None:
        self._labdir = labdir
        self._before = self._saved = _read(labdir)
        self.state = _decode(labdir, self._before)
        self._written = False

    def save(self) -> None:
        """Write the current state: the intent is recorded before the kernel is changed, so that a
        crash leaves a record and not an orphan."""
        text = records.encode(self.state)
        if text == self._saved or not (self._written or self._has_news()):
            return
        # First, because an interrupt may arrive once it is written.
        last = self._saved, self._written
        self._saved, self._written = text, True
        try:
            _replace(self._labdir, text)
        except DummError:
            self._saved, self._written = last
            raise

    def _has_news(self) -> bool:
        path = os.path.join(self._labdir, FILE)
        return self.state.copied or not records.says(path, self._before, self.state)

    def revert(self) -> None:
        """Restore the previous contents of the file."""
        if self._written:
            _replace(self._labdir, self._before)


@contextlib.contextmanager
def transaction(labdir: str, *, apart: bool = False) -> Iterator[Transaction]:
    """Lock, read, yield the state to be changed, and write it back; an exception undoes all that
    was written. TimedOut after LOCK_TIMEOUT seconds, naming the holder.

    For a lab with its own namespaces, this must be done inside them, since links would otherwise be
    made, and looked for, on the host: DummError elsewhere, unless `apart`, for records only.

    Ctrl-C waits for the end, so that record and kernel agree; a second one takes effect
    immediately.
    """
    _need_working_set(labdir)
    with _locked(labdir), waiting.unbroken():
        change = Transaction(labdir)
        if not (apart or change.state.here) and holder.lives(labdir):
            raise DummError(
                f"the lab in '{labdir}' can only be changed from inside its own namespaces"
            )
        locked = waiting.locked.set(True)
        try:
            yield change
            change.save()
        except BaseException:
            change.revert()
            raise
        finally:
            waiting.locked.reset(locked)


def need_here(state: State) -> None:
    """Raise DummError if new links and mounts would not be the lab's."""
    if not state.here:
        raise DummError("this lab has namespaces of its own, and this process is not in them")


def create(labdir: str, state: State) -> None:
    """Write the first state of a working set whose lock file exists."""
    with _locked(labdir):
        _replace(labdir, records.encode(state))


def prepare(directory: str, state: State) -> None:
    """Write the state of a working set that is yet to get its place."""
    _replace(directory, records.encode(state))


@contextlib.contextmanager
def _locked(labdir: str) -> Iterator[None]:
    fd = os.open(os.path.join(labdir, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with waiting.first():
            waiting.lock(fd, LOCK_TIMEOUT, f"the working set '{labdir}'")
        waiting.begin()
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(fd)


def _replace(labdir: str, text: str) -> None:
    path = os.path.join(labdir, FILE)
    # There is one writer at a time, under the lock: a temporary file of a killed one is reused.
    temporary = path + ".new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            data = text.encode()
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise DummError(f"cannot write '{path}': {e.strerror}") from None


def _need_working_set(labdir: str) -> None:
    """Check before a lock file is created where there is no lab."""
    if not os.path.exists(os.path.join(labdir, FILE)):
        raise _no_working_set(labdir)


def _no_working_set(labdir: str) -> NotFound:
    hint = "make one with 'dumm-fs init', or name one with -C"
    return NotFound(f"no working set in '{labdir}'", hint=hint)


def _read(labdir: str) -> str:
    try:
        with open(os.path.join(labdir, FILE), encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise _no_working_set(labdir) from None
    except UnicodeDecodeError as e:
        raise DummError(f"'{os.path.join(labdir, FILE)}' is not UTF-8: {e.reason}") from None


def read(labdir: str) -> tuple[str, int]:
    """The text of the state, and the inode of its lock; NotFound if there is no working set."""
    text = _read(labdir)
    try:
        return text, _lock_inode(labdir)
    except FileNotFoundError:
        raise _no_working_set(labdir) from None


def _lock_inode(labdir: str) -> int:
    return os.stat(os.path.join(labdir, LOCK)).st_ino


def _decode(labdir: str, text: str) -> State:
    lock_inode = _lock_inode(labdir)
    state = records.decode(os.path.join(labdir, FILE), text, lock_inode)
    state.here = not state.isolated or holder.is_inside(labdir)
    return state
