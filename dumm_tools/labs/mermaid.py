"""A picture of the lab as a flowchart (https://mermaid.js.org/syntax/flowchart.html)."""

from __future__ import annotations

from dumm_tools.labs import labels, placement
from dumm_tools.labs.picture import Cable, Picture

#: Labels are HTML, and end at a quote. Lines of the file would be statements.
_ESCAPES = str.maketrans(
    {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "\n": " ", "\r": " "}
)


def as_mermaid(picture: Picture) -> str:
    """For Markdown. A segment with two ends is one line; its label names the ends in the line's
    order."""
    # Names may be keywords of mermaid; numbers cannot.
    guests = {s.guest.name: f"g{n}" for n, s in enumerate(picture.guests)}
    bridges = {b.record.name: f"b{n}" for n, b in enumerate(picture.bridges)}
    lines = placement.lines(picture)
    out = ["flowchart LR"]
    for seen in picture.guests:
        colours = seen.state if seen.state in labels.COLOURS else "quiet"
        out.append(f"    {guests[seen.guest.name]}({_text(labels.of_guest(seen))}):::{colours}")
    for one in picture.bridges:
        node = bridges[one.record.name]
        if one.record.name not in lines:
            label = _text(labels.of_bridge(picture, one.record))
            out.append(f"    {node}[{label}]:::bridge")
        if uplink := labels.of_uplink(one.record):
            out.append(f"    {node} === u{node}(({_text(uplink)}))")
    for number, cable in enumerate(picture.cables):
        guest, line = guests[cable.iface.guest], "---" if cable.up else "-.-"
        bridge, label = cable.iface.bridge, _text(labels.of_cable(cable))
        if bridge is None:
            out.append(f"    {guest} {line} i{number}[{label}]")
        elif bridge not in lines:
            out.append(f"    {guest} {line}|{label}| {bridges[bridge]}")
    for name, (one_end, other_end) in sorted(lines.items()):
        line = "---" if one_end.up and other_end.up else "-.-"
        said = [*_end(one_end), name, *_end(other_end)]
        ends = [guests[c.iface.guest] for c in (one_end, other_end)]
        out.append(f"    {ends[0]} {line}|{_text(said)}| {ends[1]}")
    for kind, (stroke, fill, _) in {**labels.COLOURS, "quiet": labels.QUIET}.items():
        out.append(f"    classDef {kind} stroke:{stroke},fill:{fill}")
    stroke, fill = labels.BRIDGE
    out.append(f"    classDef bridge stroke:{stroke},fill:{fill}")
    return "\n".join([*out, ""])


def _end(cable: Cable) -> list[str]:
    device, *rest = labels.of_cable(cable)
    return [f"{cable.iface.guest} {device}", *rest]


def _text(lines: list[str]) -> str:
    return '"' + "<br/>".join(line.translate(_ESCAPES) for line in lines) + '"'
