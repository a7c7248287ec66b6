"""Drawings of a lab: their contents, and names in each format."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from support.labs import Lab, recorded

from dumm_tools import statefile
from dumm_tools.cli.bridge import cli
from dumm_tools.labs import graph, picture, placement
from dumm_tools.model import Bridge, BridgeKind, Iface, State

#: As odd as a bridge's name may be; `end` and `graph` are keywords of the formats.
ODD = "b.e_nd-x"


def lab_of(place: Path) -> str:
    """Two guests on an oddly named bridge, one of them with shaping; one interface on no bridge."""

    def fill(state: State) -> None:
        for slot, (name, bridge) in enumerate(
            (("end-eth0", ODD), ("graph-eth0", ODD), ("end-e1", None))
        ):
            guest, _, device = name.partition("-")
            state.ifaces[name] = Iface(
                name, guest, device, slot, name, f"02:00:00:00:00:0{slot}", bridge
            )
        state.ifaces["end-eth0"].addresses = ["10.0.0.1/24", "fd00::1/64"]
        state.ifaces["end-eth0"].shape = {"delay": 20, "loss": 0.5, "rate": 2e6}
        state.bridges[ODD] = Bridge(ODD, ["10.0.0.254/24"], "nat")
        state.bridges["lan1"] = Bridge("lan1", uplink="to:eth7")

    return recorded(place, "end", "graph", fill=fill)


@pytest.fixture
def printed(tmp_path: Path) -> Callable[[str], str]:
    """The output of `graph --format`."""
    labdir = lab_of(tmp_path)

    def run(form: str) -> str:
        done = CliRunner().invoke(cli, ["-C", labdir, "graph", "--format", form])
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_json_output_has_the_records(printed: Callable[[str], str]) -> None:
    found = json.loads(printed("json"))
    assert found["guests"] == [
        {"name": "end", "state": "stopped"},
        {"name": "graph", "state": "stopped"},
    ]
    assert found["bridges"][0] == {
        "name": ODD,
        "state": "down",
        "address": ["10.0.0.254/24"],
        "uplink": "nat",
    }
    assert found["ifaces"][1] == {
        "name": "end-eth0",
        "guest": "end",
        "device": "eth0",
        "bridge": ODD,
        "state": "down",
        "addresses": ["10.0.0.1/24", "fd00::1/64"],
        "shape": {"delay": 20, "loss": 0.5, "rate": 2000000},
    }
    assert found["ifaces"][0]["bridge"] is None


def test_svg_shows_everything(printed: Callable[[str], str]) -> None:
    tree = ElementTree.fromstring(printed("svg"))
    said = {e.text for e in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert said >= {
        ODD, "lan1", "host 10.0.0.254/24", "end", "graph", "stopped", "eth0", "e1", "10.0.0.1/24",
        "fd00::1/64", "delay 20 ms", "loss 0.5 %", "rate 2 Mbit/s", "outside", "NAT", "eth7",
    }  # fmt: skip


def test_dot_output_is_one_graph(printed: Callable[[str], str]) -> None:
    done = subprocess.run(
        ["dot", "-Tplain"], input=printed("dot"), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\nnode ") == 2 + 2 + 2 + 3  # guests, bridges, uplinks, interfaces
    assert done.stdout.count("\nedge ") == 2 * 2 + 1 + 2


def test_png_and_pdf_are_rendered(tmp_path: Path) -> None:
    labdir = lab_of(tmp_path)
    for form, magic in (("png", b"\x89PNG\r\n\x1a\n"), ("pdf", b"%PDF-")):
        done = CliRunner().invoke(cli, ["-C", labdir, "graph", "--format", form])
        assert done.exit_code == 0, done.output
        assert done.stdout_bytes.startswith(magic)


def test_mermaid_output_is_quoted(printed: Callable[[str], str]) -> None:
    found = printed("mermaid").splitlines()
    assert found[0] == "flowchart LR"
    assert '    b0["b.e_nd-x<br/>host 10.0.0.254/24"]:::bridge' in found
    assert '    g1 -.-|"eth0"| b0' in found
    assert any(
        line.startswith('    g0 -.-|"eth0<br/>10.0.0.1/24<br/>fd00::1/64<br/>') for line in found
    )


@pytest.mark.parametrize("closed", [True, False])
def test_rings_and_chains_are_not_drawn_as_strips(tmp_path: Path, closed: bool) -> None:
    """From left to right, 20 routers would be drawn 3500 points wide and 78 high."""

    def fill(state: State) -> None:
        for n in range(20):
            state.bridges[f"lan{n}"] = Bridge(f"lan{n}")
            for slot, to in enumerate((f"lan{n}", f"lan{(n + 1) % 20}")):
                if closed or (n, slot) != (19, 1):
                    name = f"r{n}-eth{slot}"
                    mac = f"02:00:00:00:0{slot}:{n:02x}"
                    state.ifaces[name] = Iface(name, f"r{n}", f"eth{slot}", slot, name, mac, to)

    labdir = recorded(tmp_path, *(f"r{n}" for n in range(20)), fill=fill)
    svg = ElementTree.fromstring(graph.draw(labdir, "svg"))
    _, _, width, height = (float(n) for n in str(svg.get("viewBox")).split())
    assert width < 3000
    assert height > 200
    if closed:
        assert 1 / 3 < width / height < 3


Cables = list[tuple[str, str, str]]


def ring(number: int, *, closed: bool = True) -> Cables:
    """Routers in a ring, or in a chain: (guest, device, bridge)."""
    return [
        (f"r{(n + slot) % number}", f"eth{slot}", f"lan{n}")
        for n in range(number if closed else number - 1)
        for slot in range(2)
    ]


def star(number: int) -> Cables:
    """End systems on one segment."""
    return [(f"g{n}", "eth0", "lan0") for n in range(number)]


def fabric(spines: int, leaves: int, ends: int) -> Cables:
    """Spines, leaves, and segments of end systems."""
    found = []
    for leaf in range(leaves):
        for spine in range(spines):
            line = f"l{leaf}s{spine}"
            found += [(f"leaf{leaf}", f"eth{spine}", line), (f"spine{spine}", f"eth{leaf}", line)]
        found.append((f"leaf{leaf}", "lan", f"lan{leaf}"))
        found += [(f"h{leaf}x{n}", "eth0", f"lan{leaf}") for n in range(ends)]
    return found


def office() -> Cables:
    """A gateway, two segments of end systems, and a tunnel to a third."""
    members = {
        "wan": "gw", "lan0": "gw alice bob carol", "lan1": "gw moon", "vpn": "moon sun",
        "lan2": "sun dave erin", "lan9": "dora",
    }  # fmt: skip
    return [(guest, name, name) for name, guests in members.items() for guest in guests.split()]


def mesh(number: int) -> Cables:
    """Each router is connected to each other."""
    pairs = [(one, other) for one in range(number) for other in range(one)]
    return [(f"r{n}", f"eth{a + b - n}", f"m{a}x{b}") for a, b in pairs for n in (a, b)]


LABS: dict[str, tuple[Cables, str | None]] = {
    "pair": (ring(2, closed=False), None),
    "ring4": (ring(4), None),
    "ring8": (ring(8), None),
    "ring20": (ring(20), None),
    "ring100": (ring(100), None),
    "chain5": (ring(5, closed=False), None),
    "chain20": (ring(20, closed=False), None),
    "ring with end systems": (
        [*ring(5), *((f"{g}{n}", "lan", f"end{n}") for n in range(5) for g in "rhi")],
        None,
    ),
    "star60": (star(60), None),
    "star60 with an uplink": (star(60), "lan0"),
    "fabric": (fabric(2, 4, 3), None),
    "large fabric": (fabric(4, 8, 2), None),
    "office": (office(), "wan"),
    "mesh": (mesh(5), None),
}


def drawn(place: Path, cables: Cables, uplink: str | None, *, core: bool = False) -> bytes:
    """The dot text of a lab with these cables, whose interfaces all have an address."""

    def fill(state: State) -> None:
        for bridge in sorted({bridge for _, _, bridge in cables}):
            state.bridges[bridge] = Bridge(bridge, uplink="nat" if bridge == uplink else None)
        for n, (guest, device, bridge) in enumerate(cables):
            name, mac = f"{guest}-{device}", f"02:00:00:00:{n // 256:02x}:{n % 256:02x}"
            slot = len(state.ifaces_of(guest))
            iface = Iface(name, guest, device, slot, name, mac, bridge)
            iface.addresses = [f"10.0.{n}.{100 + slot}/24"]
            state.ifaces[name] = iface

    guests = {guest for guest, _, _ in cables}
    return graph.draw(recorded(place, *guests, fill=fill), "dot", core=core)


Point = tuple[float, float]


class Node:
    """A box or a label in a picture: its centre, and half of its size, in points."""

    def __init__(self, found: dict[str, str]) -> None:
        self.name = found["name"]
        self.x, self.y = (float(n) for n in found["pos"].split(","))
        self.width, self.height = float(found["width"]) * 36, float(found["height"]) * 36

    def holds(self, point: Point, margin: float) -> bool:
        """Whether a point is inside, at least `margin` from the border."""
        x, y = abs(point[0] - self.x), abs(point[1] - self.y)
        return x < self.width - margin and y < self.height - margin


def curve(points: list[Point]) -> list[Point]:
    """Points on a piecewise Bezier curve."""
    found = []
    for start in range(0, len(points) - 1, 3):
        for step in range(21):
            t = step / 20
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            near = list(zip(weights, points[start : start + 4], strict=True))
            found.append((sum(w * p[0] for w, p in near), sum(w * p[1] for w, p in near)))
    return found


def rendered(text: bytes) -> tuple[dict[int, Node], list[tuple[int, int, list[Point]]]]:
    """The nodes, and the visible edges with points on them, as Graphviz places them."""
    done = subprocess.run(["dot", "-Tjson"], input=text, capture_output=True, check=True)
    assert done.stderr == b""
    found = json.loads(done.stdout)
    nodes = {o["_gvid"]: Node(o) for o in found["objects"]}
    edges = [
        (
            e["tail"],
            e["head"],
            [p for d in e["_draw_"] if d["op"] == "b" for p in curve(d["points"])],
        )
        for e in found["edges"]
        if e.get("style") != "invis"
    ]
    return nodes, edges


@pytest.mark.parametrize("name", LABS)
def test_labels_are_on_their_cables_and_nothing_runs_behind_boxes(
    tmp_path: Path, name: str
) -> None:
    cables, uplink = LABS[name]
    nodes, edges = rendered(drawn(tmp_path, cables, uplink))
    assert len(edges) == 2 * len(cables) + bool(uplink)
    for tail, head, points in edges:
        for number, node in nodes.items():
            if number not in (tail, head):
                hit = any(node.holds(point, 1) for point in points)
                assert not hit, (nodes[tail].name, nodes[head].name, node.name)
        for end, point in ((tail, points[0]), (head, points[-1])):
            # A cable ends at the border of its label, at most three points away.
            assert nodes[end].holds(point, -3), (nodes[tail].name, nodes[head].name)
    for one in nodes.values():
        for other in nodes.values():
            if one is not other:
                apart = abs(one.x - other.x) > one.width + other.width - 1
                apart = apart or abs(one.y - other.y) > one.height + other.height - 1
                assert apart, (one.name, other.name)


@pytest.mark.parametrize("name", ["ring4", "ring8", "ring20", "ring100", "chain20", "chain5"])
def test_cables_of_rings_and_chains_are_nearly_straight(tmp_path: Path, name: str) -> None:
    """From guest to guest, along its labels, a cable is hardly longer than the straight line."""
    nodes, edges = rendered(drawn(tmp_path, *LABS[name]))
    near: dict[int, list[int]] = {}
    for tail, head, _ in edges:
        near.setdefault(tail, []).append(head)
        near.setdefault(head, []).append(tail)

    def distance(*way: Node) -> float:
        return sum(math.hypot(a.x - b.x, a.y - b.y) for a, b in itertools.pairwise(way))

    for number, node in nodes.items():
        if node.name.startswith("bridge "):
            way = [number]
            for _ in range(2):
                (before,) = [n for n in near[way[0]] if n not in way][:1]
                (after,) = [n for n in near[way[-1]] if n not in (*way, before)][:1]
                way = [before, *way, after]
            found = [nodes[n] for n in way]
            assert distance(*found) < 1.2 * distance(found[0], found[-1]), node.name


def test_the_dot_text_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    texts = []
    for number, cables in enumerate((fabric(2, 4, 3), sorted(fabric(2, 4, 3), key=hash))):
        (tmp_path / str(number)).mkdir()
        text = drawn(tmp_path / str(number), cables, None).decode()
        texts.append(re.sub(r"10\.0\.\d+\.\d+", "A", text))
    assert texts[0] == texts[1]


def test_core_leaves_out_end_systems(tmp_path: Path) -> None:
    text = drawn(tmp_path, *LABS["office"], core=True).decode()
    assert set(re.findall(r'^\t"guest (\w+)" \[', text, re.M)) == {"gw", "moon", "sun"}
    assert '"bridge lan0" [label="lan0\\n3 guests", shape=box' in text
    assert '"bridge lan9" [label="lan9\\n1 guest", shape=box' in text
    assert '"bridge vpn" [label="vpn", shape=plain' in text
    (tmp_path / "star").mkdir()
    text = drawn(tmp_path / "star", star(60), None, core=True).decode()
    assert "guest g" not in text
    assert "60 guests" in text


def test_core_applies_to_all_formats(tmp_path: Path) -> None:
    labdir = lab_of(tmp_path)
    done = CliRunner().invoke(cli, ["-C", labdir, "graph", "--core", "--format", "json"])
    found = json.loads(done.output)
    assert (found["guests"], found["ifaces"], len(found["bridges"])) == ([], [], 2)
    done = CliRunner().invoke(cli, ["-C", labdir, "graph", "--core", "--format", "mermaid"])
    assert "2 guests" in done.output


def test_mermaid_escapes_texts(tmp_path: Path) -> None:
    """A working set may be somebody else's."""

    def fill(state: State) -> None:
        state.bridges["lan0"] = Bridge("lan0", uplink='to:x"\nclick b0 call f()<img src=y>&#1;')

    text = graph.draw(recorded(tmp_path, fill=fill), "mermaid").decode()
    escaped = "x#quot; click b0 call f()#lt;img src=y#gt;#amp;#35;1;"
    assert f'    b0 === ub0(("outside<br/>{escaped}"))' in text.splitlines()


