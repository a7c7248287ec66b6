"""Changing the stacks of layers underneath guests' roots, also while the guests run.

The guest's own mounts change first, in its turn (`exchange`), and then the record: a command that
was killed in between can be run again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

from dumm_tools.errors import Conflict, DummError, NotFound, TimedOut, Usage
from dumm_tools.files import choice, exchange, holders, mounts
from dumm_tools.images import cache
from dumm_tools.model import Guest, State
from dumm_tools.running import guest_views, liveness, turn
from dumm_tools.statefile import load, transaction
from dumm_tools.waiting import unbroken

Layers = list[str]
Warn = Callable[[str], None]
OnError = Callable[[str, Exception], None]


def silent(_text: str) -> None:
    """Leave out warnings."""


def raised(_name: str, error: Exception) -> None:
    """Raise the first failure in the caller."""
    raise error


def _directory(path: str) -> str:
    """A layer in the form used in records: absolute, with links resolved. NotFound, Usage."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise NotFound(f"no directory '{path}'")
    if real == "/" or "\0" in real:
        raise Usage(f"'{path}' cannot be a layer")
    return real


def _refuse_overlap(labdir: str, state: State, guest: Guest, said: str, layer: str) -> None:
    """Raise Usage if the guest would write to a place other than its own layer: other layers, the
    working set, the cache."""
    taken = [os.path.join(labdir, name) for name in ("run", "mount")]
    taken += [cache.directory("masters"), cache.directory("kernels")]
    with contextlib.suppress(NotFound):  # it may exist when it is needed
        below = choice.resolve_master(labdir, guest).path
        taken += [each for each in mounts.layers(labdir, state, guest, below)]
    for other in taken:
        real = os.path.realpath(other)
        if real == layer and other in guest.overlays:
            continue  # it moves to the top
        if f"{real}/".startswith(f"{layer}/") or f"{layer}/".startswith(f"{real}/"):
            raise Usage(
                f"'{said}' cannot be a layer of guest '{guest.name}': it overlaps '{other}'"
            )


def add(
    labdir: str,
    names: Iterable[str],
    directory: str,
    *,
    on_error: OnError = raised,
    warn: Warn = silent,
) -> None:
    """Put a directory on top of guests' stacks; one that is already there moves to the top."""
    layer = _directory(directory)

    def check(state: State, guests: list[Guest]) -> None:
        for guest in guests:
            _refuse_overlap(labdir, state, guest, directory, layer)

    def edit(_state: State, guests: list[Guest]) -> None:
        for guest in guests:
            guest.overlays = [layer, *(d for d in guest.overlays if d != layer)]

    restack(labdir, names, check, edit, on_error=on_error, warn=warn)


def delete(
    labdir: str,
    names: Iterable[str],
    directory: str,
    *,
    on_error: OnError = raised,
    warn: Warn = silent,
) -> None:
    """Remove a directory from guests' stacks. NotFound if it is in none of them."""
    # It may no longer exist, or no longer be a directory.
    layers = {os.path.realpath(directory), os.path.abspath(directory)}

    def check(_state: State, guests: list[Guest]) -> None:
        if not any(layers.intersection(g.overlays) for g in guests):
            named = ", ".join(g.name for g in guests)
            raise NotFound(f"'{directory}' is not a layer of guest '{named}'")

    def edit(_state: State, guests: list[Guest]) -> None:
        for guest in guests:
            guest.overlays = [d for d in guest.overlays if d not in layers]

    restack(labdir, names, check, edit, lenient=True, on_error=on_error, warn=warn)


def pop(
    labdir: str,
    names: Iterable[str],
    *,
    on_error: OnError = raised,
    warn: Warn = silent,
) -> None:
    """Remove the newest directory from guests' stacks. NotFound if there is none."""

    def check(_state: State, guests: list[Guest]) -> None:
        if not any(g.overlays for g in guests):
            raise NotFound(f"guest '{', '.join(g.name for g in guests)}' has no overlays")

    def edit(_state: State, guests: list[Guest]) -> None:
        for guest in guests:
            guest.overlays = guest.overlays[1:]

    restack(labdir, names, check, edit, lenient=True, on_error=on_error, warn=warn)


