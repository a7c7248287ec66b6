"""The uplink of a segment: the host's own address ("nat"), or a device of the host connected to it
("to:DEVICE").

A recorded uplink is created again with the bridge. Previous settings are restored: for the host's
device they are in the record, for the rest in the kernel (`nat`). In a lab with its own namespaces,
"nat" leads to a device there that is served by `usernet`.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from dumm_tools import holder, statefile
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import netlink, rtnl
from dumm_tools.linux.netlink import Channel
from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import (
    carrier,
    guard,
    host_links,
    host_uplink,
    learning,
    link_views,
    nat,
    segment,
)
from dumm_tools.running import entry, usernet


class _Change(NamedTuple):
    """The recorded uplink and host access of a bridge, before and after."""

    before: tuple[str | None, bool]
    after: tuple[str | None, bool]


def set_(
    labdir: str, name: str, uplink: str, *, host_access: bool = False, replace: bool = False
) -> list[str]:
    """Give a bridge its uplink, "nat" or "to:DEVICE", in the lab's namespaces, which are entered;
    with `host_access`, guests can reach the host's own services through "nat", too. Another uplink
    is a Conflict, unless `replace`; with that, guests keep the access that they have. Return
    warnings. On failure the record is restored. Usage, NotFound, Conflict, DummError."""
    if replace:
        state = statefile.load(labdir)
        bridge = link_views.bridge(state, name)
        if bridge.uplink not in (None, uplink):
            return _replaced(labdir, state, bridge, uplink, host_access)
    if uplink == "nat" and holder.is_inside(labdir):
        raise Conflict(
            "this lab has its own namespaces, and its way out can only be opened from outside them"
        )
    change = _record(labdir, name, uplink, host_access, keep=replace)
    try:
        entry.bring_up(labdir)
        warnings, joined = _make(labdir, name)
    except BaseException:
        _forget(labdir, name, change)
        raise
    if change.before == change.after:
        warnings = []
    carrier.spread(labdir, carrier.News([], None, joined, name, []), warnings.append)
    return warnings


def _replaced(labdir: str, state: State, old: Bridge, uplink: str, host_access: bool) -> list[str]:
    """Remove an uplink, and set another one; the old one is restored if that fails."""
    _check(state, old, uplink)
    entry.bring_up(labdir)
    clear(labdir, old.name)
    try:
        return set_(labdir, old.name, uplink, host_access=host_access)
    except BaseException:
        with contextlib.suppress(DummError, OSError):
            set_(labdir, old.name, old.uplink or "", host_access=old.host_access)
        raise


def _check(state: State, bridge: Bridge, uplink: str) -> None:
    if uplink == "nat":
        nat.check_gateway(bridge)
    else:
        host_uplink.check_device(state, bridge, host_uplink.named(uplink))


def _record(labdir: str, name: str, uplink: str, host_access: bool, *, keep: bool) -> _Change:
    """Record it before entering the lab's namespaces, so that their connection to the outside
    exists by then."""
    with statefile.transaction(labdir, apart=True) as change:
        state = change.state
        bridge = link_views.bridge(state, name)
        if bridge.uplink not in (None, uplink):
            raise Conflict(
                f"'{name}' already has an uplink: {bridge.uplink}",
                hint=f"--may-exist replaces it, 'dumm-bridge uplink {name} --none' removes it",
            )
        _check(state, bridge, uplink)
        if uplink != "nat" and bridge.uplink is None:
            device = host_uplink.named(uplink)
            bridge.extra["uplink_before"] = host_uplink.as_it_is(device)
        before = bridge.uplink, bridge.host_access
        host_access |= keep and before == (uplink, True)
        bridge.uplink, bridge.host_access = uplink, host_access
        return _Change(before, (uplink, host_access))


def _make(labdir: str, name: str) -> tuple[list[str], list[Iface]]:
    """Return warnings, and the other end of a cable that was cut."""
    rtnl.load()
    with statefile.transaction(labdir) as change, netlink.host() as channel:
        state = change.state
        bridge = link_views.bridge(state, name)
        if not host_links.ensure_bridge(channel, state, bridge):
            guard.renew(state)
            host_uplink.ensure(channel, state, bridge)
        return _warnings(channel, bridge), state.members_of(name) if bridge.cut else []


def _forget(labdir: str, name: str, undone: _Change) -> None:
    """Restore the record, unless another command has changed it meanwhile."""
    with contextlib.suppress(DummError), statefile.transaction(labdir, apart=True) as change:
        bridge = link_views.bridge(change.state, name)
        if (bridge.uplink, bridge.host_access) == undone.after:
            bridge.uplink, bridge.host_access = undone.before
            if bridge.uplink is None:
                bridge.extra.pop("uplink_before", None)
            learning.settle(change.state, name)
            if change.state.here and link_views.ours(change.state, name):
                guard.renew(change.state)
    end_outside(labdir)


def _warnings(channel: Channel, bridge: Bridge) -> list[str]:
    device = host_uplink.device_of(bridge)
    if device is None or not (held := host_uplink.addresses_of(channel, device)):
        return []
    return [
        f"'{device}' has the address {held[0]}, which does not work while it is a port of a bridge"
    ]


def clear(
    labdir: str,
    name: str,
    *,
    if_exists: bool = False,
    warn: carrier.Report = lambda _: None,
) -> None:
    """Remove a bridge's uplink, if it has one. A guest at the other end of a cable to a device that
    is not told is reported to `warn`. NotFound, DummError."""
    rtnl.load()
    with statefile.transaction(labdir) as change, netlink.host() as channel:
        if if_exists and name not in change.state.bridges:
            return
        bridge = link_views.bridge(change.state, name)
        far = segment.far_end_of_device(change.state, bridge)
        host_uplink.remove(channel, change.state, bridge)
        gateway = bridge.uplink == "nat"
        bridge.uplink, bridge.host_access = None, False
        if gateway and link_views.ours(change.state, name):
            guard.renew(change.state)
            if change.state.isolated and not nat.bridges_of(change.state):
                usernet.unclose(labdir, change.state)
        bridge.extra.pop("uplink_before", None)
        learning.settle(change.state, name)
    carrier.pulled(labdir, [carrier.Pulled(name, end) for end in far], warn)
    end_outside(labdir)


def end_outside(labdir: str) -> None:
    """End the connection of a lab's own namespaces to the outside when no bridge needs it."""
    state = statefile.load(labdir)
    if state.isolated and not nat.bridges_of(state):
        usernet.end(labdir)
