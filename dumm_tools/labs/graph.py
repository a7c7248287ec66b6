"""A picture of the current state of the lab: guests, interfaces, bridges, uplinks, shaping.

Guests and bridges are nodes, cables are edges. The formats are texts for other programs to draw:
dot (Graphviz), mermaid, json; svg is rendered with Graphviz.
"""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from dumm_tools import proc
from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import link_views
from dumm_tools.running import guest_views
from dumm_tools.statefile import load

Format = Literal["dot", "svg", "mermaid", "json"]


class Cable(NamedTuple):
    """An interface and what it connects."""

    iface: Iface
    up: bool


class Picture(NamedTuple):
    """Everything to draw."""

    guests: list[guest_views.GuestView]
    cables: list[Cable]
    bridges: list[link_views.BridgeView]


def draw(labdir: str, form: Format) -> str:
    """The lab in one of the formats. DummError if Graphviz is missing."""
    state = load(labdir)
    picture = look(labdir, state)
    if form == "json":
        return as_json(picture)
    if form == "mermaid":
        return as_mermaid(picture)
    text = as_dot(picture)
    if form == "svg":
        return proc.run(["dot", "-Tsvg"], text=text, capture=True, quiet=True).stdout
    return text


def look(labdir: str, state: State) -> Picture:
    """Merge the records with the state of the kernel."""
    return Picture(
        guest_views.views(labdir, state),
        [Cable(v.record, v.state == "up") for v in link_views.interfaces(state)],
        link_views.bridges(state),
    )


# ---- labels, as lists of lines ----

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


def _guest_lines(seen: guest_views.GuestView) -> list[str]:
    return [seen.guest.name, seen.state]


def _bridge_lines(bridge: Bridge) -> list[str]:
    return [bridge.name, *(f"host {a}" for a in sorted(bridge.addresses))]


def _cable_lines(cable: Cable) -> list[str]:
    iface = cable.iface
    return [iface.device, *sorted(iface.addresses), *_impairments(iface)]


def _uplink_lines(bridge: Bridge) -> list[str]:
    """The label of a bridge's uplink; empty if it has none."""
    if bridge.uplink is None:
        return []
    return ["outside", "NAT" if bridge.uplink == "nat" else bridge.uplink.removeprefix("to:")]


# ---- formats ----


def as_json(picture: Picture) -> str:
    """One object with three arrays; the same names as in `list`."""
    what = {
        "guests": [{"name": s.guest.name, "state": s.state} for s in picture.guests],
        "ifaces": [
            {
                "name": c.iface.name,
                "guest": c.iface.guest,
                "device": c.iface.device,
                "bridge": c.iface.bridge,
                "state": "up" if c.up else "down",
                "addresses": sorted(c.iface.addresses),
                "shape": c.iface.shape or None,
            }
            for c in picture.cables
        ],
        "bridges": [
            {
                "name": b.record.name,
                "state": b.state,
                "address": sorted(b.record.addresses),
                "uplink": b.record.uplink,
            }
            for b in picture.bridges
        ],
    }
    return json.dumps(what) + "\n"


def _quoted(lines: list[str]) -> str:
    """A string of the dot language, its lines as \\n (https://graphviz.org/doc/info/lang.html)."""
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(escaped) + '"'


_COLOURS = {
    "running": ("#2e7d32", "#e8f5e9", "solid"),
    "paused": ("#ef6c00", "#fff3e0", "solid"),
    "crashed": ("#c62828", "#ffebee", "solid"),
}
#: Number of guests and bridges in a row that makes a picture too long for a page.
_LONG = 8
_QUIET = ("#757575", "#fafafa", "dashed")


def as_dot(picture: Picture) -> str:
    """For Graphviz. Each cable's label is a separate node on the cable, so that labels do not
    overlap."""
    rank = ranks(picture)
    layout = "layout=neato, overlap=false" if _is_long(rank) else "rankdir=LR, ranksep=0.25"
    out = [
        "graph lab {",
        f"\tgraph [{layout}, nodesep=0.08, splines=line, outputorder=edgesfirst];",
        '\tnode [fontname="Helvetica", fontsize=11, margin="0.12,0.06", height=0.3];',
        '\tedge [color="#546e7a"];',
    ]
    for seen in picture.guests:
        line, fill, style = _COLOURS.get(seen.state, _QUIET)
        out.append(
            f"\t{_quoted(['guest ' + seen.guest.name])} [label={_quoted(_guest_lines(seen))}, "
            f'shape=box, style="rounded,filled,{style}", color="{line}", fillcolor="{fill}"];'
        )
    for one in picture.bridges:
        bridge, name = one.record, _quoted(["bridge " + one.record.name])
        style = "filled" if one.state == "up" else "filled,dashed"
        out.append(
            f"\t{name} [label={_quoted(_bridge_lines(bridge))}, shape=box, width=1.1, "
            f'style="{style}", color="#1565c0", fillcolor="#e3f2fd"];'
        )
        if lines := _uplink_lines(bridge):
            outside = _quoted(["uplink " + bridge.name])
            out.append(
                f"\t{outside} [label={_quoted(lines)}, shape=ellipse, style=filled, "
                'color="#6a1b9a", fillcolor="#f3e5f5"];'
            )
            out.append(f'\t{outside} -- {name} [color="#6a1b9a", penwidth=2];')
    behind = behind_bridges(picture, rank)
    for cable in picture.cables:
        iface = cable.iface
        guest, plug = _quoted(["guest " + iface.guest]), _quoted(["iface " + iface.name])
        colour = "#c62828" if iface.shape else "#37474f" if cable.up else "#9e9e9e"
        style = "solid" if cable.up else "dashed"
        out.append(
            f"\t{plug} [label={_quoted(_cable_lines(cable))}, shape=plain, fontsize=9, "
            f'fontcolor="{colour}", style=filled, fillcolor=white];'
        )
        ends = [guest, plug]
        if iface.bridge is not None:
            ends.append(_quoted(["bridge " + iface.bridge]))
        if iface.name in behind:
            ends.reverse()
        out.append(f"\t{' -- '.join(ends)} [style={style}];")
    return "\n".join([*out, "}", ""])


