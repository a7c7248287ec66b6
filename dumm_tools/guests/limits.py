"""What a guest may take of the host: bounds that its jail sets, and a ceiling for its memory."""

from __future__ import annotations

from dumm_tools import proc
from dumm_tools.linux import cgroup

#: What a guest may take of the host besides its `--memory`: files in its /dev/shm (bytes), ...
MEMORY_OVERHEAD = 32 << 20
#: ... and memory of the kernel's own, in each of its processes on the host (bytes).
PROCESS_DATA = 8 << 20
#: ... and, where a control group can be made, all that its processes and the host's kernel use for
#: it together beyond its memory (bytes).
CEILING_OVERHEAD = 128 << 20
#: Files that a guest's kernel may have open: each that is open in the guest is one of its own.
FILES = 4096
#: Signals that may wait for all its processes, timers among them (its kernel needs two).
SIGNALS = 32


def processes(memory: int) -> int:
    """How many processes a guest of so much memory may have on the host, where each of its own
    is one: no more than it has memory for anyway, or than a kernel counts."""
    return min(64 + (memory >> 20) * 8, 1 << 20)


def jail_options(memory: int) -> list[str]:
    """The jail's limits for a guest of so much memory (jail.c)."""
    # fmt: off
    return [
        "--data", str(PROCESS_DATA),
        "--processes", str(processes(memory)),
        "--files", str(FILES),
        "--signals", str(SIGNALS),
    ]
    # fmt: on


def ceiling(group: str, name: str, memory: int) -> str:
    """Make a control group called `group` for a guest's memory; its directory, or nothing where the
    host lets us have none."""
    try:
        return cgroup.make(group, memory + CEILING_OVERHEAD)
    except OSError as e:
        proc.log(f"cannot limit the memory of guest '{name}': {e}", 2)
        return ""
