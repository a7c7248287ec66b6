"""Carriers: what guests are told when a cable is plugged in or pulled.

The host's end comes first: whatever a guest says, its traffic stops. Then the guests concerned are
told, each in its turn, and only then a cable is recorded as cut: a command that was killed before
leaves records that match what the guests know. A guest that is paused is told when it is resumed,
and one that is not running when it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from dumm_tools import statefile
from dumm_tools.agent.client import ANSWER_TIMEOUT
from dumm_tools.linux import rtnl
from dumm_tools.model import Iface, State
from dumm_tools.net import cable, duplicate, nic, segment
from dumm_tools.running import liveness, turn

Report = Callable[[str], None]
#: Changes the records; gets the guests that have done their part.
Record = Callable[[State, Collection[str]], object]
Failures = Mapping[str, Exception]


def listeners(labdir: str, state: State, ifaces: Collection[Iface]) -> set[str]:
    """The guests of these interfaces that can be told something now."""
    return {
        guest
        for guest in {i.guest for i in ifaces} & state.guests.keys()
        if liveness.guest_state(labdir, state, state.guests[guest]) in ("running", "starting")
    }


def announce(
    labdir: str,
    ifaces: Collection[Iface],
    on: bool | None,
    record: Record = lambda _state, _done: None,
    *,
    also: Callable[[str, float], object] = lambda _guest, _seconds: None,
    about: Callable[[str], bool] = lambda _: False,
) -> Failures:
    """Tell guests that their interfaces have a carrier now, or none, or (None) what is recorded;
    record it; and tell those again for whom other commands have recorded something else meanwhile.
    Return the failures by guest.

    `also` is called for each of the guests in its turn, before it is told. A guest that does not
    answer is given more time if the command is `about` it.
    """
    by_guest: dict[str, set[str]] = {}
    for iface in ifaces:
        by_guest.setdefault(iface.guest, set()).add(iface.name)
    told = listeners(labdir, statefile.load(labdir), ifaces)
    failures: dict[str, Exception] = {}
    if told:
        rtnl.load()

    def talk(guest: str, seconds: float) -> None:
        also(guest, seconds)
        tell(labdir, guest, by_guest[guest], seconds, on)

    def then(done: Collection[str]) -> None:
        for guest in _recorded(labdir, by_guest, on, record, done):
            try:
                tell(labdir, guest, by_guest[guest], turn.PROMPT)
            except Exception as e:  # one failure must not affect the others
                failures[guest] = e

    def again(guest: str, seconds: float) -> None:
        also(guest, seconds)
        _recorded(labdir, {guest: by_guest[guest]}, on, record, [guest])
        tell(labdir, guest, by_guest[guest], seconds)

    if not told:
        then([])
        return {}
    return turn.each(labdir, told, talk, then, again, about=about) | failures


def _recorded(
    labdir: str,
    by_guest: Mapping[str, Collection[str]],
    on: bool | None,
    record: Record,
    done: Collection[str],
) -> list[str]:
    """Record a change, also for reboots inside guests; return those that were told something
    else."""
    with statefile.transaction(labdir) as change:
        state = change.state
        record(state, done)
        cable.refresh_boots(labdir, state, by_guest)
        wrong = []
        for guest in done:
            known = [state.ifaces[n] for n in by_guest.get(guest, ()) if n in state.ifaces]
            if on is not None and any(segment.has_carrier(state, i) != on for i in known):
                wrong.append(guest)
    return wrong


def tell(
    labdir: str,
    guest: str,
    names: Collection[str] | None = None,
    seconds: float = ANSWER_TIMEOUT,
    on: bool | None = None,
) -> None:
    """Tell a running guest, in whose turn we are, whether its interfaces (or these of them) have a
    carrier: `on`, or what is recorded. DummError, TimedOut."""
    state = statefile.load(labdir)
    wanted = {
        iface.name: segment.has_carrier(state, iface) if on is None else on
        for iface in state.ifaces_of(guest)
        if names is None or iface.name in names
    }
    if wanted:
        with turn.unless_ended(labdir, guest):
            nic.set_carriers(labdir, [state.ifaces[n] for n in sorted(wanted)], wanted, seconds)


def warn_of(failures: Failures, ifaces: Sequence[Iface], warn: Report) -> None:
    """Report guests that were not told."""
    for guest, error in failures.items():
        ends = ", ".join(f"'{i.name}'" for i in ifaces if i.guest == guest)
        warn(f"the guest's carrier of {ends} is unchanged: {error}")


def conclude(failures: Failures, guest: str, others: Sequence[Iface], warn: Report) -> None:
    """Report the failures: raise that of the guest whose interface it is, warn of the others."""
    warn_of({g: e for g, e in failures.items() if g != guest}, others, warn)
    if guest in failures:
        raise failures[guest]


class Pulled(NamedTuple):
    """The other end of a cable that was on a bridge."""

    bridge: str | None
    far: Iface


def pulled(labdir: str, ends: Sequence[Pulled], warn: Report) -> None:
    """Tell the other ends of cables that are gone, and record it; guests that are not told are
    reported."""

    def cut(state: State, _done: object) -> None:
        for end in ends:
            segment.cut(state, end.bridge, [end.far])

    if ends:
        far = [end.far for end in ends]
        warn_of(announce(labdir, far, False, cut), far, warn)


class News(NamedTuple):
    """Consequences of a connection that remain to be told and recorded."""

    #: The other end of the cable that an interface has left, on `left`.
    lonely: list[Iface]
    left: str | None
    #: Those on the new segment whose carrier changes.
    joined: list[Iface]
    bridge: str
    #: Warnings: addresses that another member has, too.
    shared: list[str]


def moved(state: State, iface: Iface, bridge: str) -> News:
    """Record that an interface is connected to a bridge."""
    before, left = segment.has_carrier(state, iface), iface.bridge
    lonely = segment.far_ends(state, iface) if left != bridge else []
    iface.bridge = bridge
    if state.bridges[bridge].cut:
        joined = state.members_of(bridge)
    elif left is not None and before != segment.has_carrier(state, iface):
        joined = [iface]
    else:
        joined = []
    shared = duplicate.of_interface(state, iface) if left != bridge else []
    return News(lonely, left, joined, bridge, shared)


def spread(labdir: str, news: News, warn: Report) -> None:
    """Tell and record the consequences of a connection; guests that are not told are reported."""

    joined = {i.name for i in news.joined}

    def mend(state: State, _done: object) -> None:
        # Unless one of them has been pulled meanwhile.
        if joined <= {i.name for i in state.members_of(news.bridge)}:
            state.bridges[news.bridge].cut = False

    def cut(state: State, _done: object) -> None:
        segment.cut(state, news.left, news.lonely)

    for text in news.shared:
        warn(text)
    if news.lonely:
        warn_of(announce(labdir, news.lonely, False, cut), news.lonely, warn)
    bridge = statefile.load(labdir).bridges.get(news.bridge) if joined else None
    if bridge is not None:
        warn_of(announce(labdir, news.joined, bridge.up, mend), news.joined, warn)
