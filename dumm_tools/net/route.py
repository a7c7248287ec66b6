"""Routes of guests: recorded with an interface, and active while they are possible."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from dumm_tools import address, names, routing, statefile
from dumm_tools.errors import Conflict, NotFound
from dumm_tools.model import Iface, State
from dumm_tools.net import cable, guest_links, guest_routes, link_views, route_check, route_requests
from dumm_tools.net.route_check import DEFAULT, EVERYWHERE
from dumm_tools.net.route_requests import Owned
from dumm_tools.routing import Route
from dumm_tools.running import guest_views, liveness


class RouteView(NamedTuple):
    """A route, or one of its next hops, as shown by `route list`. `iface` is None for a device that
    we did not create, both are None for a route that ends here."""

    guest: str
    iface: str | None
    device: str | None
    dest: str
    via: str | None
    kind: str = routing.UNICAST
    metric: int | None = None
    table: int = routing.MAIN
    src: str | None = None
    weight: int = 1
    onlink: bool = False

    @property
    def family(self) -> str:
        """inet or inet6."""
        return "inet6" if address.is_v6(self.dest) else "inet"

    @property
    def shown(self) -> str:
        """The destination as the user writes it."""
        return DEFAULT if self.dest in EVERYWHERE.values() else self.dest


def add(
    labdir: str,
    name: str,
    dest: str,
    *,
    via: Sequence[str] = (),
    kind: str = routing.UNICAST,
    metric: int | None = None,
    table: str | None = None,
    src: str | None = None,
    onlink: bool = False,
    may_exist: bool = False,
) -> None:
    """Add a route through an interface to its guest; with `may_exist`, in place of another one with
    this destination, metric and table. Usage, NotFound, Conflict."""
    wanted = route_check.wanted(
        dest, via, kind=kind, metric=metric, table=table, src=src, onlink=onlink
    )
    guest, device = names.interface(name)
    wanted = wanted._replace(
        hops=tuple(h._replace(device=None) if h.device == device else h for h in wanted.hops)
    )
    with cable.turn_of(labdir, guest):
        with statefile.transaction(labdir) as change:
            state = change.state
            record = link_views.interface(state, name)
            route_check.check_hops(state, record, wanted)
            running = cable.reachable(labdir, state, guest)
            before = {each.name: each.but() for each in state.ifaces_of(guest)}
            there = Owned(name, wanted) in route_requests.owned([record])
            if there and not may_exist:
                raise Conflict(f"'{name}' already has the route '{route_check.text(wanted)}'")
            others: list[Iface] = []
            if not there:
                others = _forget(state.ifaces_of(guest), wanted) if may_exist else []
                route_check.check_free(state, record, wanted)
                record.routes = [*record.routes, routing.record(wanted)]
                change.save()
                if running:
                    cable.refresh_boot(labdir, state, guest)
        if running:
            with contextlib.ExitStack() as undo:
                for each in {i.name: i for i in (*others, record)}.values():
                    undo.enter_context(cable.taking_back(labdir, before[each.name], each))
                if others:
                    after = statefile.load(labdir).ifaces_of(guest)
                    lost = route_requests.lost(list(before.values()), after)
                    guest_routes.drop(labdir, record, list(before.values()), lost)
                _tell(labdir, before[name], record, Owned(name, wanted))


def _forget(ifaces: Sequence[Iface], wanted: Route) -> list[Iface]:
    """Remove the record of the route that the kernel would replace with another one; return the
    interface that it was recorded with, if there is one."""
    changed = []
    for iface in ifaces:
        left = [r for r in iface.routes if routing.route(r).key != wanted.key]
        if left != iface.routes:
            iface.routes = left
            changed.append(iface)
    return changed


def _tell(labdir: str, before: Iface, record: Iface, wanted: Owned) -> None:
    """Add a route to the running guest, which may have been done before; and then those that were
    waiting for it."""
    ifaces = guest_routes.siblings(labdir, record)
    earlier = [before if i is record else i for i in ifaces]
    waiting = [e for e in route_requests.changed(earlier, ifaces) if e != wanted]
    # After a killed command, they may still be waiting.
    if any(hop.via is None for hop in wanted.route.hops):
        waiting += [
            e
            for e in route_requests.touching(ifaces, record)
            if e not in waiting
            and any(address.is_near(via, [wanted.route.dest]) for via in e.route.gateways)
        ]
    guest_routes.put(labdir, record, ifaces, [wanted])
    try:
        guest_routes.put(labdir, record, ifaces, waiting)
    except BaseException:
        with contextlib.suppress(*guest_links.UNDO_FAILURES):
            if wanted not in route_requests.owned([before]):
                guest_routes.drop(labdir, record, ifaces, [wanted])
        raise


def delete(
    labdir: str,
    name: str,
    dest: str,
    *,
    via: Sequence[str] = (),
    kind: str | None = None,
    metric: int | None = None,
    table: str | None = None,
    if_exists: bool = False,
) -> None:
    """Remove a route from a guest. Usage, NotFound, Conflict."""
    guest, _ = names.interface(name)
    if if_exists and name not in statefile.load(labdir).ifaces:
        return

    def planned(state: State) -> tuple[Iface, Iface, list[Owned]]:
        """The record now and afterwards, and which of its routes is meant."""
        record = link_views.interface(state, name)
        meant = route_check.meant(record, dest, via, kind=kind, metric=metric, table=table)
        if not meant and not if_exists:
            words = [dest, *(f"via {each}" for each in via)]
            raise NotFound(f"'{name}' has no route '{' '.join(words)}'")
        left = [r for r in record.routes if routing.route(r) not in [e.route for e in meant]]
        return record, record.but(routes=left), meant

    with cable.turn_of(labdir, guest):
        if liveness.alive(labdir, guest):
            state = statefile.load(labdir)
            record, after, meant = planned(state)
            if cable.reachable(labdir, state, guest) and meant:
                _untell(labdir, record, after, meant[0])
        with statefile.transaction(labdir) as change:
            record, after, meant = planned(change.state)
            record.routes = after.routes
            cable.refresh_boots(labdir, change.state, {guest})


def _untell(labdir: str, record: Iface, after: Iface, meant: Owned) -> None:
    """Remove a route from the running guest, and first those that depend on it."""
    before = guest_routes.siblings(labdir, record)
    left = [after if i is record else i for i in before]
    lost = [e for e in route_requests.lost(before, left) if e != meant]
    guest_routes.drop(labdir, record, before, [*lost, meant])
    # Without a metric, the request removes a route with another one if there is no such route.
    same = (meant.route.dest, meant.route.table)
    others = [e for e in route_requests.owned(left) if (e.route.dest, e.route.table) == same]
    guest_routes.put(labdir, after, left, others)


def list_(labdir: str, guest: str, *, ask_guest: bool = False) -> list[RouteView]:
    """The routes recorded for a guest, or those that its kernel has. NotFound, Conflict."""
    state = statefile.load(labdir)
    guest_views.get(state, names.guest(guest))
    if ask_guest:
        liveness.need_running(labdir, state, state.guests[guest])
        views = _live(labdir, state, guest)
    else:
        views = _recorded(state, guest)
    return sorted(views, key=_order)


def _order(view: RouteView) -> tuple[object, ...]:
    """By address family, the table main first, then by destination."""
    other = view.table != routing.MAIN
    where = (view.device or "", view.via or "")
    return view.family, other, view.table, view.shown, view.metric or 0, *where


def _live(labdir: str, state: State, guest: str) -> list[RouteView]:
    by_device = {i.device: i.name for i in state.ifaces_of(guest)}
    return [
        RouteView(
            guest,
            by_device.get(device) if device else None,
            device,
            route.dest,
            route.hop.via if route.hop else None,
            route.kind,
            route.metric,
            route.table,
            route.src,
            route.hop.weight if route.hop else 1,
            route.onlink,
        )
        for device, route in guest_routes.live(labdir, guest)
    ]


def _recorded(state: State, guest: str) -> list[RouteView]:
    ifaces = state.ifaces_of(guest)
    views = []
    for owner, route in route_requests.owned(ifaces):
        view = RouteView(
            guest,
            owner,
            None,
            route.dest,
            None,
            route.kind,
            route.metric,
            route.table,
            route.src,
            onlink=route.onlink,
        )
        for hop in route.hops:
            iface = route_requests.behind(ifaces, owner, hop)
            device = iface.device if iface else hop.device
            name = iface.name if iface else None
            views.append(view._replace(iface=name, device=device, via=hop.via, weight=hop.weight))
        if not route.hops:
            views.append(view)
    return views
