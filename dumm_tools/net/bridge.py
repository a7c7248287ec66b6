"""Bridges: segments of the lab, and the cables that lead to them.

A bridge is created immediately, whether or not guests are running; `iface.prepare` creates it again
after a reboot of the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

from dumm_tools import address, names, statefile, waiting
from dumm_tools.agent.client import ANSWER_TIMEOUT
from dumm_tools.errors import Conflict
from dumm_tools.linux import netlink, rtnl
from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import (
    cable,
    duplicate,
    guard,
    host_links,
    host_uplink,
    link_views,
    nat,
    nic,
    uplink,
)
from dumm_tools.running import liveness, turn

Report = Callable[[str], None]


def create(
    labdir: str,
    name: str,
    *,
    addresses: Sequence[str] = (),
    may_exist: bool = False,
    warn: Report = lambda _: None,
) -> None:
    """Create a bridge. Addresses that the host has on another one are reported to `warn`. Usage,
    Conflict."""
    names.bridge(name)
    wanted = address.interfaces(list(addresses))
    rtnl.load()
    shared: list[str] = []
    with statefile.transaction(labdir) as change:
        state = change.state
        if name in state.bridges and not may_exist:
            raise Conflict(f"bridge '{name}' already exists")
        with netlink.host() as channel:
            if name not in state.bridges:
                state.bridges[name] = Bridge(name, wanted)
                if any(i.tap == name for i in state.ifaces.values()):
                    raise Conflict(f"'{name}' is already an interface")
                # The record makes a bridge ours, even if the command that made it was killed.
                host_links.check_free(state, name)
                shared = duplicate.of_host(state, state.bridges[name], wanted)
                change.save()
            host_links.ensure_bridge(channel, state, state.bridges[name])
    for text in shared:
        warn(text)


def delete(
    labdir: str, name: str, *, if_exists: bool = False, warn: Report = lambda _: None
) -> None:
    """Disconnect a bridge's members, then delete it. Guests that do not take their ends down are
    reported to `warn`. Usage, NotFound, Conflict."""
    names.bridge(name)
    rtnl.load()
    with waiting.unbroken():
        with statefile.transaction(labdir) as change:
            state = change.state
            if if_exists and name not in state.bridges:
                return
            bridge = link_views.bridge(state, name)
            members: dict[str, list[Iface]] = {}
            for member in state.members_of(name):
                members.setdefault(member.guest, []).append(member)
            states = {g: liveness.guest_state(labdir, state, state.guests[g]) for g in members}
            for guest, now in states.items():
                if now == "paused":
                    raise Conflict(f"guest '{guest}' is paused")
            with netlink.host() as channel:
                host_uplink.remove(channel, state, bridge)
                host_links.remove(channel, state, [name])
            # A command that creates it again before it is forgotten must not create the uplink.
            bridge.uplink, bridge.host_access = None, False
            bridge.extra.pop("uplink_before", None)
            told = [guest for guest, now in states.items() if now == "running"]
            if not told:
                _forget(labdir, state, name, members)
        if told:
            failures = turn.each(
                labdir,
                told,
                lambda guest, seconds: _take_down(
                    labdir, _are_there(labdir, members[guest]), seconds
                ),
                lambda _: _forgotten(labdir, name, members),
                lambda guest, seconds: _take_down(
                    labdir, _are_down(labdir, members[guest]), seconds
                ),
            )
            for guest, error in failures.items():
                ends = ", ".join(f"'{m.name}'" for m in members[guest])
                warn(f"{ends} may still be up in the guest: {error}")
    uplink.end_outside(labdir)


def _take_down(labdir: str, members: Sequence[Iface], seconds: float) -> None:
    if members:
        with turn.unless_ended(labdir, members[0].guest):
            nic.bring_down(labdir, members, seconds)


def _are_there(labdir: str, members: Sequence[Iface]) -> list[Iface]:
    """Those that no other command has connected elsewhere meanwhile."""
    records = statefile.load(labdir).ifaces
    return [m for m in members if m.name in records and records[m.name].bridge == m.bridge]


def _moved(state: State, members: Sequence[Iface]) -> list[Iface]:
    """The others, if they are up: they were taken down after that."""
    records = [state.ifaces[m.name] for m in members if m.name in state.ifaces]
    return [r for r in records if r.bridge is not None and r.up]


def _bring_up(labdir: str, members: Sequence[Iface]) -> None:
    for member in members:
        nic.plug(labdir, member)


def _are_down(labdir: str, members: Sequence[Iface]) -> list[Iface]:
    """Those that no other command has brought up meanwhile."""
    records = statefile.load(labdir).ifaces
    return [m for m in members if m.name in records and not records[m.name].up]


def _forgotten(labdir: str, name: str, members: Mapping[str, Sequence[Iface]]) -> None:
    with statefile.transaction(labdir) as change:
        if name in change.state.bridges:
            with netlink.host() as channel:  # another command may have created it again
                host_links.remove(channel, change.state, [name])
            _forget(labdir, change.state, name, members)


def _forget(labdir: str, state: State, name: str, told: Mapping[str, Sequence[Iface]]) -> None:
    """Forget a deleted bridge. Its members are disconnected, and those whose guests were told are
    down, except for those that another command has connected meanwhile."""
    del state.bridges[name]
    for members in told.values():
        cable.unplugged(labdir, state, members)
    cable.unplugged(labdir, state, state.members_of(name), down=False)


def connect(labdir: str, name: str, interface: str, *, warn: Report = lambda _: None) -> None:
    """Connect an interface to a bridge; if it is on another bridge, it moves. An interface that is
    down comes up; otherwise nothing else is changed. Addresses that another member has, too, are
    reported to `warn`. Usage, NotFound, Conflict."""
    guest, _ = names.interface(interface)
    if liveness.alive(labdir, guest):
        rtnl.load()
    shared: list[str] = []
    if not _move(labdir, name, interface, shared):
        _connect(labdir, name, interface, shared)
    for text in shared:
        warn(text)


def _connect(labdir: str, name: str, interface: str, shared: list[str]) -> None:
    guest, _ = names.interface(interface)
    with turn.taken(labdir, guest):
        with statefile.transaction(labdir) as change:
            state = change.state
            bridge = link_views.bridge(state, name)
            member = link_views.interface(state, interface)
            running = cable.reachable(labdir, state, guest)
            before = member.but()
            member.up, member.bridge = True, name
            shared += duplicate.of_interface(state, member)
            change.save()
            with netlink.host() as channel:
                host_links.ensure_bridge(channel, state, bridge)
            reopen = cable.settle_host(labdir, state, member, running)
        if running:
            with cable.taking_back(labdir, before, member):
                nic.plug(labdir, member, reopen=reopen)


def _move(labdir: str, name: str, interface: str, shared: list[str]) -> bool:
    """Move an interface that is up from one bridge to another. The guest does not notice, so it may
    be paused or stuck. False if the interface is already in place: it may be from a `create` that
    was killed before the guest had its device."""
    with statefile.transaction(labdir) as change:
        state = change.state
        bridge = link_views.bridge(state, name)
        member = link_views.interface(state, interface)
        if member.bridge is None or not member.up or not link_views.ours(state, member.tap):
            return False
        if member.bridge == name and liveness.is_running(labdir, state, member.guest):
            return False
        member.bridge = name
        shared += duplicate.of_interface(state, member)
        change.save()
        with netlink.host() as channel:
            host_links.ensure_bridge(channel, state, bridge)
        cable.settle_host(labdir, state, member, running=False)
    return True


def disconnect(labdir: str, interface: str) -> None:
    """Disconnect an interface from its bridge, whatever its guest says, and take it down in the
    guest. Usage, NotFound, Conflict."""
    guest, _ = names.interface(interface)
    if liveness.alive(labdir, guest):
        rtnl.load()
    with statefile.transaction(labdir) as change:
        state = change.state
        member = link_views.interface(state, interface)
        if member.bridge is None:
            raise Conflict(f"'{interface}' is not connected")
        if not cable.reachable(labdir, state, guest):
            cable.unplugged(labdir, state, [member])
            return
        with netlink.host() as channel:
            host_links.unplug(channel, state, member.tap)
    with cable.cut_off(labdir, member, down=True), turn.taken(labdir, guest):
        _take_down(labdir, _are_there(labdir, [member]), ANSWER_TIMEOUT)
        with statefile.transaction(labdir) as change:
            cable.unplugged(labdir, change.state, [member])
            moved = _moved(change.state, [member])
        _bring_up(labdir, moved)


def add_addresses(
    labdir: str,
    name: str,
    addresses: Sequence[str],
    *,
    may_exist: bool = False,
    warn: Report = lambda _: None,
) -> None:
    """Add addresses of the host to a bridge. Those that a member, or the host on another bridge,
    has, too, are reported to `warn`. Usage, NotFound, Conflict."""
    wanted = address.interfaces(list(addresses))
    rtnl.load()
    with statefile.transaction(labdir) as change:
        state = change.state
        bridge = link_views.bridge(state, name)
        before = list(bridge.addresses)
        new = address.new_ones(name, before, wanted, may_exist=may_exist)
        bridge.addresses = before + new
        change.save()
        with netlink.host() as channel, contextlib.ExitStack() as undo:
            undo.callback(_drop, channel, state, bridge, before, new)
            host_links.ensure_bridge(channel, state, bridge)
            with host_links.explained(f"add an address to '{name}'"):
                guard.bridge(channel, state, bridge, bridge.addresses)
                host_links.add_addresses(channel, name, wanted)
            if bridge.uplink == "nat":
                nat.make(state)
            change.save()
            undo.pop_all()
        shared = duplicate.of_host(state, bridge, new)
    for text in shared:
        warn(text)


def _drop(
    channel: netlink.Channel, state: State, bridge: Bridge, before: list[str], new: list[str]
) -> None:
    with contextlib.suppress(OSError):
        host_links.del_addresses(channel, bridge.name, new)
        guard.bridge(channel, state, bridge, before)


def del_addresses(
    labdir: str, name: str, addresses: Sequence[str], *, if_exists: bool = False
) -> None:
    """Remove addresses of the host from a bridge. Usage, NotFound."""
    unwanted = address.interfaces(list(addresses))
    rtnl.load()
    with statefile.transaction(labdir) as change:
        state = change.state
        bridge = link_views.bridge(state, name)
        left = address.without(name, bridge.addresses, unwanted, if_exists=if_exists)
        if bridge.uplink == "nat" and all(address.is_v6(a) for a in left):
            raise Conflict(
                f"'{name}' needs an IPv4 address for its uplink",
                hint=f"dumm-bridge uplink {name} --none",
            )
        if link_views.ours(state, name):
            with (
                netlink.host() as channel,
                host_links.explained(f"remove an address from '{name}'"),
            ):
                host_links.del_addresses(channel, name, unwanted)
                # The kernel drops all addresses of a network with its first (promote_secondaries).
                host_links.add_addresses(channel, name, [a for a in left if not address.is_v6(a)])
                guard.bridge(channel, state, bridge, left)
        bridge.addresses = left
        if bridge.uplink == "nat" and link_views.ours(state, name):
            nat.make(state)


def remove_all(state: State) -> None:
    """Remove every link and every uplink that the working set has made; the records are kept."""
    present = link_views.our_links(state)
    uplinks = any(b.uplink for b in state.bridges.values())
    if not state.isolated:  # there may still be rules of a deleted bridge
        present += [n for n, b in state.bridges.items() if b.addresses and n not in present]
        uplinks = uplinks or nat.stands(state)
    if present or uplinks:
        with netlink.host() as channel:
            if uplinks:
                host_uplink.remove_all(channel, state)
            host_links.remove(channel, state, present)
    if not state.isolated:
        guard.clear(state)
