"""Guests: records, their life, and what is said of them. `boot.py` starts the processes."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dumm_tools import names
from dumm_tools.agent import protocol, session
from dumm_tools.agent.client import ANSWER_TIMEOUT
from dumm_tools.errors import Conflict, DummError, NotFound, TimedOut, Usage
from dumm_tools.files import choice, mounts, workdir
from dumm_tools.guests import boot, launch
from dumm_tools.images import kernel, master
from dumm_tools.linux import mconsole as mc
from dumm_tools.linux import process
from dumm_tools.model import Guest, GuestState, Phase
from dumm_tools.net import iface
from dumm_tools.running import contact, guest_views, liveness, turn
from dumm_tools.statefile import load, transaction
from dumm_tools.trees import tree

#: The least memory that a guest kernel boots in (bytes).
MEMORY_MIN = 40 << 20
#: Seconds in which guests take it in that they are to end.
ASK_TIMEOUT = 2.0


# ---- records ----


def create(labdir: str, guest: Guest, *, may_exist: bool = False) -> bool:
    """Record a guest, make its directories and mount its tree; False when it is there already."""
    names.guest(guest.name)
    _check(labdir, guest)
    with contextlib.ExitStack() as undo:
        with transaction(labdir) as change:
            state = change.state
            if guest.name in state.guests:
                if may_exist:
                    return False
                raise Conflict(f"guest '{guest.name}' already exists")
            tree_below = choice.resolve_master(labdir, guest)
            choice.resolve_kernel(labdir, guest)
            state.guests[guest.name] = guest
            change.save()
            run = liveness.run_dir(labdir, guest.name)
            for directory in (*mounts.paths(labdir, guest.name), run):
                if not os.path.isdir(directory):
                    undo.callback(_remove_empty, directory)
            liveness.make_run_dir(labdir, guest.name)
            mounts.mount(labdir, state, guest, tree_below.path)
        undo.pop_all()
    return True


def _remove_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _check(labdir: str, guest: Guest) -> None:
    """Usage for what no guest can have; NotFound for a kernel or master that is not there."""
    if guest.memory < MEMORY_MIN:
        raise Usage(
            f"{guest.memory} bytes of memory is too little: at least {MEMORY_MIN >> 20}M is needed"
        )
    if guest.memory > 1 << 40:
        raise Usage(f"{guest.memory} bytes of memory is too much")
    if guest.init is not None and not guest.init.startswith("/"):
        raise Usage(f"--init '{guest.init}' is not an absolute path in the guest")
    for arg in guest.args:
        if not arg or any(c.isspace() or c == "\0" for c in arg):
            raise Usage(f"kernel argument {arg!r} is empty or contains white space")
        if '"' in arg:
            raise Usage(f"kernel argument {arg!r} contains a quote")
        if launch.is_ours(arg):
            hint = "--memory sets it" if arg.startswith("mem=") else None
            raise Usage(f"kernel argument '{arg}' is set by dumm-guest itself", hint=hint)
    if guest.kernel is not None:
        guest.kernel = _spec(guest.kernel, kernel.resolve(guest.kernel).path)
    if guest.master is not None:
        guest.master = _spec(guest.master, master.resolve(guest.master).path)


def _spec(said: str, path: str) -> str:
    """What the state keeps: a name of the cache, or an absolute path."""
    return said if os.path.basename(path) == said and said != path else path


def change(labdir: str, name: str, **values: object) -> None:
    """Set fields of a guest; they hold from its next start on."""
    with turn.taken(labdir, name), transaction(labdir) as tx:
        guest = guest_views.get(tx.state, name)
        new = guest.but(**values)
        _check(labdir, new)
        tx.state.guests[name] = new
        moved = new.master != guest.master
        state = tx.state
        if moved and liveness.guest_state(labdir, state, new) in ("stopped", "crashed"):
            # The tree on the host follows at once; a running guest keeps its own until it stops.
            mounts.umount(labdir, state, name)
            mounts.mount(labdir, state, new, choice.resolve_master(labdir, new).path)


def delete(labdir: str, name: str, *, if_exists: bool = False) -> bool:
    """Forget a guest, its interfaces and its files; Conflict while it runs."""
    import fcntl

    from dumm_tools.files import changes

    names.guest(name)
    with turn.taken(labdir, name):
        _sweep(labdir, name)  # what a killed delete left
        with transaction(labdir) as change_:
            state = change_.state
            known = name in state.guests
            if known:
                # Nor may a commit be at it.
                with changes.kept_stopped(labdir, state, state.guests[name], fcntl.LOCK_EX):
                    iface.delete_of_guest(state, name)
                    mounts.umount(labdir, state, name)
                    workdir.drop(labdir, name)  # some may not be in run/NAME
                    del state.guests[name]
                    # Out of the way first: what a killed command leaves must not be the next
                    # guest's.
                    _put_aside(labdir, "host", name)
                    change_.save()
            # Now, before there is another guest of that name; also what a killed delete left.
            _put_aside(labdir, "run", name)
            if os.path.lexists(path := os.path.join(labdir, "mount", name)):
                tree.remove(path)
    _sweep(labdir, name)
    if not known and not if_exists:
        raise NotFound(f"no guest '{name}'")
    return known


def _put_aside(labdir: str, place: str, name: str) -> None:
    """Give a guest's directory a name that is no guest's, as it begins with a dot: there may be
    much in it to remove, and others would wait."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(
            os.path.join(labdir, place, name),
            os.path.join(labdir, place, f".{name}.deleted-{os.urandom(4).hex()}"),
        )


