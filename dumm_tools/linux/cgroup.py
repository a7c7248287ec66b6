"""Control groups that bound a process's memory: cgroups(7), versions 2 and 1.

A group is made below the one that we are in ourselves, where that is allowed: by root, or in a part
of the tree that was delegated to the user.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass

TOP = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class _Tree:
    directory: str
    limit: str  # the file that takes bytes


def make(name: str, limit: int) -> str:
    """A new group `name` of at most `limit` bytes; its directory. OSError where there is none."""
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
        # What is needed to move a process there; asked now, not when it is too late.
        if not os.access(os.path.join(path, "cgroup.procs"), os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise
    return path


def remove(path: str) -> bool:
    """Remove a group; False while there are processes in it."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def is_empty(path: str) -> bool:
    """Is there no process in a group?"""
    with open(os.path.join(path, "cgroup.procs"), encoding="ascii") as file:
        return not file.read()


def _find() -> _Tree:
    """Where a group for memory can be made: below ours, in the tree that has the controller."""
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
