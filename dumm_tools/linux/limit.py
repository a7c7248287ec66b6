"""Limits of this process, which its children inherit (getrlimit(2))."""

from __future__ import annotations

import contextlib
import resource

#: More open files than any host allows.
MOST = 1 << 40
_NR_OPEN = "/proc/sys/fs/nr_open"


def raise_files(wanted: int) -> int:
    """Raise the hard limit of open files to `wanted`, or as far as we may; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        with contextlib.suppress(OSError, ValueError):  # not privileged, or no /proc
            with open(_NR_OPEN, encoding="ascii") as file:
                most = int(file.read())
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, min(wanted, most))))
            return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard


def use_files(wanted: int | None = None) -> int:
    """Raise this process's own limit of open files to `wanted` (None: the hard limit), or as far as
    we may; return it. Not for processes that call select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if wanted is None else min(wanted, hard)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
