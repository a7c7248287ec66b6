"""What of a guest is alive: its lock, its process, its lines, its mconsole.

The alive lock is held by the command that starts a guest, then by the guest's process, through
an inherited descriptor: it is free when, and only when, both are gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
import time
from collections.abc import Iterator

from dumm_tools.agent.client import ANSWER_TIMEOUT, LINES, Control, Line, LineLost, Ready
from dumm_tools.errors import Conflict, DummError, TimedOut
from dumm_tools.linux import mconsole as mc
from dumm_tools.linux import inotify, process
from dumm_tools.model import Guest, GuestState, State


def run_dir(root: str, name: str) -> str:
    """Where the run-time files of a guest are."""
    return os.path.join(root, "run", name)


def host_boot() -> str:
    """The id of the host's present boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def holder(root: str) -> tuple[int, int] | None:
    """Pid and start time of the process that holds an isolated lab's namespaces."""
    return _pid_file(os.path.join(root, "run", "holder"))


def epoch(root: str, state: State) -> str:
    """What a guest's boot belongs to: the host's boot, and in an isolated lab its holder. Guests
    of another epoch are gone, whatever files they left."""
    if not state.isolated:
        return host_boot()
    known = holder(root)
    if known is None or process.start_time(known[0]) != known[1]:
        return ""
    return f"{host_boot()} {known[0]} {known[1]}"


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
    if boot is None or boot.host_boot != epoch(root, state):
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
    return _pid_file(os.path.join(run_dir(root, name), "pid"))


def _pid_file(path: str) -> tuple[int, int] | None:
    try:
        with open(path, encoding="ascii") as file:
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
    """The first line that is free; when none is, wait until one is closed."""
    directory = run_dir(root, name)
    deadline = time.monotonic() + timeout
    closed = -1
    try:
        while True:
            for number in numbers:
                try:
                    return Line(directory, number, pidfd)
                except BlockingIOError:
                    continue
                except FileNotFoundError:
                    raise Conflict(f"guest '{name}' is not running") from None
            if closed < 0:  # and look again: one may have been closed before the watch
                closed = inotify.watch(directory, inotify.IN_CLOSE)
                continue
            poll = select.poll()
            poll.register(closed, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            left = deadline - time.monotonic()
            # The second's limit is for a host that does not tell of FIFOs.
            ended = pidfd in dict(poll.poll(max(0, min(1000, int(left * 1000)))))
            if ended:
                raise Conflict(f"guest '{name}' is not running")
            if left <= 0:
                raise TimedOut(f"guest '{name}' is busy: all its lines are in use")
            inotify.drain(closed)
    finally:
        if closed >= 0:
            os.close(closed)


@contextlib.contextmanager
def control(root: str, name: str, timeout: float = ANSWER_TIMEOUT) -> Iterator[Control]:
    """The guest's control line, synchronised. Conflict, TimedOut, DummError."""
    with _taken(root, name, range(1), timeout) as line:
        line.hello(timeout)
        yield Control(line)


@contextlib.contextmanager
def program_line(root: str, name: str, timeout: float = ANSWER_TIMEOUT) -> Iterator[Line]:
    """A free line for a program, synchronised. When all are in use, wait without end."""
    with _taken(root, name, range(1, LINES), 1e6) as line:
        ready = line.hello(timeout)
        for number in ready.busy - {0}:
            _drop_orphan(root, name, number, line.pidfd, timeout)
        yield line


def _drop_orphan(root: str, name: str, number: int, pidfd: int, timeout: float) -> None:
    """End the program on a line whose client has died: the line is busy, and nobody holds it."""
    try:
        line = Line(run_dir(root, name), number, pidfd)
    except BlockingIOError:
        return
    try:
        line.hello(timeout)
    finally:
        line.close()


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
