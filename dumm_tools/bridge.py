"""Bridges: segments of the lab, and the cables that lead to them.

A bridge is made at once, running guests or not; `iface.prepare` makes it again after a reboot
of the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from dumm_tools import (
    address,
    guard,
    iface,
    live,
    masquerade,
    names,
    network,
    nic,
    segment,
    state,
    uplink,
)
from dumm_tools.errors import Conflict
from dumm_tools.linux import netlink, rtnl
from dumm_tools.model import Bridge, State


def create(root: str, name: str, *, addresses: Sequence[str] = (), may_exist: bool = False) -> None:
    """Make a bridge. Usage, Conflict."""
    names.bridge(name)
    wanted = address.interfaces(list(addresses))
    rtnl.load()
    with state.transaction(root) as change:
        found = change.state
        if name in found.bridges and not may_exist:
            raise Conflict(f"bridge '{name}' exists already")
        with netlink.host() as channel:
            if name not in found.bridges:
                found.bridges[name] = Bridge(name, wanted)
                if any(i.tap == name for i in found.ifaces.values()):
                    raise Conflict(f"'{name}' is an interface already")
                # By the record a bridge is ours that another command was killed at.
                segment.check_free(found, name)
                change.save()
            segment.ensure_bridge(channel, found, found.bridges[name])


def delete(root: str, name: str, *, if_exists: bool = False) -> None:
    """Unplug a bridge's members, then remove it. Usage, NotFound, Conflict."""
    names.bridge(name)
    rtnl.load()
    with state.transaction(root) as change:
        found = change.state
        if if_exists and name not in found.bridges:
            return
        network.bridge(found, name)
        members = found.members_of(name)
        running = {g: iface.reachable(root, found, g) for g in {m.guest for m in members}}
        with contextlib.ExitStack() as undo:
            for member in members:
                undo.enter_context(iface.changing(root, found, member, running[member.guest]))
                member.up = False
                if running[member.guest]:
                    nic.plug(root, member)
            with netlink.host() as channel:
                uplink.remove(channel, found, found.bridges[name])
                segment.remove(channel, found, [name])
            for member in members:
                member.bridge = None
            del found.bridges[name]
            change.save()
            for guest in running:
                if running[guest]:
                    iface.refresh_boot(root, found, guest)
    uplink.end_outside(root)


def connect(root: str, name: str, interface: str) -> None:
    """Plug an interface into a bridge; one on another bridge moves. One that is down comes up; of
    one that is up nothing else is touched. Usage, NotFound, Conflict."""
    guest, _ = names.interface(interface)
    with iface.transaction(root, guest) as change:
        found = change.state
        bridge = network.bridge(found, name)
        member = network.interface(found, interface)
        if member.bridge is not None and member.up and network.ours(found, member.tap):
            # The guest sees nothing of a move: it may be paused. One that is where it should be
            # may be of a `create` that was killed before the guest had its device.
            now = live.guest_state(root, found, found.guests[guest])
            running = member.bridge == name and now == "running"
        else:
            running = iface.reachable(root, found, member.guest)
        with iface.changing(root, found, member, running):
            member.up = True
            member.bridge = name
            change.save()
            with netlink.host() as channel:
                segment.ensure_bridge(channel, found, bridge)
            iface.apply(root, found, member, running)


def disconnect(root: str, interface: str) -> None:
    """Unplug an interface from its bridge and take it down. Usage, NotFound, Conflict."""
    guest, _ = names.interface(interface)
    with iface.transaction(root, guest) as change:
        found = change.state
        member = network.interface(found, interface)
        if member.bridge is None:
            raise Conflict(f"'{interface}' is not connected")
        running = iface.reachable(root, found, member.guest)
        with iface.changing(root, found, member, running):
            member.up = False
            member.bridge = None
            iface.apply(root, found, member, running)
            change.save()


def add_addresses(
    root: str, name: str, addresses: Sequence[str], *, may_exist: bool = False
) -> None:
    """Give the host addresses on a bridge. Usage, NotFound, Conflict."""
    wanted = address.interfaces(list(addresses))
    rtnl.load()
    with state.transaction(root) as change:
        found = change.state
        bridge = network.bridge(found, name)
        new = address.new_ones(name, bridge.addresses, wanted, may_exist=may_exist)
        with netlink.host() as channel, contextlib.ExitStack() as undo:
            segment.ensure_bridge(channel, found, bridge)
            undo.callback(_drop, channel, found, bridge, list(bridge.addresses), new)
            with segment.explained(f"add an address to '{name}'"):
                guard.bridge(channel, found, bridge, bridge.addresses + new)
                segment.add_addresses(channel, name, wanted)
            bridge.addresses += new
            if bridge.uplink == "nat":
                masquerade.make(found)
            change.save()
            undo.pop_all()


def _drop(
    channel: netlink.Channel, found: State, bridge: Bridge, before: list[str], new: list[str]
) -> None:
    with contextlib.suppress(OSError):
        segment.del_addresses(channel, bridge.name, new)
        guard.bridge(channel, found, bridge.but(addresses=before), before)


def del_addresses(
    root: str, name: str, addresses: Sequence[str], *, if_exists: bool = False
) -> None:
    """Take addresses from the host on a bridge. Usage, NotFound."""
    unwanted = address.interfaces(list(addresses))
    rtnl.load()
    with state.transaction(root) as change:
        found = change.state
        bridge = network.bridge(found, name)
        left = address.without(name, bridge.addresses, unwanted, if_exists=if_exists)
        if bridge.uplink == "nat" and all(address.is_v6(a) for a in left):
            raise Conflict(
                f"'{name}' needs an IPv4 address for its uplink",
                hint=f"dumm-bridge uplink {name} --none",
            )
        if network.ours(found, name):
            with (
                netlink.host() as channel,
                segment.explained(f"remove an address from '{name}'"),
            ):
                segment.del_addresses(channel, name, unwanted)
                # Of a network the kernel drops all with the first (promote_secondaries).
                segment.add_addresses(channel, name, [a for a in left if not address.is_v6(a)])
                guard.bridge(channel, found, bridge, left)
        bridge.addresses = left
        if bridge.uplink == "nat" and network.ours(found, name):
            masquerade.make(found)


def remove_all(found: State) -> None:
    """Remove every link and every uplink that the working set has made; records stay."""
    present = network.our_links(found)
    uplinks = any(b.uplink for b in found.bridges.values())
    if not found.isolated:  # of a bridge that has gone there may be rules still
        present += [n for n, b in found.bridges.items() if b.addresses and n not in present]
    if present or uplinks:
        with netlink.host() as channel:
            if uplinks:
                uplink.remove_all(channel, found)
            segment.remove(channel, found, present)
