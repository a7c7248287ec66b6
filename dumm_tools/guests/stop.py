"""Stopping guests, in an orderly way or by force, and cleaning up after them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dumm_tools.agent import protocol
from dumm_tools.agent.program import Program, request
from dumm_tools.errors import Conflict, DummError, TimedOut
from dumm_tools.files import choice, mounts
from dumm_tools.guests import control
from dumm_tools.linux import cgroup, process, rtnl
from dumm_tools.model import Guest, GuestState, State
from dumm_tools.net import iface
from dumm_tools.running import contact, guest_views, liveness, turn
from dumm_tools.statefile import load, transaction

#: Seconds in which a guest without an init of its own should have stopped.
TIMEOUT = 10.0
#: The same with one: systemd gives a service 90 s (DefaultTimeoutStopSec, systemd-system.conf(5)).
INIT_TIMEOUT = 100.0
#: Seconds that a killed process may take to disappear.
KILL_TIMEOUT = 10.0
#: Seconds in which guests have to accept a request to stop.
ASK_TIMEOUT = 2.0
#: Interval of checks whether a guest reboots instead of stopping (seconds).
LOOK = 0.2

OnError = Callable[[str, Exception], None]


# ---- stop ----


def stop(
    labdir: str,
    targets: Iterable[str],
    *,
    timeout: float | None,
    force: bool,
    if_exists: bool = False,
    on_error: OnError,
) -> None:
    """Stop guests in parallel: in an orderly way, and by force after `timeout` seconds; None: after
    the time that the kind of guest needs. One that is not running, or does not exist, is a failure,
    unless `if_exists`."""
    marked: dict[str, _Ending] = {}
    for name in targets:
        try:
            ending = _mark(labdir, name, if_exists)
            if ending is not None:
                marked[name] = ending
        except Exception as e:
            on_error(name, e)
    willing = {
        name: ending
        for name, ending in marked.items()
        if not force and ending.state not in ("crashed", "starting")
    }
    asked = _ask_all(labdir, willing)
    begin = time.monotonic()
    gone: dict[str, str] = {}
    for name, ending in marked.items():
        try:
            if name in asked:
                usual = TIMEOUT if ending.init is None else INIT_TIMEOUT
                _await_exit(labdir, name, begin + (usual if timeout is None else timeout))
            kill(labdir, name)
            gone[name] = ending.nonce
        except Exception as e:
            on_error(name, e)
    try:
        ended(labdir, gone)
    except Exception as e:
        for name in gone:
            on_error(name, e)


class _Ending(NamedTuple):
    """A guest that was marked as stopping: the nonce of its boot ("" if there is no record of it),
    its state before, and its init."""

    nonce: str
    state: GuestState
    init: str | None


def _mark(labdir: str, name: str, if_exists: bool) -> _Ending | None:
    """Mark a guest as stopping; if it is not running, Conflict, or None with `if_exists`."""
    with transaction(labdir) as change:
        if if_exists and name not in change.state.guests:
            return None
        guest = guest_views.get(change.state, name)
        now = liveness.guest_state(labdir, change.state, guest)
        boot, init = guest.boot, guest.current_init
        if boot is not None and now == "stopped":  # it halted by itself, and left its taps
            release(change.state, guest)
            guest.boot = None
        elif boot is not None:
            before, boot.phase = boot.phase, "stopping"
            try:
                change.save()
            except DummError:  # a full disk must not keep it running
                boot.phase = before
    if now == "stopped":
        if if_exists:
            return None
        raise Conflict(f"guest '{name}' is not running")
    return _Ending(boot.nonce if boot else "", now, init)


def _ask_all(labdir: str, guests: Mapping[str, _Ending]) -> set[str]:
    """Ask guests to shut down; return those that accepted. A guest that does not answer at once
    does not delay the others."""
    asked: set[str] = set()
    patience = time.monotonic() + turn.PROMPT_ALL
    for name, ending in guests.items():
        left = max(turn.LEAST, min(turn.PROMPT, patience - time.monotonic()))
        if _ask(labdir, name, ending, left):
            asked.add(name)
    late = [name for name in guests if name not in asked]
    patience = time.monotonic() + ASK_TIMEOUT
    for number, name in enumerate(late):
        left = (patience - time.monotonic()) / (len(late) - number)
        if _ask(labdir, name, guests[name], max(turn.LEAST, left)):
            asked.add(name)
    return asked


def _ask(labdir: str, name: str, ending: _Ending, seconds: float) -> bool:
    """Ask a guest to shut down; False if it does not accept within `seconds`."""
    if liveness.is_ending(labdir, name):
        return True
    try:
        if ending.state == "paused":
            control.wake(labdir, name, seconds)
        if ending.init is None or not _poweroff(labdir, name, seconds):
            contact.power_off(labdir, name, seconds)
    except DummError:
        return False
    return True


#: Commands that have an init shut its guest down; busybox, sysvinit, systemd and runit provide the
#: first of them. The second is for a systemd that refuses since a program inhibits it, as dpkg may:
#: otherwise, the guest would be ended without it.
_POWEROFF = (
    ["poweroff"],
    ["systemctl", "start", "poweroff.target", "--job-mode=replace-irreversibly", "--no-block"],
    ["openrc-shutdown", "-p", "now"],
)


def _poweroff(labdir: str, name: str, seconds: float) -> bool:
    """Have the guest's own init shut it down. False if no program does that."""
    deadline = time.monotonic() + seconds
    with contact.program_line(labdir, name, seconds, deadline=deadline) as line:
        for argv in _POWEROFF:
            line.send(protocol.RUN, request(Program(argv), 24, 80))
            try:
                frame = line.wait_frame(min(1.0, seconds), (protocol.STATUS, protocol.FAILED))
            except TimeoutError:  # it waits for the shutdown, or was ended by it
                return True
            if frame.kind == protocol.STATUS and frame.number == 0:
                return True
    return False


