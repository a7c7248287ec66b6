"""The use that a process and its descendants make of the host: proc_pid_stat(5), proc_pid_statm(5).

A process that has just ended counts as nothing; its time is in that of the parent that reaped it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """Processor time in seconds, and memory in bytes."""

    seconds: float
    memory: int

    def plus(self, other: Usage) -> Usage:
        """The sum of two."""
        return Usage(self.seconds + other.seconds, self.memory + other.memory)


def of_tree(pid: int) -> Usage:
    """The use by a process and its descendants. Memory that they share is counted once: as much
    as the one that uses most of it does."""
    ticks = private = shared = 0
    for each in _tree(pid):
        stat = _fields(f"/proc/{each}/stat")
        if len(stat) > 14:
            ticks += sum(map(int, stat[11:15]))  # its own, and of children that were waited for
        statm = _fields(f"/proc/{each}/statm")
        if len(statm) > 2:
            private += int(statm[1]) - int(statm[2])
            shared = max(shared, int(statm[2]))
    return Usage(ticks / _TICKS, (private + shared) * _PAGE)


def age(started: int) -> int:
    """The whole seconds since a time in clock ticks after the host's boot."""
    return max(0, int(time.clock_gettime(time.CLOCK_BOOTTIME) - started / _TICKS))


def _fields(path: str) -> list[bytes]:
    """The fields of a file, after the name of the program if there is one."""
    try:
        with open(path, "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _tree(pid: int) -> Iterator[int]:
    """A process and its descendants, as far as the host's kernel tells (CONFIG_PROC_CHILDREN)."""
    pending = [pid]
    while pending:
        pid = pending.pop()
        yield pid
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            pending += map(int, _fields(f"/proc/{pid}/task/{thread}/children"))
