"""The way out of a segment: by the host's own address ("nat"), or a host's device put into it
("to:DEVICE").

What is recorded is made again with the bridge. What was before is put back: of the host's device
the record says how it was, of the rest the kernel does (`nat`). In a lab that has
namespaces of its own, "nat" leads to a device there that `usernet` serves.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from dumm_tools import statefile
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import netlink, rtnl
from dumm_tools.linux.netlink import Channel
from dumm_tools.model import Bridge
from dumm_tools.net import guard, host_links, link_views, nat, way_out
from dumm_tools.running import usernet


class Before(NamedTuple):
    """What was recorded of a bridge's uplink, and what is in its place."""

    uplink: str | None
    host_access: bool
    now: tuple[str | None, bool]


def record(labdir: str, name: str, uplink: str, *, host_access: bool = False) -> Before:
    """Record the uplink that a bridge is to have next, and whether guests reach the host's own
    services by it; what it had. Called before the lab's namespaces are entered: `usernet` goes by
    it. Usage, NotFound, Conflict."""
    with statefile.transaction(labdir, apart=True) as change:
        state = change.state
        bridge = link_views.bridge(state, name)
        if bridge.uplink not in (None, uplink):
            raise Conflict(
                f"'{name}' already has an uplink: {bridge.uplink}",
                hint=f"dumm-bridge uplink {name} --none",
            )
        if uplink == "nat":
            _check_gateway(bridge)
        else:
            device = way_out.named(uplink)
            way_out.check_device(state, bridge, device)
            if bridge.uplink is None:
                bridge.extra["uplink_before"] = way_out.as_it_is(device)
        before = Before(bridge.uplink, bridge.host_access, (uplink, host_access))
        bridge.uplink, bridge.host_access = uplink, host_access
        return before


def _check_gateway(bridge: Bridge) -> None:
    if not nat.networks(bridge):
        raise Conflict(
            f"the host has no IPv4 address on '{bridge.name}' for guests to use as a gateway",
            hint=f"dumm-bridge address add {bridge.name} 10.0.0.254/24",
        )


def make(labdir: str, name: str, before: Before) -> list[str]:
    """Make what `record` recorded, in the lab's namespaces; where that fails the record is again
    as it was. What the user should know."""
    rtnl.load()
    try:
        with statefile.transaction(labdir) as change, netlink.host() as channel:
            state = change.state
            bridge = link_views.bridge(state, name)
            if not host_links.ensure_bridge(channel, state, bridge):
                guard.renew(state)
                way_out.ensure(channel, state, bridge)
            return _warnings(channel, bridge)
    except BaseException:
        forget(labdir, name, before)
        raise


def forget(labdir: str, name: str, before: Before) -> None:
    """Undo a `record`, unless another command has recorded something else meanwhile."""
    with contextlib.suppress(DummError), statefile.transaction(labdir, apart=True) as change:
        bridge = link_views.bridge(change.state, name)
        if (bridge.uplink, bridge.host_access) == before.now:
            bridge.uplink, bridge.host_access = before.uplink, before.host_access
            if before.uplink is None:
                bridge.extra.pop("uplink_before", None)
            if change.state.here and link_views.ours(change.state, name):
                guard.renew(change.state)
    end_outside(labdir)


def _warnings(channel: Channel, bridge: Bridge) -> list[str]:
    device = way_out.device_of(bridge)
    if device is None or not (held := way_out.addresses_of(channel, device)):
        return []
    return [
        f"'{device}' has the address {held[0]}, which does not work while it is a port of a bridge"
    ]


def clear(labdir: str, name: str) -> None:
    """Take a bridge's uplink away; none is fine. NotFound, DummError."""
    rtnl.load()
    with statefile.transaction(labdir) as change, netlink.host() as channel:
        bridge = link_views.bridge(change.state, name)
        way_out.remove(channel, change.state, bridge)
        gateway = bridge.uplink == "nat"
        bridge.uplink, bridge.host_access = None, False
        if gateway and link_views.ours(change.state, name):
            guard.renew(change.state)
            if change.state.isolated and not nat.bridges_of(change.state):
                usernet.unclose(labdir, change.state)
        bridge.extra.pop("uplink_before", None)
    end_outside(labdir)


def end_outside(labdir: str) -> None:
    """End what leads outside of a lab in namespaces of its own when no bridge needs it."""
    state = statefile.load(labdir)
    if state.isolated and not nat.bridges_of(state):
        usernet.end(labdir)
