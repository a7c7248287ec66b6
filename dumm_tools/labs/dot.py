"""A picture of the lab in the dot language (https://graphviz.org/doc/info/lang.html).

Guests and bridges are nodes, cables are edges. The label of a cable's end is a node on the cable:
it cannot be anywhere else, and overlaps nothing. A bridge with many cables is a bar to which
they lead side by side, rather than a point where all of them meet.
"""

from __future__ import annotations

from collections.abc import Sequence

from dumm_tools.labs import labels, placement
from dumm_tools.labs.picture import Cable, Picture
from dumm_tools.net.link_views import BridgeView

#: Height of a place for a cable in a bar, in points: of a guest, or of each line of the label.
_PLACE, _LINE = 42, 13
#: Interfaces in a ring or mesh whose cables may run in curves around boxes. neato's time for that
#: grows with the cube of their number: for a ring of 40 guests, 13 s instead of 0.1 s.
_CURVED = 40


def as_dot(picture: Picture) -> str:
    """For Graphviz. The order is that of names: two labs that are alike have the same text."""
    rank = placement.ranks(picture)
    lines = placement.lines(picture)
    sides = placement.sides(picture, rank)
    around = placement.is_round(picture, rank)
    layout = 'layout=neato, overlap=scalexy, sep="+8"' if around else "rankdir=LR, ranksep=0.3"
    layout += ", splines=line" if around and len(picture.cables) > _CURVED else ", splines=true"
    out = [
        "graph lab {",
        f"\tgraph [{layout}, nodesep=0.08, outputorder=edgesfirst];",
        '\tnode [fontname="Helvetica", fontsize=11, margin="0.12,0.06", height=0.3];',
        '\tedge [color="#546e7a"];',
    ]
    for seen in picture.guests:
        line, fill, style = labels.COLOURS.get(seen.state, labels.QUIET)
        out.append(
            f"\t{_quoted('guest ' + seen.guest.name)} [label={_label(labels.of_guest(seen))}, "
            f'shape=box, style="rounded,filled,{style}", color="{line}", fillcolor="{fill}"];'
        )
    places: dict[str, str] = {}
    for one in picture.bridges:
        name = one.record.name
        if around or name in lines:
            bars: placement.Sides = placement.Sides([], [])
        else:
            bars = placement.Sides(
                *(side if len(side) > placement.FEW else [] for side in sides[name])
            )
        places |= {c.iface.name: f":w{n}:w" for n, c in enumerate(bars.before)}
        places |= {c.iface.name: f":e{n}:e" for n, c in enumerate(bars.after)}
        out += _bridge(picture, one, bars, is_line=name in lines)
    far_ends = placement.far_ends(picture) if around else None
    if far_ends:
        # A chain bends less if it is laid out as a ring that is open at one place.
        left, right = (_quoted(" ".join(end)) for end in far_ends)
        out.append(f"\t{left} -- {right} [style=invis, len=4];")
    before = {c.iface.name for s in sides.values() for c in s.before}
    for cable in sorted(picture.cables, key=lambda c: placement.by_number(c.iface.name)):
        iface = cable.iface
        guest, plug = _quoted("guest " + iface.guest), _quoted("iface " + iface.name)
        colour = "#c62828" if iface.shape else "#37474f" if cable.up else "#9e9e9e"
        style = "solid" if cable.up else "dashed"
        out.append(
            f"\t{plug} [label={_label(labels.of_cable(cable))}, shape=plain, fontsize=9, "
            f'fontcolor="{colour}", style=filled, fillcolor=white];'
        )
        ends = [guest, plug]
        if iface.bridge is not None:
            ends.append(_quoted("bridge " + iface.bridge) + places.get(iface.name, ""))
        if iface.bridge is not None and iface.name not in before:
            ends.reverse()
        out.append(f"\t{' -- '.join(ends)} [style={style}];")
    return "\n".join([*out, "}", ""])


def _bridge(picture: Picture, one: BridgeView, bars: placement.Sides, is_line: bool) -> list[str]:
    """A bridge, and its uplink."""
    name = _quoted("bridge " + one.record.name)
    said = labels.of_bridge(picture, one.record)
    line, fill = labels.BRIDGE
    style = "filled" if one.state == "up" else "filled,dashed"
    if is_line:
        out = [
            f"\t{name} [label={_label(said)}, shape=plain, fontsize=9, "
            f'fontcolor="{line}", style=filled, fillcolor=white];'
        ]
    else:
        label = _bar(said, bars, bool(labels.of_uplink(one.record))) if any(bars) else _label(said)
        size = "margin=0" if any(bars) else "width=1.1"
        out = [
            f"\t{name} [label={label}, shape=box, {size}, "
            f'style="{style}", color="{line}", fillcolor="{fill}"];'
        ]
    if uplink := labels.of_uplink(one.record):
        line, fill = labels.UPLINK
        outside = _quoted("uplink " + one.record.name)
        out.append(
            f"\t{outside} [label={_label(uplink)}, shape=ellipse, style=filled, "
            f'color="{line}", fillcolor="{fill}"];'
        )
        place = ":up:w" if bars.before else ""
        out.append(f'\t{outside} -- {name}{place} [color="{line}", penwidth=2];')
    return out


def _bar(said: Sequence[str], bars: placement.Sides, uplink: bool) -> str:
    """A label with a port for each cable, named w0... and e0..., as wide apart as guests; `up` is
    that of the uplink."""
    text = "<BR/>".join(
        t.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for t in said
    )
    before = _places("w", bars.before)
    if uplink and before:
        before.insert(len(before) // 2, ("up", _PLACE + 12))
    columns = [_column(before), f'<TD CELLPADDING="6">{text}</TD>']
    columns.append(_column(_places("e", bars.after)))
    table = '<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0">'
    return f"<{table}<TR>{''.join(columns)}</TR></TABLE>>"


def _places(side: str, cables: Sequence[Cable]) -> list[tuple[str, int]]:
    """The ports of a side, with their heights."""
    return [
        (f"{side}{n}", max(_PLACE, _LINE * len(labels.of_cable(c)))) for n, c in enumerate(cables)
    ]


def _column(places: Sequence[tuple[str, int]]) -> str:
    if not places:
        return ""
    rows = "".join(
        f'<TR><TD PORT="{port}" WIDTH="2" HEIGHT="{height}"></TD></TR>' for port, height in places
    )
    return f'<TD><TABLE BORDER="0" CELLSPACING="0" CELLPADDING="0">{rows}</TABLE></TD>'


def _quoted(text: str) -> str:
    """A string of the dot language."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _label(lines: Sequence[str]) -> str:
    """A label, its lines separated by \\n."""
    return '"' + "\\n".join(_quoted(line)[1:-1] for line in lines) + '"'
