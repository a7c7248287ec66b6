"""Frames that a segment passes on, and what makes it a cable, a hub or a switch."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, SUITES
from support.labs import Lab

pytestmark = pytest.mark.uml

PLACES = ["--host-net", "--isolated"] if ROOT else ["--isolated"]
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
GROUPS = [f"01:80:c2:00:00:{n:02x}" for n in range(16)]
PAUSE = GROUPS[1]
#: The EtherType for experiments.
LOCAL = 0x88B5


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that sends and takes frames in a guest."""
    program = tmp_path_factory.mktemp("wire") / "wire"
    compiler = os.environ.get("CC", "gcc").split()
    source = Path(__file__).with_name("wire.c")
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-static"]
    argv = [*compiler, *flags, "-o", str(program), str(source)]
    subprocess.run(argv, check=True, timeout=PATIENCE)
    return program


class Wire:
    """Frames that guests of a lab send to each other."""

    def __init__(self, lab: Lab, program: Path) -> None:
        self.lab = lab
        self._program = program

    def equip(self, *guests: str) -> None:
        """Give guests the program."""
        for guest in guests:
            self.lab(["dumm-fs", "cp", str(self._program), f"{guest}:/wire"])

    def sent(
        self, sender: str, frames: Iterable[bytes], *takers: str, device: str = "eth0"
    ) -> list[dict[str, int]]:
        """Send frames from one guest: those that arrive in each of the others, with their
        lengths."""
        taking = []
        for guest in takers:
            taking.append(self.lab.start(f"dumm-guest exec {guest} -- /wire take {device}"))
            assert taking[-1].stdout is not None
            assert taking[-1].stdout.readline() == b"ready\n"
        lines = "".join(f"{f.hex()}\n" for f in (*frames, frame("fence")))
        self.lab(f"dumm-guest exec {sender} -- /wire send {device}", stdin=lines.encode())
        found = []
        for process in taking:
            out, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, err
            arrived = [line.rsplit(" ", 1) for line in out.decode().splitlines()]
            found.append({label: int(length) for label, length in arrived[:-1]})
        return found


def frame(
    label: str,
    to: str = "ff:ff:ff:ff:ff:ff",
    source: str = A,
    kind: int = LOCAL,
    tags: bytes = b"",
    size: int = 46,
) -> bytes:
    """A frame that bears a label."""
    ends = bytes.fromhex((to + source).replace(":", ""))
    return ends + tags + struct.pack("!H", kind) + f"label:{label};".encode().ljust(size, b"\0")


def tag(kind: int, vlan: int, priority: int = 0) -> bytes:
    """A VLAN tag."""
    return struct.pack("!HH", kind, priority << 13 | vlan)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    """Where a lab is."""
    return str(request.param)


def started(lab: Lab, program: Path, place: str, suite: str, *guests: str) -> Wire:
    """A lab with a segment lan0, and guests on it."""
    lab("dumm-fs destroy")
    lab(f"dumm-fs init {place} --kernel {suite} --master busybox")
    lab("dumm-bridge create lan0")
    lab(["dumm-guest", "create", *guests])
    lab(["dumm-iface", "create", *(f"{g}-eth0" for g in guests), "--bridge", "lan0"])
    wire = Wire(lab, program)
    lab(["dumm-guest", "start", *guests])
    wire.equip(*guests)
    return wire


