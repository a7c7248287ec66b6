"""The lab's network at present: which links of the host belong to the lab, and their state.

Reads only the state and sysfs, so that `list` starts quickly.
"""

from __future__ import annotations

from typing import NamedTuple

from dumm_tools import address, names
from dumm_tools.linux import sysfs
from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import segment


class InterfaceView(NamedTuple):
    """An interface: its record, and the values of its tap in sysfs, read on demand. `tag` is None
    if the lab's namespaces do not exist, `fault` is `segment.fault`."""

    record: Iface
    tag: str | None
    has_carrier: bool
    fault: str | None

    def _number(self, file: str) -> int | None:
        if self.tag is None or sysfs.read(self.record.tap, "ifalias") != self.tag:
            return None
        return sysfs.number(self.record.tap, file)

    @property
    def state(self) -> str:
        """`up` when it has a carrier, and the device is up in its running guest: only then is the
        tap open."""
        return "up" if self.has_carrier and self._number("carrier") == 1 else "down"

    @property
    def rx_bytes(self) -> int | None:
        """Bytes that the guest received, which its tap sent."""
        return self._number("statistics/tx_bytes")

    @property
    def tx_bytes(self) -> int | None:
        """Bytes that the guest sent."""
        return self._number("statistics/rx_bytes")

    @property
    def rx_packets(self) -> int | None:
        """Packets that the guest received."""
        return self._number("statistics/tx_packets")

    @property
    def tx_packets(self) -> int | None:
        """Packets that the guest sent."""
        return self._number("statistics/rx_packets")

    @property
    def rx_dropped(self) -> int | None:
        """Packets that the host did not deliver, since the guest did not take them in time."""
        return self._number("statistics/tx_dropped")

    @property
    def tx_dropped(self) -> int | None:
        """Packets from the guest that the host dropped at once."""
        return self._number("statistics/rx_dropped")


class BridgeView(NamedTuple):
    """A bridge: its record, and its values in sysfs. `members` are the interfaces recorded
    on it."""

    record: Bridge
    members: list[str]
    lab: State

    @property
    def kind(self) -> str:
        """`cable`, `hub` or `switch`."""
        return segment.kind(self.record, len(self.members))

    @property
    def state(self) -> str:
        """`up` when it is there, ours and up."""
        name = self.record.name
        return "up" if ours(self.lab, name) and sysfs.is_up(name) else "down"


def interfaces(state: State) -> list[InterfaceView]:
    """All interfaces, by name."""
    return [_view(state, state.ifaces[name]) for name in sorted(state.ifaces)]


def interface_view(state: State, name: str) -> InterfaceView:
    """One interface; Usage, NotFound."""
    return _view(state, interface(state, name))


def _view(state: State, iface: Iface) -> InterfaceView:
    tag = state.tag if state.here else None
    return InterfaceView(iface, tag, segment.has_carrier(state, iface), segment.fault(state, iface))


def bridges(state: State) -> list[BridgeView]:
    """All bridges, by name."""
    members = state.members_by_bridge()
    return [
        BridgeView(bridge, [i.name for i in members.get(name, ())], state)
        for name, bridge in sorted(state.bridges.items())
    ]


def bridge_view(state: State, name: str) -> BridgeView:
    """One bridge; Usage, NotFound."""
    return BridgeView(bridge(state, name), [i.name for i in state.members_of(name)], state)


def interface(state: State, name: str) -> Iface:
    """The record of an interface; Usage for a bad name, NotFound."""
    names.interface(name)
    if name not in state.ifaces:
        from dumm_tools import missing

        raise missing.interface(state, name)
    return state.ifaces[name]


def bridge(state: State, name: str) -> Bridge:
    """The record of a bridge; Usage for a bad name, NotFound."""
    names.bridge(name)
    if name not in state.bridges:
        from dumm_tools import missing

        raise missing.bridge(state, name)
    return state.bridges[name]


def ours(state: State, device: str) -> bool:
    """Whether a device with this name exists and was made by this working set."""
    if not state.here:
        return False
    alias = sysfs.read(device, "ifalias")
    if alias:
        return alias == state.tag
    # A bridge made by a command that was killed before it could tag it is known by its MAC.
    return device in state.bridges and sysfs.read(device, "address") == bridge_mac(state, device)


def bridge_mac(state: State, name: str) -> str:
    """The MAC address of a bridge: a fixed one, since the kernel's choice changes with the
    members."""
    return address.made_mac(f"{state.id} {name}")


def our_links(state: State) -> list[str]:
    """The names of all existing links of this working set, bridges last."""
    found = [d for d in sysfs.devices() if ours(state, d)] if state.here else []
    return sorted(found, key=lambda d: (sysfs.exists(f"{d}/bridge"), d))
