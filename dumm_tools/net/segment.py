"""Segments as recorded: their ends, their kind, and whether an interface has a carrier.

By default, a segment with two ends is a cable: if one end is pulled, the other loses its carrier.
Based on records only, so that nothing depends on which guests are running.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dumm_tools.model import Bridge, Iface, State

Kind = Literal["cable", "hub", "switch"]


def has_carrier(state: State, iface: Iface) -> bool:
    """Whether the cable of an interface leads somewhere."""
    bridge = state.bridges.get(iface.bridge) if iface.bridge is not None else None
    return bridge is not None and is_live(bridge)


def fault(state: State, iface: Iface) -> str | None:
    """Why an interface cannot be up, whatever its guest does; None if nothing prevents it."""
    bridge = state.bridges.get(iface.bridge) if iface.bridge is not None else None
    if bridge is None:
        return "on no bridge"
    if not bridge.up:
        return "its bridge is down"
    if bridge.cut:
        return "the other end is not connected"
    return None if iface.up else "taken down"


def is_live(bridge: Bridge) -> bool:
    """Whether those on a segment have a carrier."""
    return bridge.up and not bridge.cut


def far_ends(state: State, iface: Iface) -> list[Iface]:
    """The interface at the other end of a cable; none if that is the host, or if the segment is not
    a cable."""
    if iface.bridge is None:
        return []
    bridge, members = state.bridges[iface.bridge], state.members_of(iface.bridge)
    if bridge.kind != "auto" or _ends(bridge, len(members)) != 2:
        return []
    return [member for member in members if member.name != iface.name]


def far_end_of_device(state: State, bridge: Bridge) -> list[Iface]:
    """The interface at the other end of a cable to a device of the host."""
    members = state.members_of(bridge.name)
    alone = len(members) == 1 and bridge.kind == "auto" and _ends(bridge, 1) == 2
    return members if alone and not bridge.addresses else []


def kind(bridge: Bridge, members: int) -> Kind:
    """The kind of a segment with so many members. Its ends are these, the host if it has an address
    there, and a device of the host."""
    if bridge.kind != "auto":
        return bridge.kind
    return "cable" if _ends(bridge, members) <= 2 else "switch"


def _ends(bridge: Bridge, members: int) -> int:
    outside = bridge.uplink is not None and bridge.uplink != "nat"
    return members + bool(bridge.addresses) + outside


def cut(state: State, name: str | None, far: Sequence[Iface]) -> None:
    """Record that one end of a cable was pulled, unless something has been connected to it since.
    `far` is its other end."""
    bridge = state.bridges.get(name) if name is not None else None
    if bridge is None or not far or bridge.kind != "auto":
        return
    members = state.members_of(bridge.name)
    if [m.name for m in members] == [i.name for i in far] and _ends(bridge, len(members)) == 1:
        bridge.cut = True
