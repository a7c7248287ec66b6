"""The part of a plan that is about interfaces: their cables, addresses and routes. A guest can be
reached at all times, if it can be before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dumm_tools import address
from dumm_tools.errors import Usage
from dumm_tools.labs import commands, dump
from dumm_tools.labs.commands import Command, Words
from dumm_tools.labs.edits import Edits, edits, same
from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import route_check
from dumm_tools.routing import Route

#: A route, with the interface that it is recorded with.
Owned = tuple[str, Route]


def _host(text: str) -> str:
    """An address without its prefix length."""
    return text.partition("/")[0]


def moving(left: dict[str, Iface], before: State, after: State) -> set[str]:
    """The addresses that are added to anything: where they are now, they must go first."""
    pairs: list[tuple[Iface | Bridge | None, Iface | Bridge]] = [
        (left.get(name), iface) for name, iface in after.ifaces.items()
    ]
    pairs += [(before.bridges.get(name), bridge) for name, bridge in after.bridges.items()]
    found: set[str] = set()
    for was, record in pairs:
        if record is not was:
            known = was.addresses if was is not None else []
            found.update(_host(text) for text in record.addresses if text not in known)
    return found


def addresses(now: Sequence[str], wanted: Sequence[str], moving: set[str]) -> Edits:
    """The changes of the addresses of an interface or bridge. A new one comes before an old one
    goes, unless the old one is needed elsewhere."""
    found = Edits([], [], [])
    groups: dict[tuple[bool, str], tuple[list[str], list[str]]] = {}
    for number, texts in enumerate((now, wanted)):
        for text in texts:
            groups.setdefault(commands.network(text), ([], []))[number].append(text)
    for old, new in groups.values():
        some = edits(old, new)
        vacated = [text for text in some.last if _host(text) in moving]
        found.first.extend((*some.first, *vacated))
        found.add.extend(some.add)
        found.last.extend(text for text in some.last if text not in vacated)
    return found


def vacated(now: Iface, wanted: Iface, moving: set[str]) -> Iterator[Command]:
    """Addresses that another interface, or the host, gets."""
    found = addresses(now.addresses, wanted.addresses, moving)
    if found.first:
        words = ("iface", "address", "del", now.name, *found.first)
        yield Command(words, guest=now.guest)


def ifaces(
    before: State, left: dict[str, Iface], wanted: list[Iface], moving: set[str]
) -> Iterator[Command]:
    """The interfaces of one guest. Routes go before the addresses that they depend on, and come
    after them; a new address comes before an old one goes."""
    wanted = sorted(wanted, key=lambda iface: iface.name)
    guest = wanted[0].guest if wanted else None
    changed = [i for i in wanted if i.name not in left or not same(left[i.name], i)]
    if not changed:
        return
    there = {i.name: dump.routes([left[i.name]]) if i.name in left else [] for i in wanted}
    known = {each for some in there.values() for each in some}
    routes = dump.routes(changed)
    kept = set(routes)
    new = [each for each in routes if each not in known]
    gone = [each for iface in changed for each in there[iface.name] if each not in kept]
    in_place = _in_place(gone, new, _meanwhile(left, wanted, moving))
    for iface in changed:
        alike: dict[str, list[Route]] = {}
        for _, route in there[iface.name]:
            alike.setdefault(route.dest, []).append(route)
        # A gateway may be on the segment because of another route.
        for owner, route in reversed(there[iface.name]):
            if (owner, route) not in kept and (owner, route) not in in_place:
                yield Command(commands.no_route(owner, route, alike[route.dest]), guest=guest)
                alike[route.dest].remove(route)
    for iface in changed:
        yield from _iface(before, left.get(iface.name), iface, moving)
    for owner, route in in_place.values():
        yield Command((*commands.route(owner, route), "--may-exist"), guest=guest)
    for iface in changed:
        if (now := left.get(iface.name)) is not None:
            found = addresses(now.addresses, iface.addresses, moving)
            if found.last:
                words = ("iface", "address", "del", iface.name, *found.last)
                yield Command(words, guest=guest)
            if iface.mtu < now.mtu:  # perhaps too small for those
                words = ("iface", "set", iface.name, "--mtu", str(iface.mtu))
                yield Command(words, guest=guest)
    replacing = set(in_place.values())
    for owner, route in new:
        if (owner, route) not in replacing:
            yield Command(commands.route(owner, route), guest=guest)


def _in_place(gone: Iterable[Owned], new: Iterable[Owned], meanwhile: State) -> dict[Owned, Owned]:
    """The routes that new ones can replace, so that there is one at any time."""
    before = {each[1].key: each for each in gone}
    return {
        before[each[1].key]: each
        for each in new
        if each[1].key in before and _is_possible(meanwhile, each)
    }


def _meanwhile(left: dict[str, Iface], wanted: list[Iface], moving: set[str]) -> State:
    """The interfaces of a guest when they have their new addresses, and some still have old ones;
    without routes, which may come later."""
    state = State("", 0)
    for iface in wanted:
        both = list(iface.addresses)
        if (now := left.get(iface.name)) is not None:
            first = addresses(now.addresses, iface.addresses, moving).first
            both += [text for text in now.addresses if text not in (*first, *both)]
        state.ifaces[iface.name] = iface.but(addresses=both, routes=[])
    return state


def _is_possible(state: State, each: Owned) -> bool:
    owner, route = each
    try:
        route_check.check_hops(state, state.ifaces[owner], route)
    except Usage:
        return False
    return True


def _iface(before: State, now: Iface | None, wanted: Iface, moving: set[str]) -> Iterator[Command]:
    name, guest = wanted.name, wanted.guest
    if now is None:
        yield Command(commands.iface(wanted), guest=guest)
        now = wanted.but(up=True, shape={})
    if now.bridge != wanted.bridge:
        if wanted.bridge is None:
            yield Command(("bridge", "disconnect", name))
        else:
            yield Command(("bridge", "connect", wanted.bridge, name), guest=guest)
    words: Words = ()
    if now.mtu < wanted.mtu:
        words += ("--mtu", str(wanted.mtu))
    if now.mac != wanted.mac:
        words += ("--mac", wanted.mac or address.made_mac(f"{before.id} {name}"))
    if words:
        yield Command(("iface", "set", name, *words), guest=guest)
    if add := addresses(now.addresses, wanted.addresses, moving).add:
        yield Command(("iface", "address", "add", name, *add), guest=guest)
    if now.up != wanted.up:
        yield Command(("iface", "up" if wanted.up else "down", name))
    if now.shape != wanted.shape:
        clear = bool(now.shape.keys() - wanted.shape.keys())
        yield Command(commands.shaped(wanted, clear=clear))
