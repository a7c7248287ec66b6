"""Drawings of a lab: their contents, and names in each format."""

from __future__ import annotations

import json
import os
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
from dumm_tools.labs import graph
from dumm_tools.model import Bridge, Iface, State

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
    picture = graph.look(labdir, statefile.load(labdir))
    assert graph.behind_bridges(picture, graph.ranks(picture)) == {"end-eth0", "graph-eth0"}