@pytest.mark.parametrize("suite", SUITES)
def test_groups_that_bridges_keep_pass(lab: Lab, wire: Path, place: str, suite: str) -> None:
    """LLDP, LACP, 802.1X, PTP and others; not PAUSE, which ends at each NIC of a real cable, too.
    From the start on, after moves, with late NICs, and with a tap or bridge made anew."""
    play = started(lab, wire, place, suite, "a", "b")
    frames = [frame(group, group) for group in GROUPS]
    frames += [frame(f"tagged {group}", group, tags=tag(0x8100, 5)) for group in GROUPS]
    wanted = {f.split(b"label:")[1].split(b";")[0].decode() for f in frames}
    wanted -= {PAUSE, f"tagged {PAUSE}"}

    def arrive(device: str = "eth0") -> bool:
        return set(play.sent("a", frames, "b", device=device)[0]) == wanted

    assert arrive()
    lab("dumm-bridge create lan1")
    lab("dumm-bridge connect lan1 a-eth0 b-eth0")
    assert arrive()
    lab("dumm-bridge disconnect a-eth0 b-eth0")
    lab("dumm-bridge connect lan0 a-eth0 b-eth0")
    assert arrive()
    lab("dumm-iface create a-eth1 b-eth1 --bridge lan1")
    assert arrive("eth1")
    lab("dumm-guest restart a")
    assert arrive()
    lab.host("ip link delete lan0")
    lab("dumm-bridge create lan0 --may-exist")
    assert arrive()


@pytest.mark.root
def test_groups_that_bridges_keep_pass_through_an_uplink(lab: Lab, wire: Path) -> None:
    started(lab, wire, "--host-net", SUITES[0], "a")
    lab.host("ip link add port0 type veth peer port1")
    try:
        lab.host("ip link set port1 up")
        lab("dumm-bridge uplink lan0 --to port0")
        taking = lab.start("dumm-guest exec a -- /wire take eth0")
        assert taking.stdout is not None
        assert taking.stdout.readline() == b"ready\n"
        lines = "".join(frame(to, to).hex() + "\n" for to in GROUPS) + frame("fence").hex() + "\n"
        lab([wire, "send", "port1"], stdin=lines.encode())
        out, _ = taking.communicate(timeout=PATIENCE)
        found = {line.split()[0] for line in out.decode().splitlines()}
        assert found == {*GROUPS, "fence"} - {PAUSE}
        taking = lab.start([wire, "take", "port1"])
        assert taking.stdout is not None
        assert taking.stdout.readline() == b"ready\n"
        lab("dumm-guest exec a -- /wire send eth0", stdin=lines.encode())
        out, _ = taking.communicate(timeout=PATIENCE)
        assert {line.split()[0] for line in out.decode().splitlines()} == found
    finally:
        lab("dumm-bridge uplink lan0 --none")
        lab.host("ip link delete port0")


@pytest.mark.parametrize("suite", SUITES)
def test_frames_of_all_kinds_pass(lab: Lab, wire: Path, place: str, suite: str) -> None:
    play = started(lab, wire, place, suite, "a", "b")
    bridge = lab.host("cat /sys/class/net/lan0/address").out.strip()
    frames = [
        frame("broadcast"),
        frame("to b", B),
        frame("unknown", "02:00:00:00:00:99"),
        frame("IPv4 group", "01:00:5e:00:00:05"),
        frame("IPv4 snooped", "01:00:5e:01:02:03"),
        frame("IPv6 group", "33:33:00:00:00:05"),
        frame("Cisco", "01:00:0c:cc:cc:cc"),
        frame("MRP", "01:15:4e:00:00:01", kind=0x88E3),
        frame("CFM", "01:80:c2:00:00:31", kind=0x8902),
        frame("TRILL", "01:80:c2:00:00:40"),
        frame("LLC", kind=46),
        frame("BPDU", GROUPS[0], kind=46),
        frame("from the bridge", source=bridge),
        frame("tagged", tags=tag(0x8100, 7)),
        frame("priority", tags=tag(0x8100, 0, 7)),
        frame("service", tags=tag(0x88A8, 7)),
        frame("double", tags=tag(0x88A8, 7) + tag(0x8100, 8)),
        frame("reserved VLAN", tags=tag(0x8100, 4095)),
        frame("full", size=1500),
        frame("tagged full", tags=tag(0x8100, 7), size=1500),
        frame("loopback", kind=0x9000),
        frame("MPLS", kind=0x8847),
        frame("short", size=20),
    ]
    labels = [f.split(b"label:")[1].split(b";")[0].decode() for f in frames]
    assert sorted(play.sent("a", frames, "b")[0]) == sorted(labels)