def _await_exit(labdir: str, name: str, deadline: float) -> None:
    """Wait until the guest's process has exited or, in the same process, the guest has rebooted
    instead; or until the deadline."""
    pidfd = liveness.pidfd_of(labdir, name)
    if pidfd is not None:
        try:
            while (left := deadline - time.monotonic()) > 0 and liveness.was_ready(labdir, name):
                if process.wait_exit(pidfd, min(LOOK, left)):
                    break
        finally:
            os.close(pidfd)


# ---- by force ----


def kill(labdir: str, name: str) -> None:
    """Kill the guest's process and wait until it and its jail are gone; TimedOut."""
    turn.await_launch(labdir, name, time.monotonic() + KILL_TIMEOUT)
    pidfd = liveness.pidfd_of(labdir, name)
    if pidfd is not None:
        try:
            process.send_signal(pidfd, signal.SIGKILL)
            process.wait_exit(pidfd, KILL_TIMEOUT)
        finally:
            os.close(pidfd)
    liveness.await_end(labdir, name, KILL_TIMEOUT)


# ---- afterwards ----


def release(state: State, *guests: Guest) -> None:
    """Remove what boots that have ended left in the host's kernel: taps, control groups."""
    iface.release(state, *(guest.name for guest in guests))
    for guest in guests:
        if guest.boot is not None and guest.boot.cgroup:
            cgroup.remove(guest.boot.cgroup)


def ended(labdir: str, nonces: Mapping[str, str]) -> None:
    """Remove the taps and the records of boots that have ended, all in one step. A guest that has
    begun another boot since is left alone."""
    if not nonces:
        return
    state = load(labdir)
    if state.ifaces:
        rtnl.load()
    with contextlib.ExitStack() as turns:
        for name in sorted(nonces.keys() & state.guests.keys()):
            if _has_left_master(labdir, state.guests[name]):
                with contextlib.suppress(TimedOut):  # its holder is about to end, like the guest
                    turns.enter_context(turn.taken(labdir, name))
        change = turns.enter_context(transaction(labdir))
        known = change.state.guests
        over = [
            guest
            for guest in (known[name] for name in nonces if name in known)
            if (guest.boot.nonce if guest.boot else "") == nonces[guest.name]
        ]
        release(change.state, *over)
        for guest in over:
            with contextlib.suppress(DummError):  # it may be gone; the next start reports that
                path = choice.resolve_master(labdir, guest).path
                if choice.leave_master(labdir, change.state, guest, path):
                    mounts.mount(labdir, change.state, guest, path)
            guest.boot = None
    for guest in over:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(liveness.run_dir(labdir, guest.name), "uml", "ready"))


def _has_left_master(labdir: str, guest: Guest) -> bool:
    """Whether the guest was given another master while running: its tree must be remounted."""
    with contextlib.suppress(DummError):
        path = choice.resolve_master(labdir, guest).path
        return guest.boot is not None and guest.boot.master not in ("", path)
    return False
