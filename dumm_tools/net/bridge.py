"""Bridges: segments of the lab, and the cables that lead to them.

A bridge is made at once, running guests or not; `iface.prepare` makes it again after a reboot
of the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from dumm_tools import address, names, statefile
from dumm_tools.agent.client import ANSWER_TIMEOUT
from dumm_tools.errors import Conflict
from dumm_tools.linux import netlink, rtnl
from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import cable, guard, host_links, link_views, nat, nic, uplink, way_out
from dumm_tools.running import liveness, turn

Report = Callable[[str], None]


def create(root: str, name: str, *, addresses: Sequence[str] = (), may_exist: bool = False) -> None:
    """Make a bridge. Usage, Conflict."""
    names.bridge(name)
    wanted = address.interfaces(list(addresses))
    rtnl.load()
    with statefile.transaction(root) as change:
        found = change.state
        if name in found.bridges and not may_exist:
            raise Conflict(f"bridge '{name}' exists already")
        with netlink.host() as channel:
            if name not in found.bridges:
                found.bridges[name] = Bridge(name, wanted)
                if any(i.tap == name for i in found.ifaces.values()):
                    raise Conflict(f"'{name}' is an interface already")
                # By the record a bridge is ours that another command was killed at.
                host_links.check_free(found, name)
                change.save()
            host_links.ensure_bridge(channel, found, found.bridges[name])


def delete(root: str, name: str, *, if_exists: bool = False, warn: Report = lambda _: None) -> None:
    """Unplug a bridge's members, then remove it. Guests that do not let their ends down are said
    to `warn`. Usage, NotFound, Conflict."""
    names.bridge(name)
    rtnl.load()
    with statefile.unbroken():
        with statefile.transaction(root) as change:
            found = change.state
            if if_exists and name not in found.bridges:
                return
            bridge = link_views.bridge(found, name)
            members: dict[str, list[Iface]] = {}
            for member in found.members_of(name):
                members.setdefault(member.guest, []).append(member)
            states = {g: liveness.guest_state(root, found, found.guests[g]) for g in members}
            for guest, now in states.items():
                if now == "paused":
                    raise Conflict(f"guest '{guest}' is paused")
            with netlink.host() as channel:
                way_out.remove(channel, found, bridge)
                host_links.remove(channel, found, [name])
            # Whoever makes it anew before it is forgotten makes no uplink.
            bridge.uplink, bridge.host_access = None, False
            bridge.extra.pop("uplink_before", None)
            told = [guest for guest, now in states.items() if now == "running"]
            if not told:
                _forget(root, found, name, members)
        if told:
            failures = turn.each(
                root,
                told,
                lambda guest, seconds: _take_down(root, _are_there(root, members[guest]), seconds),
                lambda _: _forgotten(root, name, members),
                lambda guest, seconds: _take_down(root, _are_down(root, members[guest]), seconds),
            )
            for guest, error in failures.items():
                ends = ", ".join(f"'{m.name}'" for m in members[guest])
                warn(f"{ends} may still be up in the guest: {error}")
    uplink.end_outside(root)


def _take_down(root: str, members: Sequence[Iface], seconds: float) -> None:
    if members:
        with turn.unless_ended(root, members[0].guest):
            nic.bring_down(root, members, seconds)


def _are_there(root: str, members: Sequence[Iface]) -> list[Iface]:
    """Those that no other command has plugged in elsewhere meanwhile."""
    records = statefile.load(root).ifaces
    return [m for m in members if m.name in records and records[m.name].bridge == m.bridge]


def _moved(found: State, members: Sequence[Iface]) -> list[Iface]:
    """The others, if they are up: they were taken down after that."""
    records = [found.ifaces[m.name] for m in members if m.name in found.ifaces]
    return [r for r in records if r.bridge is not None and r.up]


def _bring_up(root: str, members: Sequence[Iface]) -> None:
    for member in members:
        nic.plug(root, member)


def _are_down(root: str, members: Sequence[Iface]) -> list[Iface]:
    """Those that no other command has brought up meanwhile."""
    records = statefile.load(root).ifaces
    return [m for m in members if m.name in records and not records[m.name].up]


def _forgotten(root: str, name: str, members: Mapping[str, Sequence[Iface]]) -> None:
    with statefile.transaction(root) as change:
        if name in change.state.bridges:
            with netlink.host() as channel:  # another command may have made it anew
                host_links.remove(channel, change.state, [name])
            _forget(root, change.state, name, members)


def _forget(root: str, found: State, name: str, told: Mapping[str, Sequence[Iface]]) -> None:
    """Forget a bridge that is removed. Its members are on none, and those that were told are
    down: not those that another command has plugged in meanwhile."""
    del found.bridges[name]
    for members in told.values():
        cable.unplugged(root, found, members)
    cable.unplugged(root, found, found.members_of(name), down=False)


def connect(root: str, name: str, interface: str) -> None:
    """Plug an interface into a bridge; one on another bridge moves. One that is down comes up; of
    one that is up nothing else is touched. Usage, NotFound, Conflict."""
    guest, _ = names.interface(interface)
    if liveness.alive(root, guest):
        rtnl.load()
    if _move(root, name, interface):
        return
    with turn.taken(root, guest):
        with statefile.transaction(root) as change:
            found = change.state
            bridge = link_views.bridge(found, name)
            member = link_views.interface(found, interface)
            running = cable.reachable(root, found, guest)
            before = member.but()
            member.up, member.bridge = True, name
            change.save()
            with netlink.host() as channel:
                host_links.ensure_bridge(channel, found, bridge)
            reopen = cable.settle_host(root, found, member, running)
        if running:
            with cable.taking_back(root, before, member):
                nic.plug(root, member, reopen=reopen)


def _move(root: str, name: str, interface: str) -> bool:
    """Have an interface that is up on one bridge be on another. The guest sees nothing of it: it
    may be paused, or stuck. False for one that is where it should be: it may be of a `create`
    that was killed before the guest had its device."""
    with statefile.transaction(root) as change:
        found = change.state
        bridge = link_views.bridge(found, name)
        member = link_views.interface(found, interface)
        if member.bridge is None or not member.up or not link_views.ours(found, member.tap):
            return False
        if member.bridge == name and cable.is_running(root, found, member.guest):
            return False
        member.bridge = name
        change.save()
        with netlink.host() as channel:
            host_links.ensure_bridge(channel, found, bridge)
        cable.settle_host(root, found, member, running=False)
    return True


def disconnect(root: str, interface: str) -> None:
    """Unplug an interface from its bridge, whatever its guest says, and take it down there.
    Usage, NotFound, Conflict."""
    guest, _ = names.interface(interface)
    if liveness.alive(root, guest):
        rtnl.load()
    with statefile.transaction(root) as change:
        found = change.state
        member = link_views.interface(found, interface)
        if member.bridge is None:
            raise Conflict(f"'{interface}' is not connected")
        if not cable.reachable(root, found, guest):
            cable.unplugged(root, found, [member])
            return
        with netlink.host() as channel:
            host_links.unplug(channel, found, member.tap)
    with cable.cut_off(root, member, down=True), turn.taken(root, guest):
        _take_down(root, _are_there(root, [member]), ANSWER_TIMEOUT)
        with statefile.transaction(root) as change:
            cable.unplugged(root, change.state, [member])
            moved = _moved(change.state, [member])
        _bring_up(root, moved)


def add_addresses(
    root: str, name: str, addresses: Sequence[str], *, may_exist: bool = False
) -> None:
    """Give the host addresses on a bridge. Usage, NotFound, Conflict."""
    wanted = address.interfaces(list(addresses))
    rtnl.load()
    with statefile.transaction(root) as change:
        found = change.state
        bridge = link_views.bridge(found, name)
        before = list(bridge.addresses)
        new = address.new_ones(name, before, wanted, may_exist=may_exist)
        bridge.addresses = before + new
        change.save()
        with netlink.host() as channel, contextlib.ExitStack() as undo:
            undo.callback(_drop, channel, found, bridge, before, new)
            host_links.ensure_bridge(channel, found, bridge)
            with host_links.explained(f"add an address to '{name}'"):
                guard.bridge(channel, found, bridge, bridge.addresses)
                host_links.add_addresses(channel, name, wanted)
            if bridge.uplink == "nat":
                nat.make(found)
            change.save()
            undo.pop_all()


def _drop(
    channel: netlink.Channel, found: State, bridge: Bridge, before: list[str], new: list[str]
) -> None:
    with contextlib.suppress(OSError):
        host_links.del_addresses(channel, bridge.name, new)
        guard.bridge(channel, found, bridge, before)


def del_addresses(
    root: str, name: str, addresses: Sequence[str], *, if_exists: bool = False
) -> None:
    """Take addresses from the host on a bridge. Usage, NotFound."""
    unwanted = address.interfaces(list(addresses))
    rtnl.load()
    with statefile.transaction(root) as change:
        found = change.state
        bridge = link_views.bridge(found, name)
        left = address.without(name, bridge.addresses, unwanted, if_exists=if_exists)
        if bridge.uplink == "nat" and all(address.is_v6(a) for a in left):
            raise Conflict(
                f"'{name}' needs an IPv4 address for its uplink",
                hint=f"dumm-bridge uplink {name} --none",
            )
        if link_views.ours(found, name):
            with (
                netlink.host() as channel,
                host_links.explained(f"remove an address from '{name}'"),
            ):
                host_links.del_addresses(channel, name, unwanted)
                # Of a network the kernel drops all with the first (promote_secondaries).
                host_links.add_addresses(channel, name, [a for a in left if not address.is_v6(a)])
                guard.bridge(channel, found, bridge, left)
        bridge.addresses = left
        if bridge.uplink == "nat" and link_views.ours(found, name):
            nat.make(found)


def remove_all(found: State) -> None:
    """Remove every link and every uplink that the working set has made; records stay."""
    present = link_views.our_links(found)
    uplinks = any(b.uplink for b in found.bridges.values())
    if not found.isolated:  # of a bridge that has gone there may be rules still
        present += [n for n, b in found.bridges.items() if b.addresses and n not in present]
        uplinks = uplinks or nat.stands(found)
    if present or uplinks:
        with netlink.host() as channel:
            if uplinks:
                way_out.remove_all(channel, found)
            host_links.remove(channel, found, present)
    if not found.isolated:
        guard.clear(found)