@pytest.mark.parametrize("suite", SUITES)
def test_full_packets_pass_with_two_tags(lab: Lab, wire: Path, place: str, suite: str) -> None:
    """A provider's tag around a customer's (1522 bytes), on a cable and on a switch. Like a veth, a
    tap has room for the inner one, and the bridge takes the outer one off meanwhile."""
    play = started(lab, wire, place, suite, "a", "b")
    for mtu in (1500, 9000):
        for guest in "ab":
            lab(f"dumm-iface set {guest}-eth0 --mtu {mtu}")
            script = "modprobe 8021q; set -e"
            for lower, name, protocol in (
                ("eth0", "s", "802.1ad"),
                ("s", "sc", "802.1Q"),
                ("eth0", "c", "802.1Q"),
                ("c", "cc", "802.1Q"),
            ):
                made = f"{name} type vlan protocol {protocol} id 7"
                script += f"; ip link add link {lower} name {made}; ip link set {name} up"
            lab(["dumm-guest", "exec", guest, "--", "sh", "-c", script])
        for kind in ("--auto", "--switch"):
            lab(f"dumm-bridge set lan0 {kind}")
            for device in ("eth0", "s", "sc", "c", "cc"):
                found = play.sent("a", [frame(device, size=mtu)], "b", device=device)
                assert found == [{device: mtu + 14}]


def kinds(lab: Lab, *names: str) -> list[str]:
    """The kinds of segments, whose bridges have the ageing time of that kind."""
    shown = lab(["dumm-bridge", "show", "-o", "kind,kind_set", *names]).lines
    for name, line in zip(names, shown, strict=True):
        ageing = lab.host(f"cat /sys/class/net/{name}/bridge/ageing_time").out.strip()
        assert ageing == ("30000" if line.startswith("switch") else "0")
    return [line.replace("\t", " ") for line in shown]


def test_kind_follows_the_ends(lab: Lab, place: str) -> None:
    """Of running guests, of stopped ones, and of the host."""
    lab("dumm-fs destroy")
    lab(f"dumm-fs init {place} --kernel sid --master busybox")
    lab("dumm-guest create a b c")
    lab("dumm-bridge create lan0")
    lab("dumm-bridge create lan1 --hub")
    lab("dumm-bridge create lan2 --switch")
    assert kinds(lab, "lan0", "lan1", "lan2") == ["cable auto", "hub hub", "switch switch"]
    lab("dumm-iface create a-eth0 b-eth0 --bridge lan0")
    assert kinds(lab, "lan0") == ["cable auto"]
    lab("dumm-iface create c-eth0 --bridge lan0")
    assert kinds(lab, "lan0") == ["switch auto"]
    lab("dumm-guest start a b")
    assert kinds(lab, "lan0") == ["switch auto"]
    lab("dumm-bridge connect lan1 a-eth0")
    assert kinds(lab, "lan0", "lan1") == ["cable auto", "hub hub"]
    lab("dumm-bridge address add lan0 10.0.0.254/24")
    assert kinds(lab, "lan0") == ["switch auto"]
    lab("dumm-bridge address del lan0 10.0.0.254/24")
    assert kinds(lab, "lan0") == ["cable auto"]
    lab("dumm-bridge connect lan0 a-eth0")
    assert kinds(lab, "lan0") == ["switch auto"]
    lab("dumm-bridge disconnect c-eth0")
    assert kinds(lab, "lan0") == ["cable auto"]
    lab("dumm-bridge connect lan0 c-eth0")
    assert kinds(lab, "lan0") == ["switch auto"]
    lab("dumm-guest delete c")
    assert kinds(lab, "lan0") == ["cable auto"]
    lab("dumm-iface create a-eth1 --bridge lan0")
    assert kinds(lab, "lan0") == ["switch auto"]
    lab("dumm-iface delete a-eth1")
    assert kinds(lab, "lan0") == ["cable auto"]
    lab("dumm-bridge set lan0 --switch")
    assert kinds(lab, "lan0") == ["switch switch"]
    lab("dumm-bridge create lan0 --may-exist")
    assert kinds(lab, "lan0") == ["switch switch"]
    lab("dumm-bridge create lan0 --hub --may-exist")
    assert kinds(lab, "lan0") == ["hub hub"]
    lab.host("ip link delete lan0")
    lab("dumm-guest restart a")
    assert kinds(lab, "lan0") == ["hub hub"]
    lab("dumm-bridge set lan0 --auto")
    assert kinds(lab, "lan0") == ["cable auto"]


