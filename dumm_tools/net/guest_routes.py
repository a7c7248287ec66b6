"""The routes of a running guest, by netlink through its agent. Writes no state."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Sequence

from dumm_tools import statefile
from dumm_tools.agent.client import ANSWER_TIMEOUT, Control
from dumm_tools.linux import netlink, route, rtnl
from dumm_tools.linux.netlink import Request
from dumm_tools.model import Iface
from dumm_tools.net import guest_links, route_requests
from dumm_tools.net.host_links import explained
from dumm_tools.net.route_requests import Owned
from dumm_tools.running import contact

#: Keys of records that make a route depend on other interfaces than its own.
_SHARED = ("hops", "src")


def siblings(labdir: str, iface: Iface) -> list[Iface]:
    """The interfaces of its guest, this one as given; or only this one, if no route in the lab
    depends on several."""
    if not statefile.mentions(labdir, *_SHARED):
        return [iface]
    ifaces = statefile.load(labdir).ifaces_of(iface.guest)
    return [iface, *(i for i in ifaces if i.name != iface.name)]


def requests(
    control: Control, ifaces: Sequence[Iface], routes: Iterable[Owned], known: dict[str, int]
) -> list[Request]:
    """The requests for those of the routes that are possible now. `known` are indexes of
    interfaces' devices that are up; others are looked up."""
    found = []
    for each in route_requests.gateways_last(routes):
        chosen = route_requests.hops(ifaces, each)
        for iface, _ in chosen:
            if iface.name not in known:
                link = guest_links.find(control, iface)
                known[iface.name] = link.ifindex if link is not None and link.up else 0
        request = route_requests.new(each.route, chosen, known)
        if request is not None:
            found.append(request)
    return found


def through(labdir: str, control: Control, iface: Iface, index: int) -> list[Request]:
    """The requests for all routes that depend on a device that is up."""
    ifaces = siblings(labdir, iface)
    routes = route_requests.touching(ifaces, iface)
    return requests(control, ifaces, routes, {iface.name: index})


def load_ipv6(control: Control, routes: Iterable[Owned]) -> None:
    """As for addresses (`guest_links.load_ipv6`)."""
    if any(route_requests.needs_ipv6(each.route) for each in routes):
        with contextlib.suppress(OSError):
            control.load_module("ipv6")


def put(
    labdir: str,
    iface: Iface,
    ifaces: Sequence[Iface],
    routes: Sequence[Owned],
    timeout: float = ANSWER_TIMEOUT,
) -> None:
    """Set routes that depend on an interface in the running guest, as far as they are possible
    now."""
    if not routes:
        return
    with (
        contact.control(labdir, iface.guest, timeout) as control,
        explained(f"add a route to '{iface.name}'"),
    ):
        link = guest_links.need(control, iface)
        load_ipv6(control, routes)
        known = {iface.name: link.ifindex if link.up else 0}
        netlink.transact(control, requests(control, ifaces, routes, known))


def drop(
    labdir: str,
    iface: Iface,
    ifaces: Sequence[Iface],
    routes: Sequence[Owned],
    timeout: float = ANSWER_TIMEOUT,
) -> None:
    """Remove routes from the running guest; missing ones are ignored."""
    if not routes:
        return
    with (
        contact.control(labdir, iface.guest, timeout) as control,
        explained(f"remove a route from '{iface.name}'"),
    ):
        indexes: dict[str, int] = {}
        for each in routes:
            if each.owner not in indexes:
                owner = next(i for i in ifaces if i.name == each.owner)
                link = guest_links.find(control, owner)
                indexes[each.owner] = link.ifindex if link is not None else 0
            if not indexes[each.owner] and len(each.route.hops) == 1:
                continue  # it has gone with its device
            request = route_requests.gone(each, indexes[each.owner])
            guest_links.tolerant(control, request, errno.ESRCH, errno.ENODEV, errno.EAFNOSUPPORT)


def live(labdir: str, guest: str) -> list[tuple[str | None, route.Route]]:
    """The routes of the running guest, with the names of their devices."""
    with contact.control(labdir, guest) as control, explained(f"list the routes of '{guest}'"):
        by_index = {link.ifindex: link.name for link in rtnl.links(control)}
        return [
            (by_index.get(r.hop.ifindex, "?") if r.hop else None, r) for r in route.routes(control)
        ]


def leave(labdir: str, iface: Iface, timeout: float) -> tuple[list[Iface], list[Owned]]:
    """Before an interface is deleted: remove the routes that would outlive its device. Return the
    others, and which of their routes `put` must set afterwards."""
    before = siblings(labdir, iface)
    after = route_requests.without(before, iface.name)
    drop(labdir, iface, before, [
        each
        for each in route_requests.lost(before, after)
        if each.owner != iface.name or not each.route.hops
    ], timeout)  # fmt: skip
    return after, route_requests.changed(before, after)


def rejoin(labdir: str, after: Sequence[Iface], routes: Sequence[Owned], timeout: float) -> None:
    """After an interface was deleted: set the routes that have lost a gateway, without it."""
    for each in routes:
        owner = next(i for i in after if i.name == each.owner)
        put(labdir, owner, after, [each], timeout)