def ranks(picture: Picture) -> dict[tuple[str, str], int]:
    """The distance of each bridge and each connected guest from the uplink, or else from where most
    routers are."""
    guests_on: dict[str, set[str]] = {b.record.name: set() for b in picture.bridges}
    bridges_of: dict[str, set[str]] = {s.guest.name: set() for s in picture.guests}
    for iface, _ in picture.cables:
        if iface.bridge is not None:
            guests_on[iface.bridge].add(iface.guest)
            bridges_of[iface.guest].add(iface.bridge)
    routers = {guest for guest, on in bridges_of.items() if len(on) > 1}
    ways_out = {b.record.name for b in picture.bridges if b.record.uplink}
    starts = sorted(guests_on, key=lambda b: (b not in ways_out, -len(guests_on[b] & routers), b))
    rank: dict[tuple[str, str], int] = {}
    for start in starts:
        level = {start} if ("bridge", start) not in rank else set()
        number = 0
        while level:
            rank |= {("bridge", b): number for b in level}
            guests = {g for b in level for g in guests_on[b]}
            guests = {g for g in guests if ("guest", g) not in rank}
            rank |= {("guest", g): number + 1 for g in guests}
            level = {b for g in guests for b in bridges_of[g]}
            level = {b for b in level if ("bridge", b) not in rank}
            number += 2
    return rank


def _is_long(rank: dict[tuple[str, str], int]) -> bool:
    """Whether the lab, drawn from left to right, would be a long strip: a chain or a ring."""
    depth = max(rank.values(), default=0) + 1
    return depth > _LONG and len(rank) < 4 * depth


def behind_bridges(picture: Picture, rank: dict[tuple[str, str], int]) -> set[str]:
    """The interfaces whose guest is drawn to the right of the bridge: each bridge is between the
    guests before it and those after it."""
    return {
        i.name
        for i, _ in picture.cables
        if i.bridge is not None and rank["bridge", i.bridge] < rank["guest", i.guest]
    }


def as_mermaid(picture: Picture) -> str:
    """A flowchart (https://mermaid.js.org/syntax/flowchart.html)."""

    def text(lines: list[str]) -> str:
        escaped = (line.replace("&", "#amp;").replace('"', "#quot;") for line in lines)
        return '"' + "<br/>".join(escaped) + '"'

    # Names may be keywords of mermaid; numbers cannot.
    guests = {s.guest.name: f"g{n}" for n, s in enumerate(picture.guests)}
    bridges = {b.record.name: f"b{n}" for n, b in enumerate(picture.bridges)}
    out = ["flowchart LR"]
    for seen in picture.guests:
        colours = seen.state if seen.state in _COLOURS else "quiet"
        out.append(f"    {guests[seen.guest.name]}({text(_guest_lines(seen))}):::{colours}")
    for one in picture.bridges:
        node = bridges[one.record.name]
        out.append(f"    {node}[{text(_bridge_lines(one.record))}]:::bridge")
        if lines := _uplink_lines(one.record):
            out.append(f"    {node} === u{node}(({text(lines)}))")
    for number, cable in enumerate(picture.cables):
        guest, line = guests[cable.iface.guest], "---" if cable.up else "-.-"
        if cable.iface.bridge is None:
            out.append(f"    {guest} {line} i{number}[{text(_cable_lines(cable))}]")
        else:
            far = bridges[cable.iface.bridge]
            out.append(f"    {guest} {line}|{text(_cable_lines(cable))}| {far}")
    for kind, (stroke, fill, _) in {**_COLOURS, "quiet": _QUIET}.items():
        out.append(f"    classDef {kind} stroke:{stroke},fill:{fill}")
    out.append("    classDef bridge stroke:#1565c0,fill:#e3f2fd")
    return "\n".join([*out, ""])
