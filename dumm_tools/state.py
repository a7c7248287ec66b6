"""state.json: read by anyone, written only inside `transaction` (dumm-state(5)).

Writers hold a lock on the sibling `.lock`, which is never renamed or removed, and replace
the file in one step; readers take no lock and see the old file or the new one. The lock is
held for milliseconds and is never inherited by a child.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dumm_tools.errors import DummError, NotFound, TimedOut
from dumm_tools.model import Boot, Bridge, Guest, Iface, State

FILE = "state.json"
LOCK = ".lock"
VERSION = 1
#: Seconds to wait for another command's transaction.
LOCK_TIMEOUT = 10.0

R = TypeVar("R", Boot, Guest, Iface, Bridge)


def load(root: str) -> State:
    """Read the working set's state; NotFound where there is none, DummError where it is damaged."""
    return _decode(root, _read(root))


class Transaction:
    """A state that may be changed, and whose changes may be saved before the end."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._before = self._saved = _read(root)
        self.state = _decode(root, self._before)

    def save(self) -> None:
        """Write the state as it is now: intent goes before the kernel, so that a crash
        leaves a record and not an orphan."""
        text = _encode(self.state)
        if text == self._saved:
            return
        last, self._saved = self._saved, text  # first: an interrupt may come when it is written
        try:
            _replace(self._root, text)
        except DummError:
            self._saved = last
            raise

    def revert(self) -> None:
        """Put back what the file said before."""
        if self._saved != self._before:
            _replace(self._root, self._before)


@contextlib.contextmanager
def transaction(root: str) -> Iterator[Transaction]:
    """Lock, read, hand out the state to be changed, and write it back; an exception undoes all
    that was written. TimedOut after LOCK_TIMEOUT seconds, naming the holder.

    Ctrl-C waits for the end, so that record and kernel agree; a second one is obeyed at once.
    """
    _read(root)
    with _locked(root), unbroken():
        change = Transaction(root)
        try:
            yield change
            change.save()
        except BaseException:
            change.revert()
            raise


def create(root: str, state: State) -> None:
    """Write the first state of a working set whose lock file exists."""
    with _locked(root):
        _replace(root, _encode(state))


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C inside waits for the end, a second one does not."""
    caught = 0

    def later(*_: object) -> None:
        nonlocal caught
        caught += 1
        if caught > 1:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, for one
        yield
        return
    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if caught == 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _locked(root: str) -> Iterator[None]:
    fd = os.open(os.path.join(root, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(fd, LOCK_TIMEOUT, f"the working set '{root}'")
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(fd)


def lock(fd: int, timeout: float, what: str) -> None:
    """Take an exclusive flock within `timeout` seconds; TimedOut names the holder's pid."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass

    def expired(*_: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except TimeoutError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        by = f" by process {holder}" if holder.isdigit() else ""
        raise TimedOut(f"{what} is locked{by}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _replace(root: str, text: str) -> None:
    path = os.path.join(root, FILE)
    # One writer at a time, under the lock: a temporary left by a killed one is simply reused.
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


def _read(root: str) -> str:
    try:
        with open(os.path.join(root, FILE), encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"no working set in '{root}'", hint="make one with 'dumm-fs init', or name one with -C"
        ) from None
    except UnicodeDecodeError as e:
        raise DummError(f"'{os.path.join(root, FILE)}' is not UTF-8: {e.reason}") from None


def _encode(state: State) -> str:
    """One line for each object, for readers and for diff: and since only text without line breaks
    is written by json's quick encoder, which a lab of a thousand guests needs."""
    top: dict[str, object] = {
        **state.extra,
        "version": VERSION,
        "id": state.id,
        "lock_inode": state.lock_inode,
        "isolated": state.isolated,
        "template": state.template,
        "guests": state.guests,
        "ifaces": state.ifaces,
        "bridges": state.bridges,
    }
    encode = json.JSONEncoder(sort_keys=True).encode
    parts = []
    for key, value in sorted(top.items()):
        if key in ("guests", "ifaces", "bridges") and isinstance(value, dict):
            lines = [f"  {encode(n)}: {encode(_plain(r))}" for n, r in sorted(value.items())]
            text = "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"
        else:
            text = encode(value)
        parts.append(f" {encode(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _plain(record: Boot | Guest | Iface | Bridge) -> dict[str, object]:
    out = {**record.extra, **vars(record)}
    del out["extra"]
    out.pop("name", None)
    if out.get("boot") is not None:
        out["boot"] = _plain(out["boot"])
    return out


def _decode(root: str, text: str) -> State:
    path = os.path.join(root, FILE)
    try:
        data: Any = json.loads(text)
    except ValueError as e:
        raise DummError(f"'{path}' is not valid JSON: {e}") from None
    lock_inode = os.stat(os.path.join(root, LOCK)).st_ino
    if not isinstance(data, dict) or not isinstance(data.get("version"), int):
        raise DummError(f"'{path}' is not a working set's state: no version")
    if data["version"] > VERSION:
        raise DummError(
            f"'{path}' was written by a newer dumm-tools (format {data['version']})",
            hint="use that version, or start a new working set",
        )
    copied = data.get("lock_inode") != lock_inode
    if not isinstance(data.get("template"), str | None):
        raise DummError(f"'{path}': key 'template' is not a string")
    known = ("version", "id", "lock_inode", "isolated", "template", "guests", "ifaces", "bridges")
    if not isinstance(data.get("id"), str) or not data["id"]:
        raise DummError(f"'{path}': key 'id' is missing or not a string")
    state = State(
        # A copy owns nothing that its original made: it gets a tag of its own.
        id=os.urandom(6).hex() if copied else data["id"],
        lock_inode=lock_inode,
        isolated=bool(data.get("isolated", False)),
        template=data.get("template"),
        extra={k: v for k, v in data.items() if k not in known},
    )
    state.guests = _records(path, data, "guests", Guest)
    state.ifaces = _records(path, data, "ifaces", Iface)
    state.bridges = _records(path, data, "bridges", Bridge)
    if copied:
        for guest in state.guests.values():
            guest.boot = None
    return state


def _records(path: str, data: dict[str, Any], key: str, cls: type[R]) -> dict[str, R]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise DummError(f"'{path}': key '{key}' is not an object")
    return {
        name: _record(f"'{path}': {key}.{name}", {**row, "name": name}, cls)
        if isinstance(row, dict)
        else _bad(f"'{path}': {key}.{name} is not an object")
        for name, row in sorted(table.items())
    }


def _bad(message: str) -> Any:
    raise DummError(message)


Check = Callable[[Any], bool]
_checks: dict[type, dict[str, Check]] = {}


def _record(where: str, row: dict[str, Any], cls: type[R]) -> R:
    checks = _checks.get(cls)
    if checks is None:
        hints = get_type_hints(cls)
        checks = _checks[cls] = {k: _check(hints[k]) for k in cls.fields() if k != "extra"}
    values = dict(row)
    extra = {key: values.pop(key) for key in row.keys() - checks.keys()}
    boot = values.get("boot")
    if isinstance(boot, dict):
        values["boot"] = _record(f"{where}.boot", boot, Boot)
    for key, value in values.items():
        if not checks[key](value):
            raise DummError(f"{where}.{key} has a wrong value: {json.dumps(value, default=vars)}")
    try:
        return cls(**values, extra=extra)
    except TypeError:
        raise DummError(f"{where} lacks a key") from None


def _check(hint: Any) -> Check:
    """What tells whether a value is of a type; made once for each key of a record."""
    if isinstance(hint, UnionType):
        arms = [_check(arm) for arm in get_args(hint)]
        return lambda value: any(arm(value) for arm in arms)
    origin = get_origin(hint)
    if origin is list:
        item = _check(get_args(hint)[0])
        return lambda value: isinstance(value, list) and all(map(item, value))
    if origin is dict:
        return lambda value: isinstance(value, dict)
    if origin is not None:  # Literal
        return get_args(hint).__contains__
    if hint is int:
        return lambda value: type(value) is int  # and no bool
    return lambda value: isinstance(value, hint)
