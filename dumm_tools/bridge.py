"""Bridges: segments of the lab, and the cables that lead to them.

A bridge is made at once, running guests or not; `iface.prepare` makes it again after a reboot
of the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from dumm_tools import address, iface, names, nic, segment, state
from dumm_tools.errors import Conflict, NotFound
from dumm_tools.linux import netlink, sysfs
from dumm_tools.model import Bridge, State


@dataclass(frozen=True, slots=True)
class View:
    """A bridge as it is now. `members` are the interfaces recorded on it."""

    record: Bridge
    members: list[str]
    lab: State

    @property
    def state(self) -> str:
        """`up` when it is there, ours and up."""
        name = self.record.name
        return "up" if sysfs.is_up(name) and segment.ours(self.lab, name) else "down"


def _view(found: State, bridge: Bridge) -> View:
    return View(bridge, [i.name for i in found.members_of(bridge.name)], found)


def list_(root: str) -> list[View]:
    """All bridges, by name."""
    found = state.load(root)
    return [_view(found, found.bridges[name]) for name in sorted(found.bridges)]


def show(root: str, name: str) -> View:
    """One bridge; Usage, NotFound."""
    found = state.load(root)
    return _view(found, get(found, name))


def get(found: State, name: str) -> Bridge:
    """The record of a bridge; Usage for a bad name, NotFound."""
    names.bridge(name)
    if name not in found.bridges:
        raise NotFound(f"no bridge '{name}'")
    return found.bridges[name]


def create(root: str, name: str, *, addresses: Sequence[str] = (), may_exist: bool = False) -> None:
    """Make a bridge. Usage, Conflict."""
    names.bridge(name)
    wanted = address.interfaces(list(addresses))
    with state.transaction(root) as change:
        found = change.state
        if name in found.bridges and not may_exist:
            raise Conflict(f"bridge '{name}' exists already")
        with netlink.host() as channel:
            if name not in found.bridges:
                found.bridges[name] = Bridge(name, wanted)
                # By the record a bridge is ours that another command was killed at.
                segment.check_free(found, name)
                change.save()
            segment.ensure_bridge(channel, found, found.bridges[name])


def delete(root: str, name: str, *, if_exists: bool = False) -> None:
    """Unplug a bridge's members, then remove it. Usage, NotFound, Conflict."""
    names.bridge(name)
    with state.transaction(root) as change:
        found = change.state
        if if_exists and name not in found.bridges:
            return
        get(found, name)
        members = found.members_of(name)
        running = {g: iface.reachable(root, found, g) for g in {m.guest for m in members}}
        with contextlib.ExitStack() as undo:
            for member in members:
                undo.enter_context(iface.changing(root, found, member, running[member.guest]))
                member.up = False
                if running[member.guest]:
                    nic.plug(root, member)
            with netlink.host() as channel:
                segment.remove(channel, found, [name])
            for member in members:
                member.bridge = None
            del found.bridges[name]
            change.save()
            for guest in running:
                if running[guest]:
                    iface.refresh_boot(root, found, guest)


def connect(root: str, name: str, interface: str) -> None:
    """Plug an interface into a bridge; one on another bridge moves, with nothing else touched.
    One that was on none comes up. Usage, NotFound, Conflict."""
    with state.transaction(root) as change:
        found = change.state
        bridge = get(found, name)
        member = iface.get(found, interface)
        running = iface.reachable(root, found, member.guest)
        with iface.changing(root, found, member, running):
            member.up = member.up or member.bridge is None
            member.bridge = name
            change.save()
            with netlink.host() as channel:
                segment.ensure_bridge(channel, found, bridge)
            iface.apply(root, found, member, running)


def disconnect(root: str, interface: str) -> None:
    """Unplug an interface from its bridge and take it down. Usage, NotFound, Conflict."""
    with state.transaction(root) as change:
        found = change.state
        member = iface.get(found, interface)
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
    with state.transaction(root) as change:
        found = change.state
        bridge = get(found, name)
        new = address.new_ones(name, bridge.addresses, wanted, may_exist=may_exist)
        with netlink.host() as channel, contextlib.ExitStack() as undo:
            segment.ensure_bridge(channel, found, bridge)
            undo.callback(_drop, channel, name, new)
            with segment.explained(f"add an address to '{name}'"):
                segment.add_addresses(channel, name, wanted)
            bridge.addresses += new
            change.save()
            undo.pop_all()


def _drop(channel: netlink.Channel, name: str, addresses: list[str]) -> None:
    with contextlib.suppress(OSError):
        segment.del_addresses(channel, name, addresses)


def del_addresses(
    root: str, name: str, addresses: Sequence[str], *, if_exists: bool = False
) -> None:
    """Take addresses from the host on a bridge. Usage, NotFound."""
    unwanted = address.interfaces(list(addresses))
    with state.transaction(root) as change:
        found = change.state
        bridge = get(found, name)
        left = address.without(name, bridge.addresses, unwanted, if_exists=if_exists)
        if segment.ours(found, name):
            with (
                netlink.host() as channel,
                segment.explained(f"remove an address from '{name}'"),
            ):
                segment.del_addresses(channel, name, unwanted)
        bridge.addresses = left


def remove_all(found: State) -> None:
    """Remove every link that the working set has made; records stay."""
    present = segment.our_links(found)
    if present:
        with netlink.host() as channel:
            segment.remove(channel, found, present)
