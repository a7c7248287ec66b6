"""Changing the stacks of layers underneath guests' roots, also while the guests run.

The guest's own mounts change first, in its turn (`exchange`), and then the record: a command that
was killed in between can be run again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from dumm_tools.errors import Conflict, DummError, NotFound, TimedOut, Usage
from dumm_tools.files import choice, exchange, holders, mounts
from dumm_tools.images import cache
from dumm_tools.model import Guest, State
from dumm_tools.running import blocks, guest_views, liveness, turn
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


def located(path: str) -> str:
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
    create: bool = False,
    may_exist: bool = False,
    on_error: OnError = raised,
    warn: Warn = silent,
) -> bool:
    """Put a directory on top of guests' stacks; one that is already there moves to the top, or
    stays where it is with `may_exist`. A missing one is created with `create`. False if there was
    nothing to do."""
    with _created(directory) if create else contextlib.nullcontext():
        layer = located(directory)
        state, names = load(labdir), list(names)
        wanted = [
            name
            for name in names
            if layer not in _known(state, name, None if may_exist else 1)
            or mounts.is_unsettled(labdir, name)
        ]
        _add(labdir, wanted, directory, layer, on_error, warn)
        blocks.forget(labdir, [subject(name, layer) for name in names])
        return bool(wanted)


def _known(state: State, name: str, most: int | None = None) -> Layers:
    """The newest overlays of a guest, as recorded."""
    return guest_views.get(state, name).overlays[:most]


@contextlib.contextmanager
def _created(path: str) -> Iterator[None]:
    """Create a directory, closed to other users, and those above it; all of them are removed again
    if the block fails."""
    with contextlib.ExitStack() as undo:
        missing: list[str] = []
        above = os.path.abspath(path)
        while not os.path.lexists(above):
            missing.append(above)
            above = os.path.dirname(above)
        for each in reversed(missing):
            try:
                os.mkdir(each, 0o700)
            except FileExistsError:
                continue
            except OSError as e:
                raise DummError(f"cannot create '{each}': {e.strerror}") from None
            undo.callback(_remove_empty, each)
        yield
        undo.pop_all()


def _remove_empty(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _add(
    labdir: str, names: list[str], directory: str, layer: str, on_error: OnError, warn: Warn
) -> None:
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
    if_exists: bool = False,
    on_error: OnError = raised,
    warn: Warn = silent,
) -> None:
    """Remove a directory from guests' stacks. NotFound if it is in none of them, unless
    `if_exists`."""
    # It may no longer exist, or no longer be a directory.
    layers = {os.path.realpath(directory), os.path.abspath(directory)}
    if if_exists:
        names = _having(labdir, names, lambda guest: not layers.isdisjoint(guest.overlays))

    def check(_state: State, guests: list[Guest]) -> None:
        if not (if_exists or any(layers.intersection(g.overlays) for g in guests)):
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
    if_exists: bool = False,
    on_error: OnError = raised,
    warn: Warn = silent,
) -> None:
    """Remove the newest directory from guests' stacks. NotFound if there is none, unless
    `if_exists`."""
    if if_exists:
        names = _having(labdir, names, lambda guest: bool(guest.overlays))

    def check(_state: State, guests: list[Guest]) -> None:
        if not (if_exists or any(g.overlays for g in guests)):
            raise NotFound(f"guest '{', '.join(g.name for g in guests)}' has no overlays")

    def edit(_state: State, guests: list[Guest]) -> None:
        for guest in guests:
            guest.overlays = guest.overlays[1:]

    restack(labdir, names, check, edit, lenient=True, on_error=on_error, warn=warn)


def clear(labdir: str, *, on_error: OnError = raised, warn: Warn = silent) -> None:
    """Remove all overlays of all guests."""

    def edit(_state: State, guests: list[Guest]) -> None:
        for guest in guests:
            guest.overlays = []

    names = _having(labdir, load(labdir).guests, lambda guest: bool(guest.overlays))
    restack(labdir, names, lambda *_: None, edit, lenient=True, on_error=on_error, warn=warn)


def subject(guest: str, layer: str) -> tuple[str, ...]:
    """A layer of a guest, among the changes of blocks."""
    return ("overlay", guest, layer)


def block(labdir: str, directory: str, names: Iterable[str]) -> blocks.Block:
    """Note that a directory is about to be added to guests' stacks for the time of a command."""
    layer = os.path.realpath(directory)

    def look() -> Iterator[blocks.Change]:
        state = load(labdir)
        for name in names:
            layers = guest_views.get(state, name).overlays
            index = layers.index(layer) if layer in layers else None
            yield blocks.Change(subject(name, layer), index is not None, True, index)

    return blocks.begin(labdir, look)


def put_back(
    labdir: str,
    directory: str,
    block: blocks.Block,
    *,
    on_error: OnError = raised,
    warn: Warn = silent,
) -> None:
    """Undo the addition of a directory to guests' stacks: remove it again, or move it back to where
    it was."""
    layer = os.path.realpath(directory)
    with blocks.ending(labdir, block) as look:

        def edit(_state: State, guests: list[Guest]) -> None:
            places = {change.subject[1]: change.position for change in look()}
            for guest in guests:
                if guest.name in places and layer in guest.overlays:
                    guest.overlays.remove(layer)
                    if (index := places[guest.name]) is not None:
                        guest.overlays.insert(index, layer)

        now, state = load(labdir), load(labdir)
        edit(state, list(state.guests.values()))
        names = [n for n, guest in state.guests.items() if guest.overlays != now.guests[n].overlays]
        restack(labdir, names, lambda *_: None, edit, lenient=True, on_error=on_error, warn=warn)


def _having(labdir: str, names: Iterable[str], has: Callable[[Guest], bool]) -> list[str]:
    """Those of the guests, some of which may not exist, that have something to remove, or for which
    a command that was killed may not have removed it."""
    known = load(labdir).guests
    return [n for n in names if n in known and (has(known[n]) or mounts.is_unsettled(labdir, n))]


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
