"""Whether a guest is alive: its lock, its process, its readiness.

Every reading command needs this, so it must stay quick to import. `contact.py` talks to guests.

The alive lock is held by the command that starts a guest, then by the keeper of its jail, through
an inherited descriptor: it is free when, and only when, both are gone. The keeper ends with the
guest's process, which cannot reach the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from dumm_tools import holder, waiting
from dumm_tools.errors import Conflict
from dumm_tools.linux import process

if TYPE_CHECKING:
    from dumm_tools.model import Guest, GuestState, State


def run_dir(labdir: str, name: str) -> str:
    """The directory of a guest's run-time files."""
    return os.path.join(labdir, "run", name)


def make_run_dir(labdir: str, name: str) -> str:
    """Create that directory, accessible only to us regardless of the umask."""
    run = run_dir(labdir, name)
    for directory in (os.path.dirname(run), run):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
    return run


def host_boot() -> str:
    """The boot ID of the host (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def epoch(labdir: str, state: State) -> str:
    """The epoch that a guest's boot belongs to: the host's boot and, in an isolated lab, its
    holder. Guests of another epoch are gone, whatever files they left."""
    if state.epoch is None:
        if not state.isolated:
            state.epoch = host_boot()
        elif known := holder.lives(labdir):
            state.epoch = f"{host_boot()} {known[0]} {known[1]}"
        else:
            state.epoch = ""
    return state.epoch


def alive(labdir: str, name: str) -> bool:
    """Whether the guest's process exists, or a command that is just starting it."""
    try:
        fd = take_alive_lock(labdir, name, fcntl.LOCK_SH, os.O_RDONLY)
    except FileNotFoundError:
        return False
    if fd is not None:
        os.close(fd)
    return fd is None


def take_alive_lock(
    labdir: str, name: str, how: int = fcntl.LOCK_EX, flags: int = os.O_RDWR | os.O_CREAT
) -> int | None:
    """Take the alive lock of a guest; return its descriptor, which keeps the guest from starting,
    or None if the lock is held. Readers hold it for microseconds, too."""
    fd = _open_alive_lock(labdir, name, flags)
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def await_alive_lock(
    labdir: str, name: str, timeout: float, flags: int = os.O_RDWR | os.O_CREAT
) -> int:
    """As `take_alive_lock`, but wait until the lock is free; TimedOut."""
    fd = _open_alive_lock(labdir, name, flags)
    try:
        waiting.lock(fd, timeout, f"guest '{name}'")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_alive_lock(labdir: str, name: str, flags: int) -> int:
    path = os.path.join(run_dir(labdir, name), "lock")
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def await_end(labdir: str, name: str, timeout: float) -> None:
    """Wait for a guest's process and its jail to be gone; TimedOut."""
    waiting.must_not_wait(f"the end of guest '{name}'")
    with contextlib.suppress(FileNotFoundError):
        os.close(await_alive_lock(labdir, name, timeout, os.O_RDWR))


def runs_unrecorded(labdir: str, name: str) -> bool:
    """Whether the guest's process exists although its record does not say so, as when the record
    was restored from a backup. The lock alone may be held by a commit."""
    return alive(labdir, name) and process.lives(pid_of(labdir, name))


def umid_dir(labdir: str, name: str) -> str:
    """The guest kernel's own directory: a halt removes it, a crash leaves it behind."""
    return os.path.join(run_dir(labdir, name), "uml", "m")


def guest_state(labdir: str, state: State, guest: Guest) -> GuestState:
    """Combine the record with the actual state."""
    boot = guest.boot
    if boot is None or boot.host_boot != epoch(labdir, state):
        if not runs_unrecorded(labdir, guest.name):
            return "stopped"
        return "running" if ready_nonce(labdir, guest.name) else "starting"
    if not alive(labdir, guest.name):
        # One that is stopped by force cannot tidy up, as one that has crashed cannot.
        asked = boot.phase == "stopping" or not os.path.isdir(umid_dir(labdir, guest.name))
        return "stopped" if asked else "crashed"
    if boot.phase == "stopping":
        return "stopping"
    if ready_nonce(labdir, guest.name) != boot.nonce:
        return "starting"
    if is_ending(labdir, guest.name):
        return "stopping"
    return "paused" if boot.phase == "paused" else "running"


def ready_nonce(labdir: str, name: str) -> str:
    """The nonce written by the agent when it was ready; "" before, and again while the guest
    reboots (agent/jail/boot.c). The guest can write to this file, so do not trust it."""
    path = os.path.join(run_dir(labdir, name), "uml", "ready")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 64).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def was_ready(labdir: str, name: str) -> bool:
    """Whether the agent of this boot has ever been ready."""
    return os.path.lexists(os.path.join(run_dir(labdir, name), "uml", "ready"))


def is_ending(labdir: str, name: str) -> bool:
    """Whether the agent is shutting the guest down, to halt or to reboot, as it says itself."""
    return os.path.lexists(os.path.join(run_dir(labdir, name), "uml", "ending"))


def pid_of(labdir: str, name: str) -> tuple[int, int] | None:
    """Pid and start time of the guest's process, as written by the jail."""
    return process.recorded(os.path.join(run_dir(labdir, name), "pid"))


def pidfd_of(labdir: str, name: str) -> int | None:
    """A pidfd of the guest's process; the caller closes it."""
    known = pid_of(labdir, name)
    return process.open_pidfd(*known) if known else None


def files_pidfd_of(labdir: str, guest: Guest) -> int | None:
    """A pidfd of the process in whose mount namespace the guest's tree is: that of the server of
    its root file system, or of its kernel. The caller closes it."""
    if not guest.is_served:
        return pidfd_of(labdir, guest.name)
    known = process.recorded(os.path.join(run_dir(labdir, guest.name), "server.pid"))
    return process.open_pidfd(*known) if known else None


def is_running(labdir: str, state: State, name: str) -> bool:
    """Whether a guest is running and ready, as far as can be seen; False if it does not exist."""
    guest = state.guests.get(name)
    return guest is not None and guest_state(labdir, state, guest) == "running"


def need_running(labdir: str, state: State, guest: Guest) -> None:
    """Raise Conflict unless the guest can answer."""
    found = guest_state(labdir, state, guest)
    if found != "running":
        raise Conflict(f"guest '{guest.name}' is {found}")
