"""Control groups that limit the memory of a process: cgroups(7), versions 2 and 1.

A group is created below our own, where that is permitted: for root, or in a part of the hierarchy
that was delegated to the user.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import NamedTuple

TOP = "/sys/fs/cgroup"


class _Tree(NamedTuple):
    directory: str
    limit: str  # name of the file for the limit in bytes


def make(name: str, limit: int) -> str:
    """Create a group `name` limited to `limit` bytes; return its directory. OSError if that is not
    possible."""
    tree = _find()
    path = os.path.join(tree.directory, name)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        if not is_empty(path):
            raise
    try:
        with open(os.path.join(path, tree.limit), "w", encoding="ascii") as file:
            file.write(str(limit))
        # Needed to move a process there; checked now, before it is too late.
        if not os.access(os.path.join(path, "cgroup.procs"), os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise
    return path


def remove(path: str) -> bool:
    """Remove a group; return False while it contains processes."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def is_empty(path: str) -> bool:
    """Whether a group contains no processes."""
    with open(os.path.join(path, "cgroup.procs"), encoding="ascii") as file:
        return not file.read()


def _find() -> _Tree:
    """Find where a memory group can be created: below our own group, in the hierarchy that has the
    controller."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers == "memory":
                return _Tree(f"{TOP}/memory{path}", "memory.limit_in_bytes")
            if not controllers:
                directory = f"{TOP}{path}".rstrip("/")
                with (
                    contextlib.suppress(OSError),
                    open(f"{directory}/cgroup.subtree_control", encoding="ascii") as control,
                ):
                    if "memory" in control.read().split():
                        return _Tree(directory, "memory.max")
    raise OSError(errno.ENOTSUP, "no usable memory controller")
