"""Interfaces: a guest's NIC and its tap, recorded, and set up immediately if the guest is running.

A change is made in the guest's turn. In a transaction it is checked, recorded, and made on the
host; then, without the lab's lock, the guest is told; if that fails, another transaction rolls back
the record. Removals are done in the kernels first, so that a command that was killed can be run
again; a cable is cut whatever the guest says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence

from dumm_tools import address, missing, names, statefile, waiting
from dumm_tools.errors import Conflict, Usage
from dumm_tools.linux import netlink, rtnl, sysfs
from dumm_tools.model import Iface, State
from dumm_tools.net import (
    cable,
    carrier,
    duplicate,
    guest_links,
    guest_routes,
    host_links,
    learning,
    link_views,
    nic,
    route_requests,
    segment,
)
from dumm_tools.running import guest_views, liveness, turn

Report = Callable[[str], None]
#: Default MTU of an interface.
MTU = 1500


def create(
    labdir: str,
    name: str,
    *,
    bridge: str | None = None,
    addresses: Sequence[str] = (),
    mac: str | None = None,
    mtu: int | None = None,
    may_exist: bool = False,
    warn: Report = lambda _: None,
) -> bool:
    """Add an interface to a guest, immediately if it is running; False if it already exists (see
    `converge`). Addresses that another member of the segment has, too, and other guests that are
    not told of a carrier are reported to `warn`. Usage, NotFound, Conflict."""
    guest, device = names.interface(name)
    wanted = address.interfaces(list(addresses))
    mtu = MTU if mtu is None else address.mtu(mtu)
    address.fits(mtu, wanted)
    mac = address.mac(mac) if mac else None
    reopen, news = False, None
    with cable.turn_of(labdir, guest):
        with statefile.transaction(labdir) as change:
            state = change.state
            guest_views.get(state, guest)
            fresh = name not in state.ifaces
            if not fresh and not may_exist:
                raise Conflict(f"interface '{name}' already exists")
            if fresh and bridge is not None and bridge not in state.bridges:
                raise missing.bridge(state, names.bridge(bridge))
            running = cable.reachable(labdir, state, guest)
            if fresh:
                new = Iface(name, guest, device, 0, "", mac or "", mtu=mtu, addresses=wanted)
                news = add(state, new, bridge)
                change.save()
            made = state.ifaces[name]
            if not fresh and segment.far_ends(state, made):
                # A command that was killed may have left a cable recorded as cut.
                news = carrier.moved(state, made, made.bridge or "")._replace(shared=[])
            if running:
                reopen = cable.settle_host(labdir, state, made)
            else:
                learning.settle(state, made.bridge)
        if running:
            # An existing one may be from a command that was killed before the guest had it.
            with cable.taking_back(labdir, None if fresh else made, made):
                # A new end of a cable mends it; an existing one may be alone on it.
                joined = state.bridges[news.bridge].up if news is not None else False
                live = joined or segment.has_carrier(state, made)
                nic.plug(labdir, made, live, reopen=reopen)
    if news is not None:
        carrier.spread(labdir, news, warn)
    return fresh


def add(state: State, new: Iface, bridge: str | None) -> carrier.News | None:
    """Record a new interface on a bridge, with a slot, a tap and, unless it has one, a MAC address
    of its own. Conflict."""
    new.tap = _free_tap(state, new.name)
    taken = {i.slot for i in state.ifaces_of(new.guest)}
    new.slot = next(n for n in range(len(taken) + 1) if n not in taken)
    if not new.mac:
        macs = {i.mac for i in state.ifaces.values()}
        new.mac = address.made_mac(f"{state.id} {new.name}", macs)
    state.ifaces[new.name] = new
    return carrier.moved(state, new, bridge) if bridge is not None else None


def _free_tap(state: State, name: str) -> str:
    """The name for an interface's tap; Conflict if it is in use."""
    tap = names.tap(name)
    if tap in state.bridges:
        raise Conflict(f"'{tap}' is already a bridge")
    for other in state.ifaces.values():
        if other.tap == tap:
            raise Conflict(f"'{name}' would get the same tap '{tap}' as '{other.name}'")
    host_links.check_free(state, tap)
    return tap


