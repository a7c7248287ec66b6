"""The texts and colours of a picture: labels are lists of lines."""

from __future__ import annotations

from dumm_tools.labs.picture import Cable, Picture
from dumm_tools.model import Bridge, Iface
from dumm_tools.running import guest_views

#: Line, fill and style of a guest in each state, and in all others.
COLOURS = {
    "running": ("#2e7d32", "#e8f5e9", "solid"),
    "paused": ("#ef6c00", "#fff3e0", "solid"),
    "crashed": ("#c62828", "#ffebee", "solid"),
}
QUIET = ("#757575", "#fafafa", "dashed")
#: Line and fill.
BRIDGE = ("#1565c0", "#e3f2fd")
UPLINK = ("#6a1b9a", "#f3e5f5")

#: Units of the settings of `dumm-iface shape`.
_UNITS = {
    "delay": " ms", "jitter": " ms", "loss": " %", "duplicate": " %", "corrupt": " %",
    "reorder": " %",
}  # fmt: skip


def _impairments(iface: Iface) -> list[str]:
    """The impairments of an interface's outgoing traffic."""
    return [
        f"{key} " + (_rate(value) if key == "rate" else f"{value:g}{_UNITS.get(key, '')}")
        for key, value in sorted(iface.shape.items())
    ]


def _rate(bits: float) -> str:
    for size, unit in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bits >= size:
            return f"{bits / size:g} {unit}"
    return f"{bits:g} bit/s"


def of_guest(seen: guest_views.GuestView) -> list[str]:
    """A guest's name and state."""
    return [seen.guest.name, seen.state]


def of_bridge(picture: Picture, bridge: Bridge) -> list[str]:
    """A bridge's name, the host's addresses, and the number of guests left out."""
    number = picture.left_out.get(bridge.name, 0)
    more = [f"{number} guest" + "s" * (number > 1)] if number else []
    return [bridge.name, *(f"host {a}" for a in sorted(bridge.addresses)), *more]


def of_cable(cable: Cable) -> list[str]:
    """An interface's device, addresses and impairments."""
    iface = cable.iface
    return [iface.device, *sorted(iface.addresses), *_impairments(iface)]


def of_uplink(bridge: Bridge) -> list[str]:
    """The label of a bridge's uplink; empty if it has none."""
    if bridge.uplink is None:
        return []
    return ["outside", "NAT" if bridge.uplink == "nat" else bridge.uplink.removeprefix("to:")]
