"""Whether guests have something to do."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

#: A guest is idle if it was seen so this many times in a row, so far apart.
_LOOKS, _SECONDS = 6, 0.02


def settle(pids: Iterable[int], seconds: float) -> None:
    """Wait until guests with these processes are idle, for at most so many seconds."""
    roots = list(pids)
    deadline = time.monotonic() + seconds
    idle = 0
    while idle < _LOOKS and time.monotonic() < deadline:
        idle = 0 if any(map(_is_busy, roots)) else idle + 1
        time.sleep(_SECONDS)


def _is_busy(root: int) -> bool:
    """Whether a process or one of its descendants is running or ready to (proc_pid_stat(5))."""
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except OSError:  # it has ended
            continue
        if stat.rpartition(")")[2].split()[0] in "RD":
            return True
        waiting += map(int, children.split())
    return False
