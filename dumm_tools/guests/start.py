"""Starting guests: a boot is planned, prepared, spawned, and settled when its agent answers.

A start records its intent first, then creates taps, lines and the mount, then hands the alive lock
to the keeper of the guest's jail. Whenever it is killed, the next start can continue from what it
leaves: the guest is not alive, or it is alive and boots by itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from dumm_tools import agent, missing
from dumm_tools.errors import Conflict, DummError
from dumm_tools.guests import plan as planning
from dumm_tools.guests import prepare, process, readiness, run_dir, stop
from dumm_tools.guests.readiness import Booting
from dumm_tools.linux import rtnl
from dumm_tools.model import Guest, State
from dumm_tools.running import guest_views, liveness, startup_file, turn
from dumm_tools.statefile import load, transaction

#: Maximum number of guests that one command boots at the same time.
WINDOW = 32


def start(
    labdir: str,
    names: Iterable[str],
    *,
    timeout: float,
    wait: str | None = "ready",
    may_run: bool = False,
    on_error: stop.OnError,
    warn: Callable[[str], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Start guests in parallel; return when each is ready, or has booted, as `wait` says, or has
    failed (`on_error`). `warn` gets problems inside a guest that is ready nevertheless. A guest
    that is ready, but does not boot in time, keeps running. One that is already running is a
    failure, unless it `may_run`."""
    names = list(names)
    state = load(labdir)
    running = [name for name in names if may_run and liveness.is_running(labdir, state, name)]
    names = [name for name in names if name not in running]
    if state.bridges or state.ifaces:
        rtnl.load()  # the first call takes 10 to 20 ms: not under the lab's lock
    pending: deque[Booting] = deque()
    ready: list[Booting] = []
    begun: set[tuple[str, str]] = set()  # guests and nonces of boots that we must undo
    done = 0

    def settle_one() -> None:
        """Wait until one guest, not necessarily the first, is ready or has failed."""
        nonlocal done
        while True:
            booting = pending.popleft()
            grace = min(readiness.ROUND, timeout)
            try:
                left = readiness.settle(
                    labdir, booting, wait=wait is not None, grace=grace, warn=warn
                )
            except Exception as e:  # a failure does not stop the others
                if (booting.name, booting.nonce) in begun:
                    _abort(labdir, booting.name, booting.nonce)
                on_error(booting.name, e)
                break
            if left is None:
                ready.append(booting)
                done += 1
                progress(f"{done} of {len(names)} guests ready")
                break
            pending.append(left)
        begun.discard((booting.name, booting.nonce))

    try:
        for name in names:
            nonce = os.urandom(8).hex()
            begun.add((name, nonce))  # before the process exists
            try:
                pending.append(_begin(labdir, name, nonce, time.monotonic() + timeout, warn))
            except Exception as e:
                begun.discard((name, nonce))
                on_error(name, e)
            if len(pending) >= WINDOW:
                settle_one()
        while pending:
            settle_one()
    except BaseException:
        for booting in pending:
            if booting.jail is not None:
                with contextlib.suppress(OSError):  # an interrupt may have come after it was reaped
                    booting.jail.wait()
        for name, nonce in begun:
            _abort(labdir, name, nonce)
        raise
    if wait == "booted":
        begin = time.monotonic()
        ready += [Booting(name, "", begin + timeout) for name in running]
        _await_booted(labdir, ready, on_error, warn, progress)
    elif wait is not None:
        _report_startups(labdir, ready, warn)


def _await_booted(
    labdir: str,
    ready: Iterable[Booting],
    on_error: stop.OnError,
    warn: Callable[[str], None],
    progress: Callable[[str], None],
) -> None:
    """Wait until guests that are ready have booted, too."""
    from dumm_tools.guests import booted

    ready = list(ready)
    for number, booting in enumerate(ready):
        try:
            booted.wait(labdir, booting.name, booting.deadline, warn)
        except Exception as e:  # a failure does not stop the others
            on_error(booting.name, e)
        progress(f"{number + 1} of {len(ready)} guests booted")


def _report_startups(labdir: str, ready: Iterable[Booting], warn: Callable[[str], None]) -> None:
    """Warn of startup programs that have failed already; nobody waits for the others."""
    for booting in ready:
        if startup_file.is_ordered(labdir, booting.name):
            found = startup_file.state(labdir, booting.name, alive=True) or ""
            if found.startswith("failed"):
                warn(startup_file.failure(labdir, booting.name, found))