def delete(
    labdir: str, name: str, *, if_exists: bool = False, warn: Report = lambda _: None
) -> None:
    """Delete an interface, from a running guest as well; from a segment even if the guest does not
    release it. If the guest at the other end of the cable is not told, that is reported to `warn`.
    Usage, NotFound, Conflict."""
    guest, _ = names.interface(name)
    if liveness.alive(labdir, guest):
        rtnl.load()
    with waiting.unbroken():
        with statefile.transaction(labdir) as change:
            state = change.state
            if if_exists and name not in state.ifaces:
                return
            iface = link_views.interface(state, name).but()
            running = cable.reachable(labdir, state, guest)
            far = segment.far_ends(state, iface)
            ends = [iface, *far]

            def record(state: State, done: Collection[str]) -> None:
                if name in state.ifaces and (guest in done or not running):
                    _forget(state, name)
                else:
                    cable.unplugged(state, [iface])
                segment.cut(state, iface.bridge, far)

            with netlink.host() as channel:
                host_links.unplug(channel, state, iface.tap)
            told = carrier.listeners(labdir, state, ends)
            if not told:
                record(state, ())
                cable.refresh_boots(labdir, state, {i.guest for i in far})
        if told:

            def unplug(owner: str, seconds: float) -> None:
                if owner == guest:
                    with turn.unless_ended(labdir, guest):
                        after, orphans = guest_routes.leave(labdir, iface, seconds)
                        nic.unplug(labdir, iface, seconds)
                        guest_routes.rejoin(labdir, after, orphans, seconds)

            failures = carrier.announce(
                labdir, ends, False, record, also=unplug, about=guest.__eq__
            )
            carrier.conclude(failures, guest, far, warn)


def _forget(state: State, name: str) -> None:
    """Remove the tap of an interface that its guest no longer has, and forget the interface."""
    with netlink.host() as channel:
        host_links.remove(channel, state, [state.ifaces[name].tap])
    for left in route_requests.without(state.ifaces_of(state.ifaces[name].guest), name):
        state.ifaces[left.name].routes = left.routes
    learning.settle(state, state.ifaces.pop(name).bridge)


def set_up(labdir: str, name: str, up: bool) -> None:
    """Bring the guest's device up or down, now and at each start. NotFound, Conflict."""
    guest, _ = names.interface(name)
    with cable.turn_of(labdir, guest):
        with statefile.transaction(labdir) as change:
            iface = link_views.interface(change.state, name)
            running = cable.reachable(labdir, change.state, guest)
            before = iface.but()
            iface.up = up
            change.save()
            reopen = cable.settle_host(labdir, change.state, iface, running)
            live = segment.has_carrier(change.state, iface)
        if running:
            with cable.taking_back(labdir, before, iface):
                nic.plug(labdir, iface, live, reopen=reopen)


def set_(
    labdir: str,
    name: str,
    *,
    mtu: int | None = None,
    mac: str | None = None,
    warn: Report = lambda _: None,
) -> None:
    """Change an interface's MTU or MAC address. A MAC address that another member of the segment
    has, too, is reported to `warn`. Usage, NotFound, Conflict."""
    if mtu is None and mac is None:
        raise Usage("nothing to set", hint="--mtu or --mac")
    mtu = address.mtu(mtu) if mtu is not None else None
    mac = address.mac(mac) if mac is not None else None
    guest, _ = names.interface(name)
    with cable.turn_of(labdir, guest):
        with statefile.transaction(labdir) as change:
            iface = link_views.interface(change.state, name)
            if mtu is not None:
                address.fits(mtu, iface.addresses)
            running = cable.reachable(labdir, change.state, guest)
            before = iface.but()
            iface.mtu = mtu or iface.mtu
            iface.mac = mac or iface.mac
            changed = iface.mac != before.mac
            shared = duplicate.of_interface(change.state, iface, []) if changed else []
            change.save()
            reopen = cable.settle_host(labdir, change.state, iface, running)
            live = segment.has_carrier(change.state, iface)
        if running:
            with cable.taking_back(labdir, before, iface):
                # A vector device is created with the largest MTU that it can have later. The
                # record may not match the device: an earlier command may have been killed.
                large = mtu is not None and mtu > nic.MTU_BY_NETLINK
                reborn = large and nic.live_mtu(labdir, iface) != mtu
                if reborn:
                    nic.unplug(labdir, iface)
                nic.plug(labdir, iface, live, reopen=reopen)
                if not reborn:
                    nic.change(labdir, iface, live, mtu=mtu is not None, mac=mac is not None)
    for text in shared:
        warn(text)


