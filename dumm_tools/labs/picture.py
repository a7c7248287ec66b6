"""The current state of the lab as a picture shows it: guests, interfaces, bridges, uplinks."""

from __future__ import annotations

from typing import NamedTuple

from dumm_tools.model import Iface, State
from dumm_tools.net import link_views
from dumm_tools.running import guest_views


class Cable(NamedTuple):
    """An interface and what it connects."""

    iface: Iface
    up: bool


class Picture(NamedTuple):
    """Everything to draw, by name. `left_out` counts the guests of each bridge that are not."""

    guests: list[guest_views.GuestView]
    cables: list[Cable]
    bridges: list[link_views.BridgeView]
    left_out: dict[str, int]


def look(labdir: str, state: State) -> Picture:
    """Merge the records with the state of the kernel."""
    return Picture(
        guest_views.views(labdir, state),
        [Cable(v.record, v.state == "up") for v in link_views.interfaces(state)],
        link_views.bridges(state),
        {},
    )


def core_of(picture: Picture) -> Picture:
    """Without end systems: guests that are on fewer than two segments."""
    bridges_of: dict[str, set[str]] = {}
    for iface, _ in picture.cables:
        if iface.bridge is not None:
            bridges_of.setdefault(iface.guest, set()).add(iface.bridge)
    kept = {guest for guest, bridges in bridges_of.items() if len(bridges) > 1}
    left_out: dict[str, int] = {}
    for guest in bridges_of.keys() - kept:
        for bridge in bridges_of[guest]:
            left_out[bridge] = left_out.get(bridge, 0) + 1
    return Picture(
        [s for s in picture.guests if s.guest.name in kept],
        [c for c in picture.cables if c.iface.guest in kept],
        picture.bridges,
        left_out,
    )