def _sweep(labdir: str, name: str) -> None:
    """Remove what was put aside."""
    for place in ("host", "run"):
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(os.path.join(labdir, place)):
                if entry.startswith(f".{name}.deleted"):
                    tree.remove(os.path.join(labdir, place, entry))


# ---- life ----


def stop(
    labdir: str, targets: Iterable[str], *, timeout: float, force: bool, on_error: boot.OnError
) -> None:
    """Stop guests side by side: each in good order, and by force after `timeout` seconds."""
    marked: dict[str, _Ending] = {}
    for name in targets:
        try:
            marked[name] = _mark(labdir, name)
        except Exception as e:
            on_error(name, e)
    # Who does not answer at once keeps nobody waiting.
    patience = time.monotonic() + turn.PROMPT_ALL
    late: list[str] = []
    asked: set[str] = set()
    for name, ending in marked.items():
        if not force and ending.state not in ("crashed", "starting"):
            left = max(turn.LEAST, min(turn.PROMPT, patience - time.monotonic()))
            (asked.add if _ask(labdir, name, ending, left) else late.append)(name)
    patience = time.monotonic() + ASK_TIMEOUT
    for number, name in enumerate(late):
        left = (patience - time.monotonic()) / (len(late) - number)
        if _ask(labdir, name, marked[name], max(turn.LEAST, left)):
            asked.add(name)
    deadline = time.monotonic() + timeout
    gone: dict[str, str] = {}
    for name, ending in marked.items():
        try:
            pidfd = liveness.pidfd_of(labdir, name)
            if pidfd is not None:
                try:
                    if name in asked:
                        process.wait_exit(pidfd, max(0.0, deadline - time.monotonic()))
                finally:
                    os.close(pidfd)
            boot.kill(labdir, name)
            gone[name] = ending.nonce
        except Exception as e:
            on_error(name, e)
    try:
        boot.ended(labdir, gone)
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
    with transaction(labdir) as change_:
        state = change_.state
        guest = guest_views.get(state, name)
        now = liveness.guest_state(labdir, state, guest)
        if now != "stopped" and guest.boot is not None:
            before, guest.boot.phase = guest.boot.phase, "stopping"
            try:
                change_.save()
            except DummError:  # a full disk is no reason to let it run on
                guest.boot.phase = before
            return _Ending(guest.boot.nonce, now, guest.init)
        if now != "stopped":
            return _Ending("", now, guest.init)
        if guest.boot is not None:  # it halted by itself: only its taps are left
            boot.release(state, guest)
            guest.boot = None
    raise Conflict(f"guest '{name}' is not running")


