"""The way out of a segment: by the host's own address ("nat"), or a host's device put into it
("to:DEVICE").

What is recorded is made again with the bridge. What was before is put back: of the host's device
the record says how it was, of the rest the kernel does (`masquerade`). In a lab that has
namespaces of its own, "nat" leads to a device there that `outside` serves.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from dumm_tools import guard, masquerade, names, network, outside, state
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.linux import netlink, rtnl, sysfs
from dumm_tools.linux.netlink import Channel
from dumm_tools.model import Bridge, State

_TO = "to:"


class Before(NamedTuple):
    """What was recorded of a bridge's uplink, and what is in its place."""

    uplink: str | None
    host_access: bool
    now: tuple[str | None, bool]


def record(root: str, name: str, uplink: str, *, host_access: bool = False) -> Before:
    """Record the uplink that a bridge is to have next, and whether guests reach the host's own
    services by it; what it had. Called before the lab's namespaces are entered: `outside` goes by
    it. Usage, NotFound, Conflict."""
    with state.transaction(root, apart=True) as change:
        found = change.state
        bridge = network.bridge(found, name)
        if bridge.uplink not in (None, uplink):
            raise Conflict(
                f"'{name}' has an uplink already: {bridge.uplink}",
                hint=f"dumm-bridge uplink {name} --none",
            )
        if uplink == "nat":
            _check_gateway(bridge)
        else:
            device = _checked_name(uplink.removeprefix(_TO))
            _check_device(found, bridge, device)
            if bridge.uplink is None:
                bridge.extra["uplink_before"] = _as_it_is(device)
        before = Before(bridge.uplink, bridge.host_access, (uplink, host_access))
        bridge.uplink, bridge.host_access = uplink, host_access
        return before


def _checked_name(device: str) -> str:
    try:
        return names.bridge(device)
    except Usage:
        raise Usage(f"bad device name {device!r}") from None


def _check_gateway(bridge: Bridge) -> None:
    if not masquerade.networks(bridge):
        raise Conflict(
            f"the host has no IPv4 address on '{bridge.name}' for guests to send to",
            hint=f"dumm-bridge address add {bridge.name} 10.0.0.254/24",
        )


def _check_device(found: State, bridge: Bridge, device: str) -> None:
    if found.isolated:
        raise Conflict(
            f"'{device}' is outside of this lab's network namespace",
            hint="--nat; or a lab of root's on the host's network",
        )
    if not sysfs.exists(device):
        # Where it has gone, guests on the bridge wait for it.
        recorded = _device(bridge) == device
        hint = f"dumm-bridge uplink {bridge.name} --none does without it" if recorded else None
        raise NotFound(f"no device '{device}'", hint=hint)
    if (sysfs.read(device, "ifalias") or "").startswith("dumm:") or device in found.bridges:
        raise Conflict(f"'{device}' is a lab's own")
    if device == "lo" or sysfs.exists(f"{device}/bridge"):
        raise Conflict(f"'{device}' cannot be a bridge's port")
    if sysfs.master(device) not in (None, bridge.name):
        raise Conflict(f"'{device}' is a port of '{sysfs.master(device)}' already")


def make(root: str, name: str, before: Before) -> list[str]:
    """Make what `record` recorded, in the lab's namespaces; where that fails the record is again
    as it was. What the user should know."""
    from dumm_tools import segment

    rtnl.load()
    try:
        with state.transaction(root) as change, netlink.host() as channel:
            found = change.state
            bridge = network.bridge(found, name)
            if not segment.ensure_bridge(channel, found, bridge):
                guard.renew(found)
                ensure(channel, found, bridge)
            return _warnings(channel, bridge)
    except BaseException:
        forget(root, name, before)
        raise


def forget(root: str, name: str, before: Before) -> None:
    """Undo a `record`, unless another command has recorded something else meanwhile."""
    with contextlib.suppress(DummError), state.transaction(root, apart=True) as change:
        bridge = network.bridge(change.state, name)
        if (bridge.uplink, bridge.host_access) == before.now:
            bridge.uplink, bridge.host_access = before.uplink, before.host_access
            if before.uplink is None:
                bridge.extra.pop("uplink_before", None)
            if change.state.here and network.ours(change.state, name):
                guard.renew(change.state)
    end_outside(root)


def _warnings(channel: Channel, bridge: Bridge) -> list[str]:
    device = _device(bridge)
    if device is None or not (held := _addresses(channel, device)):
        return []
    return [f"'{device}' has the address {held[0]}, which does not serve while it is a port"]