def between_two(place: Path, kind: BridgeKind) -> str:
    """Two guests on a segment."""

    def fill(state: State) -> None:
        state.bridges["lan0"] = Bridge("lan0", kind=kind)
        for n, guest in enumerate(("a", "b")):
            name = f"{guest}-eth0"
            state.ifaces[name] = Iface(name, guest, "eth0", 0, name, f"02:00:00:00:00:0{n}", "lan0")
            state.ifaces[name].addresses = [f"10.0.0.{n + 1}/24"]

    return recorded(place, "a", "b", fill=fill)


def test_mermaid_draws_a_cable_as_one_line(tmp_path: Path) -> None:
    text = graph.draw(between_two(tmp_path, "auto"), "mermaid").decode()
    label = "a eth0<br/>10.0.0.1/24<br/>lan0<br/>b eth0<br/>10.0.0.2/24"
    assert f'    g0 -.-|"{label}"| g1' in text.splitlines()
    assert ":::bridge" not in text


@pytest.mark.parametrize("kind", ["hub", "switch"])
def test_hubs_and_switches_of_two_are_not_lines(tmp_path: Path, kind: BridgeKind) -> None:
    labdir = between_two(tmp_path, kind)
    found = picture.look(labdir, statefile.load(labdir))
    assert placement.lines(found) == {}
    text = graph.draw(labdir, "mermaid").decode()
    assert '    b0["lan0"]:::bridge' in text.splitlines()
    assert '    g1 -.-|"eth0<br/>10.0.0.2/24"| b0' in text.splitlines()
    # The name of a line is plain text.
    [box] = [n for n in graph.draw(labdir, "dot").decode().splitlines() if '"bridge lan0" [' in n]
    assert "shape=box" in box


