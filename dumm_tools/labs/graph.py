"""Pictures of a lab, in all formats."""

from __future__ import annotations

import json
from typing import Literal

from dumm_tools import proc
from dumm_tools.labs import dot, mermaid, picture
from dumm_tools.statefile import load

Format = Literal["dot", "svg", "png", "pdf", "mermaid", "json"]


def draw(labdir: str, form: Format, *, core: bool = False) -> bytes:
    """The lab in one of the formats; with `core`, without end systems. DummError if Graphviz is
    missing."""
    drawing = picture.look(labdir, load(labdir))
    if core:
        drawing = picture.core_of(drawing)
    if form == "json":
        return as_json(drawing).encode()
    if form == "mermaid":
        return mermaid.as_mermaid(drawing).encode()
    text = dot.as_dot(drawing).encode()
    return text if form == "dot" else proc.convert(["dot", f"-T{form}"], text)


def as_json(drawing: picture.Picture) -> str:
    """One object with three arrays; the same names as in `list`."""
    what = {
        "guests": [{"name": s.guest.name, "state": s.state} for s in drawing.guests],
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
            for c in drawing.cables
        ],
        "bridges": [
            {
                "name": b.record.name,
                "state": b.state,
                "address": sorted(b.record.addresses),
                "uplink": b.record.uplink,
            }
            for b in drawing.bridges
        ],
    }
    return json.dumps(what) + "\n"