def ensure(channel: Channel, found: State, bridge: Bridge) -> None:
    """Make the uplink of a bridge that is there. DummError; the caller saves the state."""
    device = _device(bridge)
    if device is not None:
        _check_device(found, bridge, device)
        _plug(channel, bridge, device)
    elif bridge.uplink is not None:
        masquerade.make(found)


def _device(bridge: Bridge) -> str | None:
    uplink = bridge.uplink or ""
    return uplink.removeprefix(_TO) if uplink.startswith(_TO) else None


def _addresses(channel: Channel, device: str) -> list[str]:
    index = rtnl.find_link(channel, device).ifindex
    return [a.address for a in rtnl.addresses(channel, index)]


def _as_it_is(device: str) -> dict[str, bool]:
    """Is the device up; and if not, would the host speak IPv6 there once it is?"""
    rtnl.load()
    up = sysfs.is_up(device)
    with netlink.host() as channel:
        speaks = not sysfs.ipv6_is_off(device) and not _addresses(channel, device)
    return {"up": up, "ipv6": not up and speaks}


def _plug(channel: Channel, bridge: Bridge, device: str) -> None:
    if sysfs.master(device) == bridge.name:
        return
    try:
        if _before(bridge).get("ipv6"):
            sysfs.set_ipv6(device, False)
        index = sysfs.number(bridge.name, "ifindex")
        netlink.transact(channel, [_set(device, up=True, IFLA_MASTER=index)])
    except OSError as e:
        _put_back(channel, bridge, device)
        raise DummError(f"cannot plug '{device}' into '{bridge.name}': {e.strerror}") from None


def _unplug(channel: Channel, bridge: Bridge, device: str) -> None:
    if sysfs.master(device) == bridge.name:
        _put_back(channel, bridge, device)


def _before(bridge: Bridge) -> dict[str, object]:
    found = bridge.extra.get("uplink_before")
    return found if isinstance(found, dict) else {}


def _put_back(channel: Channel, bridge: Bridge, device: str) -> None:
    before = _before(bridge)
    try:
        requests = [_set(device, up=None, IFLA_MASTER=0)]
        if before.get("up") is False:
            requests.insert(0, _set(device, up=False))
        netlink.transact(channel, requests)
        if before.get("ipv6"):
            sysfs.set_ipv6(device, True)
    except OSError as e:
        raise DummError(f"cannot take '{device}' from '{bridge.name}': {e.strerror}") from None


def _set(device: str, *, up: bool | None, **attributes: object) -> netlink.Request:
    wanted = [("IFLA_IFNAME", device), *attributes.items()]
    return rtnl.link(rtnl.RTM_SETLINK, device, wanted, up=up)


def clear(root: str, name: str) -> None:
    """Take a bridge's uplink away; none is fine. NotFound, DummError."""
    rtnl.load()
    with state.transaction(root) as change, netlink.host() as channel:
        bridge = network.bridge(change.state, name)
        remove(channel, change.state, bridge)
        gateway = bridge.uplink == "nat"
        bridge.uplink, bridge.host_access = None, False
        if gateway and network.ours(change.state, name):
            guard.renew(change.state)
            if change.state.isolated and not masquerade.bridges_of(change.state):
                outside.unclose(root, change.state)
        bridge.extra.pop("uplink_before", None)
    end_outside(root)


def remove(channel: Channel, found: State, bridge: Bridge) -> None:
    """Undo what was made for a bridge's uplink, and leave what is recorded."""
    device = _device(bridge)
    if device is not None:
        _unplug(channel, bridge, device)
    elif bridge.uplink is not None and (sysfs.exists(bridge.name) or masquerade.stands(found)):
        masquerade.unmake(found, bridge)


def remove_all(channel: Channel, found: State) -> None:
    """Undo what was made for all uplinks, and leave what is recorded."""
    for bridge in found.bridges.values():
        if _device(bridge) is not None:
            remove(channel, found, bridge)
    # What has namespaces of its own needs no undoing: they end.
    if not found.isolated and (masquerade.bridges_of(found) or masquerade.stands(found)):
        masquerade.unmake(found, None)


def end_outside(root: str) -> None:
    """End what leads outside of a lab in namespaces of its own when no bridge needs it."""
    found = state.load(root)
    if found.isolated and not masquerade.bridges_of(found):
        outside.end(root)