@pytest.mark.uml
def test_graph_shows_the_present_states_of_guests(lab: Lab) -> None:
    lab("dumm-guest create r s t u --start")
    lab("dumm-bridge create lan0")
    lab("dumm-iface create r-eth0 s-eth0 --bridge lan0")
    lab("dumm-guest pause s")
    os.kill(int(lab("dumm-guest show t -o pid").out), signal.SIGKILL)
    lab("dumm-guest wait t --for stopped", status=None)
    lab("dumm-guest stop u")
    svg = ElementTree.fromstring(lab("dumm-bridge graph --format svg").out)
    nodes = {
        tuple(e.text for e in group.iter("{http://www.w3.org/2000/svg}text"))
        for group in svg.iter("{http://www.w3.org/2000/svg}g")
        if group.get("class") == "node"
    }
    wanted = [("r", "running"), ("s", "paused"), ("t", "crashed"), ("u", "stopped")]
    assert nodes >= set(wanted)
    dot = lab("dumm-bridge graph").out
    mermaid = lab("dumm-bridge graph --format mermaid").out
    for name, state_now in wanted:
        assert f'"guest {name}" [label="{name}\\n{state_now}",' in dot
        assert f'("{name}<br/>{state_now}")' in mermaid
    found = json.loads(lab("dumm-bridge graph --format json").out)
    assert found["guests"] == [{"name": n, "state": s} for n, s in wanted]
    assert [i["state"] for i in found["ifaces"]] == ["up", "up"]
    # A guest's link is drawn as down right after it was taken down.
    lab("dumm-iface down r-eth0")
    assert "g0 -.-|" in lab("dumm-bridge graph --format mermaid").out


def test_missing_graphviz_is_an_error(printed: Callable[[str], str], tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["-C", str(tmp_path), "graph", "--format", "svg"], env={"PATH": "/nonexistent"}
    )
    assert done.exit_code
    assert "cannot find 'dot'" in str(done.exception)
    assert getattr(done.exception, "hint", "") == "apt-get install graphviz"


def test_guests_are_placed_on_the_far_side_of_their_bridge(tmp_path: Path) -> None:
    labdir = lab_of(tmp_path)
    found = picture.look(labdir, statefile.load(labdir))
    sides = placement.sides(found, placement.ranks(found))
    assert [c.iface.name for c in sides[ODD].before] == []
    assert [c.iface.name for c in sides[ODD].after] == ["end-eth0", "graph-eth0"]
