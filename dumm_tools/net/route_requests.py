"""Which of a guest's recorded routes are possible now, and as netlink requests. Based on records
only.

A route is recorded with one interface, but may have gateways behind several interfaces of its
guest, and a source address of any of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dumm_tools import address, routing
from dumm_tools.linux import netlink, route
from dumm_tools.linux.netlink import Request
from dumm_tools.model import Iface
from dumm_tools.routing import Hop, Route


class Owned(NamedTuple):
    """A route, and the name of the interface that it is recorded with."""

    owner: str
    route: Route


def owned(ifaces: Iterable[Iface]) -> list[Owned]:
    """All routes of some interfaces."""
    return [Owned(i.name, routing.route(r)) for i in ifaces for r in i.routes]


def needs_ipv6(route_: Route) -> bool:
    """Whether the guest's kernel needs IPv6 for it."""
    return any(map(address.is_v6, (route_.dest, *route_.gateways)))


def hops(ifaces: Sequence[Iface], each: Owned) -> list[tuple[Iface, Hop]]:
    """The next hops that the kernel would accept now, given all interfaces of the guest."""
    wanted = each.route
    if wanted.src is not None and not any(i.up and has(i, wanted.src) for i in ifaces):
        return []
    found = []
    for hop in wanted.hops:
        iface = behind(ifaces, each.owner, hop)
        if iface is None or not iface.up:
            continue
        if (
            hop.via is None
            or wanted.onlink
            or address.is_near(hop.via, iface.addresses)  # nearly always, and much quicker
            or address.is_near(hop.via, near(iface, wanted.table))
        ):
            found.append((iface, hop))
    return found


def behind(ifaces: Iterable[Iface], owner: str, hop: Hop) -> Iface | None:
    """The interface that leads to a next hop."""
    for iface in ifaces:
        if iface.device == hop.device if hop.device else iface.name == owner:
            return iface
    return None


def has(iface: Iface, host: str) -> bool:
    """Whether it is an address of the interface."""
    return any(a.partition("/")[0] == host for a in iface.addresses)


def near(iface: Iface, table: int = routing.MAIN) -> list[str]:
    """The networks on the interface's own segment for a route in a table, according to its
    addresses and its routes without a gateway."""
    routes = (routing.route(r) for r in iface.routes)
    tables = (routing.MAIN, table)
    return iface.addresses + [
        r.dest for r in routes if r.table in tables and any(h.via is None for h in r.hops)
    ]


def is_usable(ifaces: Sequence[Iface], each: Owned) -> bool:
    """Whether the kernel would accept this route. Those that end here need no interface."""
    return each.route.kind != routing.UNICAST or bool(hops(ifaces, each))


def touching(ifaces: Sequence[Iface], iface: Iface) -> list[Owned]:
    """The routes that depend on an interface: recorded with it, with a gateway that it leads to, or
    with one of its addresses as their source."""
    return [
        each
        for each in owned(ifaces)
        if each.owner == iface.name
        or any(h.device == iface.device for h in each.route.hops)
        or (each.route.src is not None and has(iface, each.route.src))
    ]


def lost(before: Sequence[Iface], after: Sequence[Iface]) -> list[Owned]:
    """The routes that were possible before a change, and are not, or are not recorded, any more."""
    left = {e.route.key for e in owned(after) if is_usable(after, e)}
    return [e for e in owned(before) if is_usable(before, e) and e.route.key not in left]


def changed(before: Sequence[Iface], after: Sequence[Iface]) -> list[Owned]:
    """The routes that are possible after a change, and were not, or not with the same next hops."""

    def look(ifaces: Sequence[Iface], each: Owned) -> list[tuple[str, Hop]]:
        return [(i.name, h._replace(device=None)) for i, h in hops(ifaces, each)]

    known = {e.route.key: (look(before, e), is_usable(before, e)) for e in owned(before)}
    return [
        e
        for e in owned(after)
        if is_usable(after, e) and known.get(e.route.key) != (look(after, e), True)
    ]


def without(ifaces: Sequence[Iface], name: str) -> list[Iface]:
    """The interfaces of a guest once one of them is deleted. A route with several gateways keeps
    those behind other interfaces; if it was recorded with the deleted one, the interface of its
    first remaining gateway takes it over."""
    gone = next((i for i in ifaces if i.name == name), None)
    if gone is None:
        return list(ifaces)
    left = {i.device: i.but(routes=[]) for i in ifaces if i is not gone}
    for each in owned(ifaces):
        stay = [
            (there, hop)
            for hop in each.route.hops
            if (there := behind(ifaces, each.owner, hop)) is not None and there is not gone
        ]
        if each.owner != name and (stay or each.route.kind != routing.UNICAST):
            owner = next(i for i in ifaces if i.name == each.owner)
        elif stay:
            owner = stay[0][0]
        else:
            continue
        kept = tuple(
            hop._replace(device=None if there is owner else there.device) for there, hop in stay
        )
        if len(kept) == 1:
            kept = (kept[0]._replace(weight=1),)
        record = routing.record(each.route._replace(hops=kept))
        left[owner.device].routes.append(record)
    return list(left.values())


def gateways_last(routes: Iterable[Owned]) -> list[Owned]:
    """In the order in which a kernel takes them: a gateway may be on the segment because of a
    route."""
    return sorted(routes, key=lambda each: bool(each.route.gateways))


def new(
    route_: Route, chosen: Iterable[tuple[Iface, Hop]], indexes: Mapping[str, int]
) -> Request | None:
    """The request for a route with these of its next hops, as far as the indexes of their devices
    are known; None without any."""
    found = [route.Hop(indexes[i.name], h.via, h.weight) for i, h in chosen if indexes.get(i.name)]
    if route_.kind == routing.UNICAST and not found:
        return None
    return route.route(
        route.RTM_NEWROUTE,
        route_.dest,
        found,
        kind=route_.kind,
        metric=route_.metric,
        table=route_.table,
        src=route_.src,
        onlink=route_.onlink,
        flags=netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE,
    )


def gone(each: Owned, index: int) -> Request:
    """The request that removes a route; with a single next hop only if that is as recorded."""
    wanted = each.route
    single = wanted.hops[0] if len(wanted.hops) == 1 else None
    return route.route(
        route.RTM_DELROUTE,
        wanted.dest,
        [route.Hop(index, single.via)] if single and index else [],
        kind=wanted.kind,
        metric=wanted.key[1] or None,
        table=wanted.table,
    )


def at_boot(ifaces: Sequence[Iface]) -> list[tuple[int, bytes]]:
    """The payloads of BOOT_ROUTE, each with the number of places in it."""
    found = []
    for each in gateways_last(owned(ifaces)):
        chosen = hops(ifaces, each)
        request = new(each.route, chosen, dict.fromkeys((i.name for i in ifaces), 1))
        if request is None:
            continue
        slots = [iface.slot for iface, _ in chosen]
        where = list(zip(route.places(request.data), slots, strict=True)) if slots else []
        if each.route.src is not None:  # place 0: the device must only be there
            where += [(0, i.slot) for i in ifaces if i.up and has(i, each.route.src)]
        head = b"".join(struct.pack("<HH", *pair) for pair in where)
        found.append((len(where), head + request.data))
    return found