def add_addresses(
    labdir: str,
    name: str,
    addresses: Sequence[str],
    *,
    may_exist: bool = False,
    warn: Report = lambda _: None,
) -> None:
    """Add addresses to an interface: all or none. Those that another member of the segment has,
    too, are reported to `warn`. Usage, NotFound, Conflict."""
    wanted = address.interfaces(list(addresses))
    guest, _ = names.interface(name)
    with cable.turn_of(labdir, guest):
        with statefile.transaction(labdir) as change:
            state = change.state
            iface = link_views.interface(state, name)
            new = address.new_ones(name, iface.addresses, wanted, may_exist=may_exist)
            address.fits(iface.mtu, iface.addresses + new)
            running = cable.reachable(labdir, state, guest)
            before = iface.but()
            iface.addresses = iface.addresses + new
            shared = duplicate.of_interface(state, iface, new, mac=False)
            change.save()
            if running:
                cable.refresh_boot(labdir, state, guest)
        if running:
            with cable.taking_back(labdir, before, iface), contextlib.ExitStack() as undo:
                guest_links.add_addresses(labdir, iface, wanted)
                undo.callback(guest_links.drop_addresses, labdir, iface, new)
                # A route may have been waiting for this.
                ifaces = guest_routes.siblings(labdir, iface)
                waiting = route_requests.touching(ifaces, iface)
                guest_routes.put(labdir, iface, ifaces, waiting)
                undo.pop_all()
    for text in shared:
        warn(text)


def del_addresses(
    labdir: str, name: str, addresses: Sequence[str], *, if_exists: bool = False
) -> None:
    """Remove addresses from an interface. Usage, NotFound, Conflict."""
    unwanted = address.interfaces(list(addresses))
    guest, _ = names.interface(name)
    if if_exists and name not in statefile.load(labdir).ifaces:
        return

    def planned(state: State) -> tuple[Iface, list[str]]:
        iface = link_views.interface(state, name)
        return iface, address.without(name, iface.addresses, unwanted, if_exists=if_exists)

    with cable.turn_of(labdir, guest):
        if liveness.alive(labdir, guest):
            state = statefile.load(labdir)
            iface, left = planned(state)
            if cable.reachable(labdir, state, guest):
                _del_addresses(labdir, iface, unwanted, left)
        with statefile.transaction(labdir) as change:
            iface, left = planned(change.state)
            iface.addresses = left
            cable.refresh_boots(labdir, change.state, {guest})


def _del_addresses(labdir: str, iface: Iface, unwanted: list[str], left: list[str]) -> None:
    """In the running guest, including the routes that depend on them."""
    before = guest_routes.siblings(labdir, iface)
    after = [i.but(addresses=left) if i.name == iface.name else i for i in before]
    guest_routes.drop(labdir, iface, before, route_requests.lost(before, after))
    guest_links.del_addresses(labdir, iface, unwanted, left)
    # The kernel drops all routes of the device with its last address.
    guest_routes.put(labdir, iface, after, route_requests.touching(after, after[0]))


def addresses_of(labdir: str, name: str, *, ask_guest: bool = False) -> list[str]:
    """The addresses recorded for an interface, or those currently set in its running guest.
    NotFound, Conflict."""
    state = statefile.load(labdir)
    iface = link_views.interface(state, name)
    if not ask_guest:
        return sorted(iface.addresses)
    liveness.need_running(labdir, state, state.guests[iface.guest])
    return sorted(guest_links.live_addresses(labdir, iface))


def prepare(state: State, guest: str) -> None:
    """Create the taps of a guest that is about to start, and the lab's bridges if they are missing
    (as after a reboot of the host).

    Taps left by a crash are reused. Rolls itself back. Conflict, DummError.
    """
    ifaces = state.ifaces_of(guest)
    needed = {i.bridge for i in ifaces}
    if not ifaces and all(sysfs.exists(b) for b in state.bridges):
        return
    with netlink.host() as channel, contextlib.ExitStack() as undo:
        for name, bridge in state.bridges.items():
            if name not in needed and not sysfs.exists(name):
                # Not this guest's bridges: if this fails, the guest starts nevertheless.
                with contextlib.suppress(*guest_links.UNDO_FAILURES):
                    host_links.ensure_bridge(channel, state, bridge)
        for iface in ifaces:
            cable.plug_host(channel, undo, state, iface)
        undo.pop_all()


def release(state: State, *guests: str) -> None:
    """Remove the taps of guests that have ended; one step for all of them."""
    ifaces = state.ifaces_by_guest()
    taps = [i.tap for g in guests for i in ifaces.get(g, ()) if sysfs.exists(i.tap)]
    if taps:
        with netlink.host() as channel:
            host_links.remove(channel, state, taps)


def delete_of_guest(state: State, guest: str) -> list[carrier.Pulled]:
    """Forget the interfaces of a guest that is not running, and remove what is left of them. The
    caller saves the state, and then has `carrier.pulled` tell the other ends of the cables."""
    release(state, guest)
    found, gone = [], state.ifaces_of(guest)
    for iface in gone:
        found += [carrier.Pulled(iface.bridge, far) for far in segment.far_ends(state, iface)]
        del state.ifaces[iface.name]
    learning.settle(state, *{each.bridge for each in gone})
    return [each for each in found if each.far.guest != guest]
