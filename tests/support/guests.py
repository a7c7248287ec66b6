"""Facts about guests, seen from outside."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from support.labs import Lab


def state_of(lab: Lab, name: str) -> str:
    """Fields of a guest in `list`."""
    return lab(f"dumm-guest show -o state {name}").out.strip()


def inside(path: Path) -> str:
    """The name of a path of `Lab.mounted` in the lab's own mount namespace."""
    return re.sub(r"^/proc/\d+/root", "", str(path))


def pid_of(lab: Lab, name: str) -> int:
    """The process of a guest: its kernel, or the parent of that (agent/jail/again.c)."""
    return int(lab(f"dumm-guest show -o pid {name}").out)


def children(pid: int) -> list[int]:
    """The processes that another has started."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kernel_of(pid: int) -> int:
    """The kernel of a guest whose process is `pid`. Its own children may be called like it."""
    if b"\0DUMM_KEEP=" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        return pid
    words = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(pid)}
    return next(child for child in words if words[child].startswith(b"/boot\0"))


def timed_out(run: Callable[[str], str]) -> str:
    """The message of a command that runs into its time limit, with {} for the limit. `run` runs it
    with a limit of so many seconds.

    On a busy machine a guest may need all of a short limit to answer at all: then it gets more.
    """
    for limit in ("3", "15", "75"):
        message = run(limit)
        if "does not answer" not in message:
            break
    return message.replace(f" {limit} s", " {} s")


def processes(lab: Lab, name: str) -> list[str]:
    """The names of a guest's user processes, except for its first one and the one that lists
    them."""
    found = lab(["dumm-guest", "exec", name, "--", "ps", "-o", "pid,args"]).lines[1:]
    rows = [line.split(maxsplit=1) for line in found]
    # Kernel threads are in brackets.
    return [r[1] for r in rows if r[0] != "1" and r[1][0] != "[" and r[1] != "ps -o pid,args"]