class _Ended(Conflict):
    """A guest that ran a moment ago has ended."""


def _begin(
    labdir: str, name: str, nonce: str, deadline: float, warn: Callable[[str], None]
) -> Booting:
    """Start the process of one guest, unless another command just did. A failure undoes all of
    it."""
    try:
        return _launch(labdir, name, nonce, deadline, warn)
    except _Ended:
        return _launch(labdir, name, nonce, deadline, warn)


def _launch(
    labdir: str, name: str, nonce: str, deadline: float, warn: Callable[[str], None]
) -> Booting:
    with contextlib.ExitStack() as failed:
        with (
            _turn(labdir, name) as own_turn,
            _alive_lock(labdir, name) as alive,
            run_dir.swept(labdir, name),
            _with_files(labdir, name, alive, warn),
            transaction(labdir) as change,
        ):
            state = change.state
            guest = guest_views.get(state, name)
            if alive is None:
                return _join(labdir, state, guest, deadline)
            agent.need(agent.INITRD, agent.JAIL, agent.PRELOAD)
            with prepare.parts(labdir, state, guest, warn) as parts:
                plan = planning.make(state, guest, parts, nonce)
                guest.boot = prepare.clear(labdir, state, plan)
                change.save()
                with _released_on_failure(state, guest):
                    prepare.make(labdir, state, plan)
                    # After the transaction, which may have reverted the record.
                    failed.callback(_abort, labdir, name, nonce, recorded=False)
                    jail = process.spawn(labdir, plan, parts, guest.boot.cgroup, own_turn, alive)
                    failed.callback(jail.wait)
        failed.pop_all()
    return Booting(name, nonce, deadline, jail)


@contextlib.contextmanager
def _turn(labdir: str, name: str) -> Iterator[int]:
    """Take the turn of a guest, which must exist; yield its descriptor."""
    with turn.taken(labdir, name) as fd:
        if fd is None:
            raise missing.guest(load(labdir), name)
        yield fd


@contextlib.contextmanager
def _alive_lock(labdir: str, name: str) -> Iterator[int | None]:
    """Take the alive lock of a guest whose turn we have; yield None if it runs or is starting."""
    fd = liveness.take_alive_lock(labdir, name)
    if fd is None:
        state = load(labdir)
        now = liveness.guest_state(labdir, state, guest_views.get(state, name))
        if now in ("stopped", "crashed"):
            # A reader holds it for microseconds; a guest that just ended, until its memory is
            # released.
            fd = liveness.await_alive_lock(labdir, name, stop.KILL_TIMEOUT)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def _with_files(
    labdir: str, name: str, alive: int | None, warn: Callable[[str], None]
) -> Iterator[None]:
    """Copy the files that the user gives a guest whose turn and alive lock we have."""
    if alive is not None:
        prepare.give_files(labdir, name, warn)
    yield


def _join(labdir: str, state: State, guest: Guest, deadline: float) -> Booting:
    """Wait for a guest that another command is starting; Conflict if it is in any other state,
    _Ended if it has no process in that state."""
    now = liveness.guest_state(labdir, state, guest)
    if now == "starting" and guest.boot:
        # The other command is still waiting, or was killed: either way the guest boots by itself.
        return Booting(guest.name, guest.boot.nonce, deadline)
    kind = _Ended if now in ("stopped", "crashed") else Conflict
    raise kind(f"guest '{guest.name}' is {now}")


@contextlib.contextmanager
def _released_on_failure(state: State, guest: Guest) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stop.release(state, guest)
        raise


def _abort(labdir: str, name: str, nonce: str, *, recorded: bool = True) -> None:
    """Undo a failed start: the process, its taps, the record. Do nothing if another boot has begun,
    or, with `recorded`, if this boot is not in the record."""
    with contextlib.suppress(DummError, OSError):
        guest = load(labdir).guests.get(name)
        known = guest.boot.nonce if guest is not None and guest.boot is not None else None
        if known != nonce and (recorded or known is not None):
            return
    with contextlib.suppress(DummError, OSError):
        stop.kill(labdir, name)
    with contextlib.suppress(DummError, OSError):
        stop.ended(labdir, {name: nonce})
