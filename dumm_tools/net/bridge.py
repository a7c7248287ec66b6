"""Bridges: segments of the lab, and the cables that lead to them.

A bridge is created immediately, whether or not guests are running; `iface.prepare` creates it again
after a reboot of the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from dumm_tools import address, names, statefile, waiting
from dumm_tools.errors import Conflict
from dumm_tools.linux import netlink, rtnl
from dumm_tools.model import Bridge, BridgeKind, Iface, State
from dumm_tools.net import (
    cable,
    carrier,
    duplicate,
    guard,
    host_links,
    host_uplink,
    learning,
    link_views,
    nat,
    uplink,
)

Report = Callable[[str], None]


def create(
    labdir: str,
    name: str,
    *,
    addresses: Sequence[str] = (),
    kind: BridgeKind | None = None,
    may_exist: bool = False,
    warn: Report = lambda _: None,
) -> None:
    """Create a bridge; an existing one becomes of this kind, if one is given. Addresses that the
    host has on another one are reported to `warn`. Usage, Conflict."""
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
                state.bridges[name] = Bridge(name, wanted, kind=kind or "auto")
                if any(i.tap == name for i in state.ifaces.values()):
                    raise Conflict(f"'{name}' is already an interface")
                # The record makes a bridge ours, even if the command that made it was killed.
                host_links.check_free(state, name)
                shared = duplicate.of_host(state, state.bridges[name], wanted)
                change.save()
            host_links.ensure_bridge(channel, state, state.bridges[name])
        differs = kind is not None and kind != state.bridges[name].kind
    for text in shared:
        warn(text)
    if kind is not None and differs:
        set_kind(labdir, name, kind, warn=warn)


def set_kind(labdir: str, name: str, kind: BridgeKind, *, warn: Report = lambda _: None) -> None:
    """Make a segment a hub or a switch, or let the number of its ends decide. A cut
    cable that becomes one of these gets its carrier back; guests that are not told are reported to
    `warn`. Usage, NotFound."""
    names.bridge(name)
    rtnl.load()
    with waiting.unbroken():
        with statefile.transaction(labdir) as change:
            bridge = link_views.bridge(change.state, name)
            bridge.kind = kind
            mended = bridge.cut and kind != "auto"
            bridge.cut = bridge.cut and not mended
            change.save()
            learning.settle(change.state, name)
            members = change.state.members_of(name) if mended else []
        failures = carrier.announce(labdir, members, None) if members else {}
        carrier.warn_of(failures, members, warn)


def delete(
    labdir: str, name: str, *, if_exists: bool = False, warn: Report = lambda _: None
) -> None:
    """Disconnect a bridge's members, then delete it. Guests that are not told that their carrier is
    gone are reported to `warn`. Usage, NotFound, Conflict."""
    names.bridge(name)
    rtnl.load()
    with waiting.unbroken():
        with statefile.transaction(labdir) as change:
            state = change.state
            if if_exists and name not in state.bridges:
                return
            bridge = link_views.bridge(state, name)
            members = state.members_of(name)
            with netlink.host() as channel:
                host_uplink.remove(channel, state, bridge)
                host_links.remove(channel, state, [name])
            # A command that creates it again before it is forgotten must not create the uplink.
            bridge.uplink, bridge.host_access = None, False
            bridge.extra.pop("uplink_before", None)
            told = carrier.listeners(labdir, state, members)
            if not told:
                _forget(state, name, members)
                cable.refresh_boots(labdir, state, {m.guest for m in members})
        if told:
            failures = carrier.announce(
                labdir,
                members,
                False,
                lambda state, _: _forget(state, name, members),
                about=lambda _: True,
            )
            carrier.warn_of(failures, members, warn)
    uplink.end_outside(labdir)


def _forget(state: State, name: str, members: Sequence[Iface]) -> None:
    """Forget a deleted bridge. Its members are disconnected, except for those that another command
    has connected elsewhere meanwhile."""
    if name in state.bridges:
        with netlink.host() as channel:  # another command may have created it again
            host_links.remove(channel, state, [name])
        del state.bridges[name]
        cable.unplugged(state, members)
        cable.unplugged(state, state.members_of(name))


def set_up(labdir: str, name: str, up: bool, *, warn: Report = lambda _: None) -> None:
    """Bring a whole segment up or down, for the host as well: its members get their carriers back,
    or lose them. Guests that are not told are reported to `warn`. Usage, NotFound, Conflict."""
    names.bridge(name)
    rtnl.load()
    with waiting.unbroken():
        with statefile.transaction(labdir) as change:
            state = change.state
            bridge = link_views.bridge(state, name)
            bridge.up = up
            change.save()
            with netlink.host() as channel:
                host_links.ensure_bridge(channel, state, bridge)
            members = state.members_of(name)
        failures = carrier.announce(labdir, members, None, about=lambda _: True)
        carrier.warn_of(failures, members, warn)


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
        # The host is the other end of the cable now.
        joined = state.members_of(name) if bridge.cut else []
    carrier.spread(labdir, carrier.News([], None, joined, name, shared), warn)


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
        if if_exists and name not in state.bridges:
            return
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
        learning.settle(state, name)
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
