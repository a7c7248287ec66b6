"""Several entries that arrive in a directory together, or not at all, even if we are killed in
between: the next command takes back those of an unfinished arrival.

They are prepared in a temporary directory next to their places (`staging.scratch`), which also has
the list of those that are being moved.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os

from dumm_tools.errors import Conflict
from dumm_tools.trees import staging

_LIST = "arriving"
_NEW = "new"
_LIST_MAX = 1 << 20


def place(stage: str) -> str:
    """Where, in a temporary directory, the entries are prepared."""
    path = os.path.join(stage, _NEW)
    os.makedirs(path, 0o700, exist_ok=True)
    return path


def finish(stage: str, directory: str, last: str) -> None:
    """Move all prepared entries into the directory; once the entry `last` is there, it is done.
    Conflict if one of the names is taken by anything but an empty directory."""
    new = place(stage)
    names = sorted(os.listdir(new), key=lambda name: (name == last, name))
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(at, fcntl.LOCK_EX)
        refuse_taken(directory, names)
        with open(os.path.join(stage, _LIST), "x", encoding="ascii") as file:
            json.dump(names, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            for name in names:
                target = os.path.join(directory, name)
                with contextlib.suppress(OSError):  # the name of an empty directory
                    os.rmdir(target)
                os.rename(os.path.join(new, name), target)
        except BaseException:
            _take_back(stage, directory, names)
            raise
    finally:
        os.close(at)


def refuse_taken(directory: str, names: list[str]) -> None:
    """Raise Conflict if one of the names is taken by anything but an empty directory."""
    for name in names:
        path = os.path.join(directory, name)
        is_directory = os.path.isdir(path) and not os.path.islink(path)
        if os.path.lexists(path) and not (is_directory and not os.listdir(path)):
            raise Conflict(f"'{path}' already exists", hint="move it away")


def sweep(directory: str, name: str, last: str) -> None:
    """Take back the entries of arrivals that were killed, unless `last` has arrived, and remove
    what they have left. `name` is that of the temporary directory."""
    if not os.path.lexists(os.path.join(directory, last)):
        for stage in staging.abandoned(directory, name):
            with contextlib.suppress(OSError, ValueError):
                with open(os.path.join(stage, _LIST), encoding="ascii") as file:
                    names = json.loads(file.read(_LIST_MAX))
                _take_back(stage, directory, [n for n in names if staging.is_name(n)])
    staging.sweep(directory, name)


def _take_back(stage: str, directory: str, names: list[str]) -> None:
    for name in reversed(names):
        back = os.path.join(stage, _NEW, name)
        if not os.path.lexists(back):
            with contextlib.suppress(FileNotFoundError):
                os.rename(os.path.join(directory, name), back)
