"""The end of a guest: in good order or by force, and what has to go when it is over."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dumm_tools.agent import protocol, session
from dumm_tools.errors import Conflict, DummError, TimedOut
from dumm_tools.files import choice, mounts
from dumm_tools.guests import control
from dumm_tools.linux import cgroup, process, rtnl
from dumm_tools.model import Guest, GuestState, State
from dumm_tools.net import iface
from dumm_tools.running import contact, guest_views, liveness, turn
from dumm_tools.statefile import load, transaction

#: Seconds a killed process may take to be gone.
KILL_TIMEOUT = 10.0
#: Seconds in which guests take it in that they are to end.
ASK_TIMEOUT = 2.0

OnError = Callable[[str, Exception], None]


# ---- stop ----


def stop(
    labdir: str, targets: Iterable[str], *, timeout: float, force: bool, on_error: OnError
) -> None:
    """Stop guests side by side: each in good order, and by force after `timeout` seconds."""
    marked: dict[str, _Ending] = {}
    for name in targets:
        try:
            marked[name] = _mark(labdir, name)
        except Exception as e:
            on_error(name, e)
    willing = {
        name: ending
        for name, ending in marked.items()
        if not force and ending.state not in ("crashed", "starting")
    }
    asked = _ask_all(labdir, willing)
    deadline = time.monotonic() + timeout
    gone: dict[str, str] = {}
    for name, ending in marked.items():
        try:
            if name in asked:
                _await_exit(labdir, name, deadline)
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
    """A guest that is marked as stopping: its boot, "" for one that is not recorded; what it was
    like."""

    nonce: str
    state: GuestState
    init: str | None


def _mark(labdir: str, name: str) -> _Ending:
    """Mark a guest as stopping; Conflict where it does not run."""
    with transaction(labdir) as change:
        guest = guest_views.get(change.state, name)
        now = liveness.guest_state(labdir, change.state, guest)
        boot = guest.boot
        if boot is not None and now == "stopped":  # it halted by itself: only its taps are left
            release(change.state, guest)
            guest.boot = None
        elif boot is not None:
            before, boot.phase = boot.phase, "stopping"
            try:
                change.save()
            except DummError:  # a full disk is no reason to let it run on
                boot.phase = before
    if now == "stopped":
        raise Conflict(f"guest '{name}' is not running")
    return _Ending(boot.nonce if boot else "", now, guest.init)


def _ask_all(labdir: str, guests: Mapping[str, _Ending]) -> set[str]:
    """Ask guests to end in good order; those that took it in. Who does not answer at once keeps
    nobody waiting."""
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
    """Ask a guest to end in good order; False when it does not take that in so many seconds."""
    try:
        if ending.state == "paused":
            control.wake(labdir, name, seconds)
        if ending.init is None or not _poweroff(labdir, name, seconds):
            contact.power_off(labdir, name, seconds)
    except DummError:
        return False
    return True


def _poweroff(labdir: str, name: str, seconds: float) -> bool:
    """Have the guest's own init end it: busybox, sysvinit and systemd all bring `poweroff`. False
    where there is none."""
    with contact.program_line(labdir, name, seconds, deadline=time.monotonic() + seconds) as line:
        line.send(protocol.RUN, session.request(session.Program(["poweroff"]), 24, 80))
        with contextlib.suppress(TimeoutError):  # it waits for the end, or the end came first
            frame = line.wait_frame(min(1.0, seconds), (protocol.STATUS, protocol.FAILED))
            return frame.kind == protocol.STATUS and frame.number == 0
    return True


def _await_exit(labdir: str, name: str, deadline: float) -> None:
    """Wait until the guest's process has ended, or until the deadline."""
    pidfd = liveness.pidfd_of(labdir, name)
    if pidfd is not None:
        try:
            process.wait_exit(pidfd, max(0.0, deadline - time.monotonic()))
        finally:
            os.close(pidfd)


# ---- by force ----


def kill(labdir: str, name: str) -> None:
    """End the guest's process by force and wait until it and its jail are gone; TimedOut."""
    turn.await_launch(labdir, name, time.monotonic() + KILL_TIMEOUT)
    pidfd = liveness.pidfd_of(labdir, name)
    if pidfd is not None:
        try:
            process.send_signal(pidfd, signal.SIGKILL)
            process.wait_exit(pidfd, KILL_TIMEOUT)
        finally:
            os.close(pidfd)
    liveness.await_end(labdir, name, KILL_TIMEOUT)


# ---- when it is over ----


def release(state: State, *guests: Guest) -> None:
    """Remove what boots that are over have left in the host's kernel: taps, control groups."""
    iface.release(state, *(guest.name for guest in guests))
    for guest in guests:
        if guest.boot is not None and guest.boot.cgroup:
            cgroup.remove(guest.boot.cgroup)


def ended(labdir: str, nonces: Mapping[str, str]) -> None:
    """The boots of these guests are over: remove the taps, all in one step, and forget the boots,
    but for those guests that have begun another."""
    if not nonces:
        return
    state = load(labdir)
    if state.ifaces:
        rtnl.load()
    with contextlib.ExitStack() as turns:
        for name in sorted(nonces.keys() & state.guests.keys()):
            if _has_left_master(labdir, state.guests[name]):
                with contextlib.suppress(TimedOut):  # who has it is about to end, as the guest did
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
            with contextlib.suppress(DummError):  # it may be gone; the next start looks for it
                path = choice.resolve_master(labdir, guest).path
                if choice.leave_master(labdir, change.state, guest, path):
                    mounts.mount(labdir, change.state, guest, path)
            guest.boot = None
    for guest in over:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(liveness.run_dir(labdir, guest.name), "uml", "ready"))


def _has_left_master(labdir: str, guest: Guest) -> bool:
    """Was a guest given another master while it ran, so that its tree is to be mounted anew?"""
    with contextlib.suppress(DummError):
        path = choice.resolve_master(labdir, guest).path
        return guest.boot is not None and guest.boot.master not in ("", path)
    return False