def list_(labdir: str, name: str) -> Layers:
    """The directories added to a guest's stack, newest first."""
    return list(guest_views.get(load(labdir), name).overlays)


def restack(
    labdir: str,
    names: Iterable[str],
    check: Callable[[State, list[Guest]], object],
    edit: Callable[[State, list[Guest]], object],
    *,
    whole: bool = False,
    lenient: bool = False,
    on_error: OnError = raised,
    warn: Warn = silent,
) -> None:
    """Give guests the stacks that result when `edit` changes their records or (`whole`) the lab's
    record, which applies to all of them. If the host cannot do it for one guest, it is done for
    none. Conflict if a guest is paused, before anything is done.

    A guest that does not do its part is reported to `on_error`, and keeps its record and stack; if
    the record is the lab's, the guest's stack is left to the next command on its layers, or its
    next start. Programs that keep old layers are reported to `warn`.

    With `lenient`, a stack is recorded even if another of its directories is missing; otherwise, if
    two were missing, neither could be removed.
    """
    with unbroken():
        now = load(labdir)
        guests = [guest_views.get(now, name) for name in dict.fromkeys(names)]
        check(now, guests)
        failures = _busy(labdir, now, guests)
        if len(guests) == 1 and failures and not whole:
            raise failures[guests[0].name]
        fresh: dict[str, exchange.Fresh] = {}
        ahead = now

        def prepare(ready: list[str]) -> None:
            nonlocal ahead
            ahead = load(labdir)
            there = [
                guest_views.get(ahead, name) for name in ready if not whole or name in ahead.guests
            ]
            edit(ahead, there)
            new: dict[str, exchange.Fresh] = {}
            try:
                for guest in there:
                    new[guest.name] = exchange.prepare(labdir, ahead, guest, lenient=lenient)
            except BaseException:
                for name, each in new.items():
                    exchange.withdraw(labdir, ahead, name, each)
                raise
            fresh.update(new)

        def replace(name: str, seconds: float) -> None:
            try:
                if name in fresh:  # otherwise it was deleted before we got its turn
                    exchange.replace(labdir, ahead, ahead.guests[name], fresh[name], seconds, warn)
            except TimedOut:
                raise
            except (DummError, OSError):
                with contextlib.suppress(DummError, OSError):
                    exchange.settle(labdir, name, seconds)
                raise

        def record(told: list[str]) -> None:
            done = [name for name in told if name in fresh]
            try:
                with transaction(labdir) as change:
                    state = change.state
                    edit(state, [state.guests[name] for name in done])
                    for name in state.guests.keys() - set(done) if whole else ():
                        mounts.unsettle(labdir, name)
                    change.save()
                    for name in done:
                        if not fresh[name].lacking:
                            mounts.settled(labdir, name)
            except BaseException:
                for name in done:
                    with contextlib.suppress(DummError, OSError):
                        exchange.settle(labdir, name, turn.PROMPT)
                raise

        def late(name: str, seconds: float) -> None:
            if whole:
                exchange.settle(labdir, name, seconds, warn)
                return
            prepare([name])
            replace(name, seconds)
            record([name])

        ready = [guest.name for guest in guests if guest.name not in failures]
        failures |= turn.each(labdir, ready, replace, record, late, first=prepare)
        state = load(labdir)
        there = [state.guests[name] for name in ready if name in state.guests]
        running = [guest for guest in there if liveness.is_running(labdir, state, guest.name)]
        holders.report(labdir, [g for g in running if g.name not in failures], warn)
    for name, error in failures.items():
        if whole and isinstance(error, DummError):
            error.hint = "it keeps its old layers until they are changed again, or its next start"
        on_error(name, error)


def _busy(labdir: str, state: State, guests: list[Guest]) -> dict[str, Exception]:
    """Why some of the guests cannot change their layers now; Conflict for one that is paused."""
    failures: dict[str, Exception] = {}
    for guest in guests:
        now = liveness.guest_state(labdir, state, guest)
        if now in ("starting", "stopping", "paused"):
            failures[guest.name] = Conflict(f"guest '{guest.name}' is {now}")
            if now == "paused":
                raise failures[guest.name]
    return failures
