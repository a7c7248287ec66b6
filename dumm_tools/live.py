"""What of a guest is alive: its lock, its process, its lines, its mconsole.

The alive lock is held by the command that starts a guest, then by the guest's process, through
an inherited descriptor: it is free when, and only when, both are gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator

from dumm_tools.agent.client import ANSWER_TIMEOUT, LINES, Control, Line, LineLost, Ready
from dumm_tools.errors import Conflict, DummError, TimedOut
from dumm_tools.linux import mconsole as mc
from dumm_tools.linux import process
from dumm_tools.model import Guest, GuestState, State
from dumm_tools.state import lock


def run_dir(root: str, name: str) -> str:
    """Where the run-time files of a guest are."""
    return os.path.join(root, "run", name)


def host_boot() -> str:
    """The id of the host's present boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def alive(root: str, name: str) -> bool:
    """Is the guest's process there, or a command that is just starting it?"""
    try:
        fd = os.open(os.path.join(run_dir(root, name), "lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def umid_dir(root: str, name: str) -> str:
    """The guest kernel's own directory: a halt removes it, a crash leaves it."""
    return os.path.join(run_dir(root, name), "uml", "m")


def guest_state(root: str, state: State, guest: Guest) -> GuestState:
    """Merge what is written with what is there."""
    boot = guest.boot
    if boot is None or boot.host_boot != host_boot():
        return "stopped"
    if not alive(root, guest.name):
        return "crashed" if os.path.isdir(umid_dir(root, guest.name)) else "stopped"
    if boot.phase == "stopping":
        return "stopping"
    if _ready_nonce(root, guest.name) != boot.nonce:
        return "starting"
    return "paused" if boot.phase == "paused" else "running"


def _ready_nonce(root: str, name: str) -> str:
    """What the agent left when it was ready. The guest may write this file: believe little."""
    path = os.path.join(run_dir(root, name), "uml", "ready")
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


def pid_of(root: str, name: str) -> tuple[int, int] | None:
    """Pid and start time of the guest's process, as the jail wrote them."""
    try:
        with open(os.path.join(run_dir(root, name), "pid"), encoding="ascii") as file:
            pid, started = file.read().split()
        return int(pid), int(started)
    except (OSError, ValueError):
        return None


def pidfd_of(root: str, name: str) -> int | None:
    """A pidfd of the guest's process; the caller closes it."""
    known = pid_of(root, name)
    return process.open_pidfd(*known) if known else None


def need_running(root: str, state: State, guest: Guest) -> None:
    """Conflict unless the guest can answer."""
    found = guest_state(root, state, guest)
    if found != "running":
        raise Conflict(f"guest '{guest.name}' is {found}")


@contextlib.contextmanager
def _taken(root: str, name: str, numbers: range, timeout: float) -> Iterator[Line]:
    pidfd = pidfd_of(root, name)
    if pidfd is None:
        raise Conflict(f"guest '{name}' is not running")
    try:
        line = _take(root, name, numbers, pidfd, timeout)
        try:
            yield line
        except LineLost:
            raise DummError(f"guest '{name}' has ended") from None
        except TimeoutError:
            raise TimedOut(f"guest '{name}' does not answer") from None
        finally:
            line.close()
    finally:
        os.close(pidfd)


def _take(root: str, name: str, numbers: range, pidfd: int, timeout: float) -> Line:
    """The first line that is free; when none is, wait for the last of them."""
    directory = run_dir(root, name)
    for number in numbers:
        try:
            return Line(directory, number, pidfd)
        except BlockingIOError:
            continue
        except FileNotFoundError:
            raise Conflict(f"guest '{name}' is not running") from None
    deadline = time.monotonic() + timeout
    while True:
        fd = os.open(os.path.join(directory, f"line{numbers[-1]}.in"), os.O_RDWR | os.O_NONBLOCK)
        try:
            lock(fd, max(0.01, deadline - time.monotonic()), f"guest '{name}'")
        finally:
            os.close(fd)
        with contextlib.suppress(BlockingIOError):
            return Line(directory, numbers[-1], pidfd)


@contextlib.contextmanager
def control(root: str, name: str, timeout: float = ANSWER_TIMEOUT) -> Iterator[Control]:
    """The guest's control line, synchronised. Conflict, TimedOut, DummError."""
    with _taken(root, name, range(1), timeout) as line:
        line.hello(timeout)
        yield Control(line)


@contextlib.contextmanager
def program_line(root: str, name: str, timeout: float = ANSWER_TIMEOUT) -> Iterator[Line]:
    """A free line for a program, synchronised. When all are in use, wait without end."""
    with _taken(root, name, range(1, LINES), 1e9) as line:
        line.hello(timeout)
        yield line


def wait_ready(root: str, name: str, nonce: str, timeout: float) -> Ready:
    """Wait until the agent of the boot `nonce` answers on the control line."""
    deadline = time.monotonic() + timeout
    with _taken(root, name, range(1), timeout) as line:
        ready = line.hello(max(0.0, deadline - time.monotonic()))
    if ready.nonce != nonce:
        raise DummError(f"guest '{name}' answered for another boot")
    return ready


def mconsole(root: str, name: str, command: str, timeout: float = ANSWER_TIMEOUT) -> str:
    """Send one mconsole command to the guest's kernel and return its answer; DummError with the
    kernel's text when it refuses, Conflict when nobody is there, TimedOut."""
    path = os.path.join(umid_dir(root, name), "mconsole")
    try:
        failed, text = mc.request(path, command, timeout)
    except TimeoutError:
        raise TimedOut(f"guest '{name}' does not answer on its mconsole") from None
    except OSError as e:
        if e.errno == errno.EMSGSIZE:
            raise DummError("an mconsole command has at most 511 bytes") from None
        raise Conflict(f"guest '{name}' is not running") from None
    if failed:
        raise DummError(f"guest '{name}': {command.split()[0]}: {text}")
    return text


def write_boot(root: str, guest: Guest, records: list[tuple[str, int, bytes]]) -> None:
    """Write what the agent does at boot (boot.c, boot_configure), in one step."""
    head: list[tuple[str, int, bytes]] = [("H", 0, guest.name.encode() + b"\0")]
    if guest.init:
        head.append(("I", 0, os.fsencode(guest.init) + b"\0"))
    path = os.path.join(run_dir(root, guest.name), "xfer", "boot")
    with open(path + ".new", "wb") as file:
        for kind, slot, payload in head + records:
            file.write(struct.pack("<BBHI", ord(kind), 0, slot, len(payload)) + payload)
    os.replace(path + ".new", path)
