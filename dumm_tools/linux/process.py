"""Processes by pidfd: inspect and signal them without ever hitting another process that reuses the
pid."""

from __future__ import annotations

import os
import signal
import time

_PF_EXITING = 0x4  # include/linux/sched.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start_time(pid: int, *, ending: bool = False) -> int | None:
    """Field 22 of /proc/PID/stat (proc_pid_stat(5)), in clock ticks since the host's boot; None for
    a process that is gone, even if it has not been reaped.

    A process that is exiting counts as gone, unless `ending` is set: it has given up its
    namespaces, but pid 1 of a pid namespace exists until all other processes in it have been
    reaped, including by parents outside.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X") or (not ending and int(fields[6]) & _PF_EXITING):
            return None
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def end_with_parent() -> None:
    """Have this process killed when its parent ends (PR_SET_PDEATHSIG(2const))."""
    from dumm_tools.linux.libc import call

    call("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def recorded(path: str) -> tuple[int, int] | None:
    """The pid and the start time in a file; None if the file does not exist, does not contain two
    such numbers, or can be written by others, who could name any process."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return None
        pid, started = os.read(fd, 64).split()
        return int(pid), int(started)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def lives(known: tuple[int, int] | None) -> bool:
    """Whether a process with this pid and this start time exists."""
    return known is not None and start_time(known[0]) == known[1]


def proc_is_foreign() -> bool:
    """Whether /proc belongs to another pid namespace than ours, so that pids from it name other
    processes to system calls."""
    return os.readlink("/proc/self") != str(os.getpid())


def open_pidfd(pid: int, started: int, *, ending: bool = False) -> int | None:
    """A pidfd of the process with this pid and this start time; None if it is gone or (unless
    `ending`) exiting."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    # The pid may have been reused before pidfd_open, but not after it.
    if start_time(pid, ending=ending) != started:
        os.close(fd)
        return None
    return fd


def _parent(pid: int) -> int:
    """The pid of a process's parent; 0 if there is none that we can see."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def open_parent(pid: int, started: int) -> int | None:
    """A pidfd of the parent of the process with this pid and this start time; None if one of the
    two is gone."""
    above = _parent(pid)
    if above <= 0:
        return None
    try:
        fd = os.pidfd_open(above)
    except OSError:
        return None
    # If the process is still there, and its parent still that, then we have the right one.
    if _parent(pid) != above or start_time(pid, ending=True) != started:
        os.close(fd)
        return None
    return fd


def pid_of(pidfd: int) -> int:
    """The pid of a pidfd's process according to /proc, which may belong to another pid namespace
    than ours (pidfd_open(2)); -1 if it is gone."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["Pid"])


def send_signal(pidfd: int, number: int) -> bool:
    """Send a signal; return False if the process is gone."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def wait_exit(pidfd: int, timeout: float) -> bool:
    """Wait for the process to exit; return False after `timeout` seconds."""
    import select  # not needed by reading commands

    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if poll.poll(max(0, int(min(left * 1000, 1 << 30)))):
            return True
        if left <= 0:
            return False
