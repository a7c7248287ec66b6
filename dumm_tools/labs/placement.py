"""Where the things of a picture belong: which segments are lines, and what is before or after a
bridge when the lab is drawn from left to right."""

from __future__ import annotations

import re
from typing import NamedTuple

from dumm_tools.labs.picture import Cable, Picture

#: A bridge with more cables than this on one side is a bar, with a place for each of them.
FEW = 3
#: End systems of a segment that are drawn on one side of it.
_COLUMN = 8
#: Number of guests and bridges in a row that makes a picture too long for a page.
_LONG = 12
#: Rings that routers may form before their lab is drawn in tiers, like a fabric.
_RINGS = 2

#: A guest or bridge: ("guest", NAME) or ("bridge", NAME).
Node = tuple[str, str]


class Sides(NamedTuple):
    """The cables before and after a bridge, from top to bottom."""

    before: list[Cable]
    after: list[Cable]


def by_number(name: str) -> list[tuple[str, int]]:
    """A key that sorts g2 before g10."""
    return [(text, int(n or 0)) for text, n in re.findall(r"(\D*)(\d{0,9})", name)]


def lines(picture: Picture) -> dict[str, tuple[Cable, Cable]]:
    """The segments that are drawn as a line between two interfaces: cables with no other ends."""
    ends: dict[str, list[Cable]] = {}
    for cable in picture.cables:
        if cable.iface.bridge is not None:
            ends.setdefault(cable.iface.bridge, []).append(cable)
    others = {
        b.record.name
        for b in picture.bridges
        if b.kind != "cable"
        or b.record.addresses
        or b.record.uplink
        or b.record.name in picture.left_out
    }
    return {
        name: (cables[0], cables[1])
        for name, cables in ends.items()
        if len(cables) == 2 and name not in others
    }


def ranks(picture: Picture) -> dict[Node, int]:
    """The distance of each bridge and each connected guest from the uplink, or else from where most
    routers are; in tiers, that of the end systems is the largest."""
    guests_on, bridges_of = _connections(picture)
    if in_tiers(picture):
        return _tiers(_neighbours(guests_on, bridges_of))
    routers = {guest for guest, on in bridges_of.items() if len(on) > 1}
    ways_out = {b.record.name for b in picture.bridges if b.record.uplink}
    starts = sorted(guests_on, key=lambda b: (b not in ways_out, -len(guests_on[b] & routers), b))
    between = lines(picture)
    near = _neighbours(guests_on, bridges_of)
    rank: dict[Node, int] = {}
    for start in starts:
        if ("bridge", start) not in rank:
            node: Node = ("bridge", start)
            # A line has one end on its left and one on its right.
            begin = _farthest(near, _farthest(near, node)) if start in between else node
            rank |= _distances(near, [begin])
    return rank


def _neighbours(
    guests_on: dict[str, set[str]], bridges_of: dict[str, set[str]]
) -> dict[Node, list[Node]]:
    found: dict[Node, list[Node]] = {}
    for bridge, guests in guests_on.items():
        found["bridge", bridge] = [("guest", g) for g in sorted(guests)]
    for guest, bridges in bridges_of.items():
        found["guest", guest] = [("bridge", b) for b in sorted(bridges)]
    return found


def _distances(near: dict[Node, list[Node]], level: list[Node]) -> dict[Node, int]:
    """The distance of each connected node from the nearest of `level`."""
    found = dict.fromkeys(level, 0)
    number = 0
    while level:
        number += 1
        level = list(dict.fromkeys(n for one in level for n in near[one] if n not in found))
        found |= dict.fromkeys(level, number)
    return found


def _farthest(near: dict[Node, list[Node]], start: Node) -> Node:
    """The node that is farthest from another."""
    return min(_distances(near, [start]).items(), key=lambda item: (-item[1], item[0]))[0]


def _tiers(near: dict[Node, list[Node]]) -> dict[Node, int]:
    """The distance from the nodes that are farthest from any end system."""
    ends = [node for node, others in near.items() if node[0] == "guest" and len(others) == 1]
    far = _distances(near, ends)
    for node, others in near.items():  # islands without end systems, and empty segments
        if others or node[0] == "bridge":
            far.setdefault(node, int(node[0] == "bridge"))
    most = max(far.values())
    return {node: most - distance for node, distance in far.items()}


def rings(picture: Picture) -> int:
    """The number of independent rings that lines between guests form."""
    group = {s.guest.name: s.guest.name for s in picture.guests}

    def root(guest: str) -> str:
        while group[guest] != guest:
            guest = group[guest]
        return guest

    found = 0
    for one, other in lines(picture).values():
        ends = root(one.iface.guest), root(other.iface.guest)
        found += ends[0] == ends[1]
        group[ends[0]] = ends[1]
    return found


def in_tiers(picture: Picture) -> bool:
    """Whether the lab is a fabric: many rings, with end systems and without a way out."""
    _, bridges_of = _connections(picture)
    return (
        rings(picture) > _RINGS
        and any(len(on) == 1 for on in bridges_of.values())
        and not any(b.record.uplink for b in picture.bridges)
    )


def is_round(picture: Picture, rank: dict[Node, int]) -> bool:
    """Whether the lab looks best without a direction: it is a ring, a mesh or a long chain."""
    return not in_tiers(picture) and (rings(picture) > 0 or is_long(rank))


def far_ends(picture: Picture) -> tuple[Node, Node] | None:
    """The two nodes that are farthest apart in a lab without rings."""
    guests_on, bridges_of = _connections(picture)
    if not guests_on or rings(picture):
        return None
    near = _neighbours(guests_on, bridges_of)
    end = _farthest(near, ("bridge", max(guests_on, key=lambda b: (len(guests_on[b]), b))))
    return end, _farthest(near, end)


def _connections(picture: Picture) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The guests on each bridge, and the bridges of each guest."""
    guests_on: dict[str, set[str]] = {b.record.name: set() for b in picture.bridges}
    bridges_of: dict[str, set[str]] = {s.guest.name: set() for s in picture.guests}
    for iface, _ in picture.cables:
        if iface.bridge is not None:
            guests_on[iface.bridge].add(iface.guest)
            bridges_of[iface.guest].add(iface.bridge)
    return guests_on, bridges_of


def sides(picture: Picture, rank: dict[Node, int]) -> dict[str, Sides]:
    """The cables before and after each bridge: it is between the guests nearer to the uplink and
    those farther away. If these are many, half of the end systems are before it."""
    _, bridges_of = _connections(picture)
    uplinks = {b.record.name for b in picture.bridges if b.record.uplink}
    found = {b.record.name: Sides([], []) for b in picture.bridges}
    for cable in sorted(picture.cables, key=lambda c: by_number(c.iface.name)):
        bridge, guest = cable.iface.bridge, cable.iface.guest
        if bridge is not None:
            far = rank["bridge", bridge] < rank["guest", guest]
            (found[bridge].after if far else found[bridge].before).append(cable)
    for name, (before, after) in found.items():
        ends = [c for c in after if len(bridges_of[c.iface.guest]) == 1]
        if len(ends) > _COLUMN:
            number = (len(after) - len(before) - (name in uplinks)) // 2
            moved = ends[: max(0, number)]
            before += moved
            after[:] = [c for c in after if c not in moved]
    return found


def is_long(rank: dict[Node, int]) -> bool:
    """Whether the lab, drawn from left to right, would be a long strip: a chain or a ring."""
    depth = max(rank.values(), default=0) + 1
    return depth > _LONG and len(rank) < 4 * depth