def test_kind_is_refused(lab: Lab) -> None:
    lab("dumm-bridge create lan0 --hub --switch", status=2)
    lab("dumm-bridge create lan0")
    assert "required" in lab("dumm-bridge set lan0", status=2).err
    assert "exclusive" in lab("dumm-bridge set lan0 --hub --auto", status=2).err
    lab("dumm-bridge set lan1 --hub", status=3)
    assert kinds(lab, "lan0") == ["cable auto"]


def test_only_a_cable_can_be_cut(lab: Lab, wire: Path) -> None:
    started(lab, wire, "--isolated", SUITES[0], "a", "b")

    def carriers() -> list[str]:
        return lab("dumm-iface list -o state").lines

    lab("dumm-bridge disconnect b-eth0")
    assert carriers() == ["down", "down"]
    lab("dumm-bridge set lan0 --switch")
    assert carriers() == ["up", "down"]
    assert lab("dumm-guest exec a -- cat /sys/class/net/eth0/carrier").out == "1\n"
    lab("dumm-bridge connect lan0 b-eth0")
    lab("dumm-bridge disconnect b-eth0")
    assert carriers() == ["up", "down"]


@pytest.mark.parametrize("suite", SUITES)
def test_cable_and_hub_pass_what_a_switch_keeps(
    lab: Lab, wire: Path, place: str, suite: str
) -> None:
    """A frame for an address that was a source at the same end, and one for another's end."""
    play = started(lab, wire, place, suite, "a", "b")
    back = [frame("learned", source="02:00:00:00:00:33"), frame("back", "02:00:00:00:00:33")]
    assert "back" in play.sent("a", back, "b")[0]
    lab("dumm-bridge set lan0 --switch")
    assert "back" not in play.sent("a", back, "b")[0]
    lab("dumm-bridge set lan0 --auto")
    assert "back" in play.sent("a", back, "b")[0]
    lab("dumm-guest create c")
    lab("dumm-iface create c-eth0 --bridge lan0")
    lab("dumm-guest start c")
    play.equip("c")
    play.sent("b", [frame("b is here", source=B)], "a")
    assert ["to b" in f for f in play.sent("a", [frame("to b", B)], "b", "c")] == [True, False]
    lab("dumm-bridge set lan0 --hub")
    assert ["to b" in f for f in play.sent("a", [frame("to b", B)], "b", "c")] == [True, True]
    lab("dumm-bridge set lan0 --auto")
    # An address that moves to another port is found there.
    play.sent("b", [frame("b is here", source=B)], "a")
    lab("dumm-bridge disconnect b-eth0")
    lab("dumm-bridge set lan0 --switch")
    assert "to b" in play.sent("a", [frame("to b", B)], "c")[0]


def test_host_netfilter_leaves_frames_alone(lab: Lab, wire: Path) -> None:
    """With br_netfilter, a kernel drops frames with an IP header that it does not like."""
    play = started(lab, wire, "--isolated", SUITES[0], "a", "b")
    frames = [frame("IPv4", kind=0x0800), frame("IPv6", kind=0x86DD), frame("ARP", kind=0x0806)]
    assert sorted(play.sent("a", frames, "b")[0]) == ["ARP", "IPv4", "IPv6"]
