"""Limits on a guest's use of the host: those set by its jail, and a ceiling for its memory."""

from __future__ import annotations

from dumm_tools import proc
from dumm_tools.linux import cgroup, limit

#: A guest's allowance on the host in addition to its `--memory`: files in /dev/shm (bytes), ...
MEMORY_OVERHEAD = 32 << 20
#: ... private memory of the kernel, in each of its processes on the host (bytes), of which the data
#: of one with everything built in take 6 MiB, ...
PROCESS_DATA = 16 << 20
#: ... and, if a control group can be created, everything that its processes, and the host's kernel
#: on their behalf, use beyond its memory (bytes).
CEILING_OVERHEAD = 128 << 20
#: The server of a guest's root file system has a descriptor for each file that its kernel
#: remembers, which takes more than this many bytes of the guest's memory, ...
REMEMBERED = 1 << 10
#: ... and, for each of them, up to this much memory of the host, mostly that of the host's kernel;
SERVER_FILE = 4 << 10
#: apart from that, it has so much memory of its own (bytes).
SERVER_DATA = 64 << 20
#: Descriptors that the server (virtiofsd) keeps for itself; with fewer than these, little works.
SERVER_RESERVE = 640
SERVER_NEEDS = 4096
#: Its threads and processes.
SERVER_PROCESSES = 16
#: Files that a guest's kernel may have open: it opens one for each that is open in the guest.
FILES = 4096
#: Pending signals, including timers, of all its processes (its kernel needs two).
SIGNALS = 32


def processes(memory: int) -> int:
    """The maximum number of processes on the host for a guest with that much memory; each of its
    own is one. No more than its memory allows anyway, nor than a kernel can count."""
    return min(64 + (memory >> 20) * 8, 1 << 20)


def jail_options(memory: int) -> list[str]:
    """The limits as options of the jail (jail.c), for a guest with that much memory."""
    # fmt: off
    return [
        "--data", str(PROCESS_DATA),
        "--processes", str(processes(memory)),
        "--files", str(FILES),
        "--signals", str(SIGNALS),
    ]
    # fmt: on


def server_options(memory: int) -> list[str]:
    """The same for the jail of the server of its root file system."""
    # fmt: off
    return [
        "--data", str(SERVER_DATA + memory),
        "--processes", str(SERVER_PROCESSES),
        "--files", str(_server_files(memory)),
        "--signals", str(SIGNALS),
    ]
    # fmt: on


def _server_files(memory: int) -> int:
    return FILES + memory // REMEMBERED


def files_needed(memory: int) -> tuple[int, int]:
    """The limit of open files that we can have, and the one that the server of a guest with that
    much memory can make use of."""
    wanted = _server_files(memory)
    return limit.raise_files(wanted), wanted


def scarce_files(memory: int) -> int | None:
    """How many of the guest's files its server can have open, if its kernel may remember more. Our
    own limit, which the server inherits, is raised as far as the host allows it."""
    found, wanted = files_needed(memory)
    return None if found >= wanted else max(1, found - SERVER_RESERVE)


def ceiling(group: str, name: str, memory: int, served: bool) -> str:
    """Create a control group called `group` for a guest's memory, and for what the server of its
    root file system uses, if that is `served`; return its directory, or "" if
    the host does not allow it."""
    try:
        remembered = memory // REMEMBERED * SERVER_FILE if served else 0
        return cgroup.make(group, memory + CEILING_OVERHEAD + remembered)
    except OSError as e:
        proc.log(f"cannot limit the memory of guest '{name}': {e}", 2)
        return ""