def _ask(labdir: str, name: str, ending: _Ending, seconds: float) -> bool:
    """Ask a guest to end in good order; False when it does not take that in so many seconds."""
    try:
        if ending.state == "paused":
            _go(labdir, name, seconds)
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


def pause(labdir: str, name: str) -> None:
    """Stop the guest's kernel where it is."""
    with turn.taken(labdir, name):
        with transaction(labdir) as change_:
            guest = guest_views.get(change_.state, name)
            liveness.need_running(labdir, change_.state, guest)
            if guest.boot is None:
                raise Conflict(
                    f"guest '{name}' is running, but there is no record of its start",
                    hint=f"dumm-guest stop {name}",
                )
            guest.boot.phase = "paused"
        try:
            contact.halt(labdir, name)
        except BaseException:
            with contextlib.suppress(DummError):
                _go(labdir, name, turn.LEAST)
            with contextlib.suppress(DummError):
                _set_phase(labdir, name, guest.boot.nonce, "paused", "running")
            raise


def resume(labdir: str, name: str) -> None:
    """Let a paused guest go on."""
    with turn.taken(labdir, name):
        state = load(labdir)
        guest = guest_views.get(state, name)
        now = liveness.guest_state(labdir, state, guest)
        if now != "paused" or guest.boot is None:
            raise Conflict(f"guest '{name}' is {now}, not paused")
        _go(labdir, name)
        _set_phase(labdir, name, guest.boot.nonce, "paused", "running")


def _set_phase(labdir: str, name: str, nonce: str, before: Phase, phase: Phase) -> None:
    """Record how far a boot is, if it still is what it was before."""
    with transaction(labdir) as change_:
        guest = change_.state.guests.get(name)
        if guest is not None and guest.boot is not None and guest.boot.nonce == nonce:
            guest.boot.phase = phase if guest.boot.phase == before else guest.boot.phase


def _go(labdir: str, name: str, seconds: float = ANSWER_TIMEOUT) -> None:
    """Wake the guest's kernel. It may be awake: a command was killed before it could say so."""
    try:
        contact.mconsole(labdir, name, "go", seconds)
    except DummError as e:
        if "Not stopped" not in str(e):  # mconsole_go, arch/um/drivers/mconsole_kern.c
            raise


def wait(labdir: str, name: str, what: str, timeout: float | None) -> None:
    """Wait until a guest is ready or stopped; TimedOut. One that ended will not get ready."""
    state = load(labdir)
    guest = guest_views.get(state, name)
    limit = timeout if timeout is not None else math.inf
    deadline = time.monotonic() + limit
    if what == "ready":
        now = liveness.guest_state(labdir, state, guest)
        if now in ("stopped", "crashed", "stopping") or guest.boot is None:
            raise Conflict(f"guest '{name}' is {now}")
        boot.await_pid(labdir, name, deadline)
        try:
            contact.wait_ready(
                labdir, name, guest.boot.nonce, max(0.0, deadline - time.monotonic())
            )
        except TimedOut:
            raise TimedOut(f"guest '{name}' is not ready") from None
        return
    pidfd = liveness.pidfd_of(labdir, name)
    if pidfd is not None:
        try:
            if not process.wait_exit(pidfd, limit):
                raise TimedOut(f"guest '{name}' is still running")
        finally:
            os.close(pidfd)
    try:
        boot.wait_gone(labdir, name, max(0.01, min(deadline - time.monotonic(), 1e6)))
    except TimedOut:
        raise TimedOut(f"guest '{name}' is still running") from None


# ---- the kernel ----


def mconsole(labdir: str, name: str, words: Sequence[str]) -> str:
    """One command to the guest's kernel; its answer."""
    command = " ".join(words)
    if not command.strip():
        raise Usage("no command given", hint="'help' lists the commands")
    if len(os.fsencode(command)) > mc.COMMAND_MAX:
        raise Usage(f"an mconsole command is limited to {mc.COMMAND_MAX} bytes")
    state = load(labdir)
    guest = guest_views.get(state, name)
    now = liveness.guest_state(labdir, state, guest)
    if now in ("stopped", "crashed"):
        raise Conflict(f"guest '{name}' is {now}")
    return contact.mconsole(labdir, name, command)
