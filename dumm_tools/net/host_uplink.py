"""The host's side of an uplink: a device of the host that is a port of the bridge, or address
translation (`nat`). It is created again with the bridge, and undone; `uplink` records it.

The previous settings are restored: for the host's device they are in the record, for the rest in
the kernel.
"""

from __future__ import annotations

from dumm_tools import names
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.linux import netlink, rtnl, sysctl, sysfs
from dumm_tools.linux.netlink import Channel
from dumm_tools.model import Bridge, State
from dumm_tools.net import nat

_TO = "to:"


def named(uplink: str) -> str:
    """The host's device named by "to:DEVICE". Usage."""
    device = uplink.removeprefix(_TO)
    try:
        return names.bridge(device)
    except Usage:
        raise Usage(f"bad device name {device!r}") from None


def check_device(state: State, bridge: Bridge, device: str) -> None:
    if state.isolated:
        raise Conflict(
            f"'{device}' is outside this lab's network namespace",
            hint="use --nat, or a lab of root on the host's network",
        )
    if not sysfs.exists(device):
        # If it has disappeared, guests on the bridge are waiting for it.
        recorded = device_of(bridge) == device
        hint = f"dumm-bridge uplink {bridge.name} --none removes the uplink" if recorded else None
        raise NotFound(f"no device '{device}'", hint=hint)
    if (sysfs.read(device, "ifalias") or "").startswith("dumm:") or device in state.bridges:
        raise Conflict(f"'{device}' belongs to a lab")
    if device == "lo" or sysfs.exists(f"{device}/bridge"):
        raise Conflict(f"'{device}' cannot be a bridge's port")
    if sysfs.master(device) not in (None, bridge.name):
        raise Conflict(f"'{device}' is already a port of '{sysfs.master(device)}'")


def ensure(channel: Channel, state: State, bridge: Bridge) -> None:
    """Create the uplink of an existing bridge. DummError; the caller saves the state."""
    device = device_of(bridge)
    if device is not None:
        check_device(state, bridge, device)
        _plug(channel, bridge, device)
    elif bridge.uplink is not None:
        nat.make(state)


def device_of(bridge: Bridge) -> str | None:
    uplink = bridge.uplink or ""
    return uplink.removeprefix(_TO) if uplink.startswith(_TO) else None


def addresses_of(channel: Channel, device: str) -> list[str]:
    index = rtnl.find_link(channel, device).ifindex
    return [a.address for a in rtnl.addresses(channel, index)]


def as_it_is(device: str) -> dict[str, bool]:
    """Whether the device is up; and if not, whether the host would use IPv6 on it once it is."""
    rtnl.load()
    up = sysfs.is_up(device)
    with netlink.host() as channel:
        speaks = not sysctl.ipv6_is_off(device) and not addresses_of(channel, device)
    return {"up": up, "ipv6": not up and speaks}


def _plug(channel: Channel, bridge: Bridge, device: str) -> None:
    if sysfs.master(device) == bridge.name:
        return
    try:
        if _before(bridge).get("ipv6"):
            sysctl.set_ipv6(device, False)
        index = sysfs.number(bridge.name, "ifindex")
        plugged = _set(device, up=True, IFLA_MASTER=index)
        netlink.transact(channel, [plugged, rtnl.open_port(device)])
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
            sysctl.set_ipv6(device, True)
    except OSError as e:
        raise DummError(f"cannot remove '{device}' from '{bridge.name}': {e.strerror}") from None


def _set(device: str, *, up: bool | None, **attributes: object) -> netlink.Request:
    wanted = [("IFLA_IFNAME", device), *attributes.items()]
    return rtnl.link(rtnl.RTM_SETLINK, device, wanted, up=up)


def remove(channel: Channel, state: State, bridge: Bridge) -> None:
    """Undo what was made for a bridge's uplink, but keep the record."""
    device = device_of(bridge)
    if device is not None:
        _unplug(channel, bridge, device)
    elif bridge.uplink is not None and (sysfs.exists(bridge.name) or nat.stands(state)):
        nat.unmake(state, bridge)


def remove_all(channel: Channel, state: State) -> None:
    """Undo what was made for all uplinks, but keep the records."""
    for bridge in state.bridges.values():
        if device_of(bridge) is not None:
            remove(channel, state, bridge)
    # In namespaces of its own, nothing needs undoing: they end.
    if not state.isolated and (nat.bridges_of(state) or nat.stands(state)):
        nat.unmake(state, None)
