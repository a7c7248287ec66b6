"""Atomic exchange of two files: renameat2(2)."""

from __future__ import annotations

import os

from dumm_tools.linux import libc

_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h


def exchange(one: str, other: str) -> bool:
    """Exchange two existing paths. False if the file system cannot, or one of them is missing."""
    paths = os.fsencode(one), os.fsencode(other)
    return libc.call("renameat2", _AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0
