"""Carriers: what guests see of cables that are plugged in and pulled, and of segments that are
down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from support import PLACES
from support.checks import until
from support.labs import Lab

pytestmark = pytest.mark.uml

#: A device that is up, as its guest sees it, with and without a carrier.
LIVE, DEAD = "UP up", "NO-CARRIER UP dormant"


@pytest.fixture(params=PLACES, ids=lambda place: "".join(place))
def lab(request: pytest.FixtureRequest, new_lab: Callable[..., Lab]) -> Lab:
    """A lab of each kind, with each kernel."""
    return new_lab("lab", request.param[1], kernel=request.param[0])


@pytest.fixture(params=[p for p in PLACES if p[0] == "sid"], ids=lambda place: "".join(place))
def quick(request: pytest.FixtureRequest, new_lab: Callable[..., Lab]) -> Iterator[Lab]:
    """A lab of each kind, with the newest kernel; guests that a test has suspended go on."""
    lab = new_lab("lab", request.param[1], kernel=request.param[0])
    yield lab
    for guest in lab("dumm-guest list -q").lines:
        lab(f"dumm-guest mconsole {guest} -- go", status=None)


def look(lab: Lab, interface: str) -> str:
    """The flags UP and NO-CARRIER of a device in its guest, and its operational state."""
    guest, _, device = interface.rpartition("-")
    script = f"ip link show {device}; cat /sys/class/net/{device}/operstate"
    words = lab(["dumm-guest", "exec", guest, "--", "sh", "-c", script]).out.split()
    flags = sorted(set(words[2].strip("<>").split(",")) & {"UP", "NO-CARRIER"})
    return " ".join([*flags, words[-1]])


def looks(lab: Lab, *interfaces: str) -> list[str]:
    return [look(lab, name) for name in interfaces]


def pings(lab: Lab, guest: str, address: str) -> bool:
    return lab(f"dumm-guest exec {guest} -- ping -q -c 1 -W 1 {address}", status=None).code == 0


def reaches(lab: Lab, guest: str, *addresses: str) -> None:
    for address in addresses:
        until(partial(pings, lab, guest, address), f"{guest} reaches {address}")


def settings(lab: Lab, guest: str) -> set[str]:
    """The addresses and routes of a guest."""
    script = "ip -o addr show eth0; ip route; ip -6 route"
    lines = lab(["dumm-guest", "exec", guest, "--", "sh", "-c", script]).lines
    # Flags that depend on the carrier, and lifetimes, are not settings.
    return {
        " ".join(w for w in line.split() if w not in ("linkdown", "tentative")) for line in lines
    }


def pair(lab: Lab, *more: str) -> None:
    guests = ("a", "b", *more)
    lab.batch(
        "bridge create lan0 lan1",
        f"guest create {' '.join(guests)}",
        *(
            f"iface create {guest}-eth0 --bridge lan0 --address 10.0.0.{number}/24"
            f" --address fd00::{number}/64"
            for number, guest in enumerate(guests, 1)
        ),
        "guest start --all",
    )


def test_state_of_a_device_is_up(lab: Lab) -> None:
    """At boot, when it is plugged in, and after it was down, by the user or by its guest."""
    lab("dumm-bridge create lan0")
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0 --bridge lan0")
    lab("dumm-guest start a")
    lab("dumm-iface create a-eth1 --bridge lan0")
    for device in ("eth0", "eth1"):
        assert look(lab, f"a-{device}") == LIVE
        lab(f"dumm-iface down a-{device}")
        assert look(lab, f"a-{device}") == "down"
        lab(f"dumm-iface up a-{device}")
        assert look(lab, f"a-{device}") == LIVE
        lab(f"dumm-guest exec a -- ip link set {device} down")
        lab(f"dumm-guest exec a -- ip link set {device} up")
        assert look(lab, f"a-{device}") == LIVE


def test_pulled_cable_is_a_lost_carrier(lab: Lab) -> None:
    """At both ends; all that the guest has set stays."""
    pair(lab)
    for command in (
        "ip addr add 10.9.0.1/24 dev eth0",
        "ip addr add fd09::1/64 dev eth0",
        "ip route add 10.8.0.0/16 via 10.0.0.2",
        "ip route add fd08::/64 via fd00::2",
    ):
        lab(f"dumm-guest exec a -- {command}")
    reaches(lab, "a", "10.0.0.2", "fd00::2")
    before = settings(lab, "a")
    assert any("fd09::1" in line for line in before)
    lab("dumm-bridge disconnect a-eth0")
    assert looks(lab, "a-eth0", "b-eth0") == [DEAD, DEAD]
    assert lab("dumm-iface list -o name,bridge,state,carrier").lines == [
        "a-eth0\t-\tdown\tno",
        "b-eth0\tlan0\tdown\tno",
    ]
    assert not pings(lab, "a", "10.0.0.2")
    assert settings(lab, "a") == before
    # The guest cannot bring the carrier back with the switch of its NIC.
    lab("dumm-guest exec b -- ip link set eth0 down")
    lab("dumm-guest exec b -- ip link set eth0 up")
    assert look(lab, "b-eth0") == DEAD
    lab("dumm-bridge connect lan0 a-eth0")
    assert looks(lab, "a-eth0", "b-eth0") == [LIVE, LIVE]
    assert settings(lab, "a") == before
    reaches(lab, "a", "10.0.0.2")
    assert lab("dumm-iface list -o state").lines == ["up", "up"]


def test_carrier_at_the_start(lab: Lab) -> None:
    """Interfaces are plugged in, pulled, on a cut cable, on a segment that is down."""
    lab("dumm-bridge create lan0 lan1 lan2")
    lab("dumm-guest create a b")
    lab("dumm-iface create a-eth0 --address 10.0.0.1/24 --address fd00::1/64")
    lab("dumm-iface create a-eth1 --bridge lan0")
    lab("dumm-iface create a-eth2 b-eth0 --bridge lan1")
    lab("dumm-iface create a-eth3 --bridge lan2")
    lab("dumm-bridge disconnect b-eth0")
    lab("dumm-bridge down lan2")
    names = [f"a-eth{n}" for n in range(4)]
    for command in ("start", "restart"):
        lab(f"dumm-guest {command} --all")
        assert looks(lab, *names) == [DEAD, LIVE, DEAD, DEAD]
        assert look(lab, "b-eth0") == DEAD
        assert any("fd00::1/64" in line for line in settings(lab, "a"))
    lab("dumm-iface create a-eth4")
    lab("dumm-iface create a-eth5 --bridge lan2")
    assert looks(lab, "a-eth4", "a-eth5") == [DEAD, DEAD]
    lab("dumm-bridge connect lan1 b-eth0")
    lab("dumm-bridge up lan2")
    lab("dumm-bridge connect lan0 a-eth0 a-eth4")
    assert looks(lab, *names, "a-eth4", "a-eth5", "b-eth0") == [LIVE] * 7


def test_segment_that_is_down(lab: Lab) -> None:
    pair(lab, "c")
    lab("dumm-bridge address add lan0 10.0.0.254/24 fd00::fe/64")
    reaches(lab, "a", "10.0.0.2", "10.0.0.254", "fd00::fe")
    before = settings(lab, "a")
    names = ("a-eth0", "b-eth0", "c-eth0")
    for _ in range(2):
        lab("dumm-bridge down lan0")
        assert looks(lab, *names) == [DEAD] * 3
    assert lab("dumm-bridge list -o name,state").lines == ["lan0\tdown", "lan1\tup"]
    assert not pings(lab, "a", "10.0.0.2")
    assert not pings(lab, "a", "10.0.0.254")
    lab("dumm-iface up a-eth0")
    lab("dumm-bridge create lan0 --may-exist")
    lab("dumm-bridge connect lan0 a-eth0")
    assert look(lab, "a-eth0") == DEAD
    assert lab("dumm-bridge show lan0 -o state").out == "down\n"
    for _ in range(2):
        lab("dumm-bridge up lan0")
        assert looks(lab, *names) == [LIVE] * 3
    assert settings(lab, "a") == before
    reaches(lab, "a", "10.0.0.2", "10.0.0.254", "fd00::fe", "fd00::3")
    lab("dumm-bridge up nowhere lan0", status=3)


def test_moving(quick: Lab) -> None:
    """It keeps the carrier, except to and from a segment that is down; the other end of a cable
    loses it."""
    lab = quick
    pair(lab)
    lab("dumm-bridge create lan2")
    lab("dumm-bridge connect lan1 a-eth0")
    assert looks(lab, "a-eth0", "b-eth0") == [LIVE, DEAD]
    lab("dumm-bridge connect lan1 b-eth0")
    assert looks(lab, "a-eth0", "b-eth0") == [LIVE, LIVE]
    lab("dumm-bridge down lan2")
    lab("dumm-bridge connect lan2 a-eth0 b-eth0")
    assert looks(lab, "a-eth0", "b-eth0") == [DEAD, DEAD]
    lab("dumm-bridge connect lan0 a-eth0 b-eth0")
    assert looks(lab, "a-eth0", "b-eth0") == [LIVE, LIVE]
    reaches(lab, "a", "10.0.0.2")


def test_only_a_cable_is_cut(quick: Lab) -> None:
    """Three interfaces are on a switch."""
    lab = quick
    pair(lab, "c")
    lab("dumm-bridge disconnect a-eth0")
    assert looks(lab, "a-eth0", "b-eth0", "c-eth0") == [DEAD, LIVE, LIVE]
    lab("dumm-bridge disconnect c-eth0")
    assert looks(lab, "b-eth0", "c-eth0") == [DEAD, DEAD]
    lab("dumm-iface create a-eth1 --bridge lan0")
    assert looks(lab, "a-eth1", "b-eth0") == [LIVE, LIVE]
    lab("dumm-bridge disconnect a-eth1")
    assert looks(lab, "a-eth1", "b-eth0") == [DEAD, DEAD]
    lab("dumm-bridge address add lan0 10.0.0.254/24")
    assert looks(lab, "a-eth1", "b-eth0") == [DEAD, LIVE]


def test_deletions(quick: Lab) -> None:
    """The other end of a cable is deleted, the guest there, and the segment."""
    lab = quick
    pair(lab, "c")
    lab("dumm-bridge connect lan1 c-eth0")
    lab("dumm-iface delete b-eth0")
    assert look(lab, "a-eth0") == DEAD
    lab("dumm-iface create a-eth0 --bridge lan0 --may-exist")
    assert look(lab, "a-eth0") == DEAD
    lab("dumm-iface create b-eth0 --bridge lan0")
    assert looks(lab, "a-eth0", "b-eth0") == [LIVE, LIVE]
    lab("dumm-guest stop b")
    assert look(lab, "a-eth0") == LIVE
    lab("dumm-guest delete b")
    assert look(lab, "a-eth0") == DEAD
    lab("dumm-bridge connect lan0 c-eth0")
    assert look(lab, "a-eth0") == LIVE
    lab("dumm-bridge delete lan0")
    assert looks(lab, "a-eth0", "c-eth0") == [DEAD, DEAD]
    lab("dumm-bridge connect lan1 a-eth0 c-eth0")
    assert looks(lab, "a-eth0", "c-eth0") == [LIVE, LIVE]


def test_switch_of_the_nic_and_the_cable_are_independent(quick: Lab) -> None:
    lab = quick
    pair(lab)
    lab("dumm-iface down a-eth0")
    for command in ("disconnect", "connect lan0", "connect lan1"):
        lab(f"dumm-bridge {command} a-eth0")
        assert look(lab, "a-eth0") == "down"
    lab("dumm-bridge disconnect a-eth0")
    lab("dumm-iface up a-eth0")
    assert look(lab, "a-eth0") == DEAD
    lab("dumm-guest exec a -- ip link set eth0 down")
    lab("dumm-bridge connect lan0 a-eth0")
    assert look(lab, "a-eth0") == "down"


def test_paused_guest_is_told_when_it_is_resumed(quick: Lab) -> None:
    lab = quick
    pair(lab)
    lab("dumm-guest pause a")
    assert lab("dumm-bridge disconnect a-eth0").err == ""
    assert lab("dumm-iface show a-eth0 -o bridge,carrier").out == "-\tno\n"
    assert look(lab, "b-eth0") == DEAD
    lab("dumm-guest resume a")
    assert look(lab, "a-eth0") == DEAD
    lab("dumm-bridge connect lan0 a-eth0")
    lab("dumm-guest pause a")
    lab("dumm-bridge disconnect b-eth0")
    lab("dumm-bridge down lan1")
    lab("dumm-guest resume a")
    assert looks(lab, "a-eth0", "b-eth0") == [DEAD, DEAD]
    lab("dumm-bridge connect lan0 b-eth0")
    lab("dumm-guest pause a")
    lab("dumm-bridge delete lan0")
    lab("dumm-guest resume a")
    assert looks(lab, "a-eth0", "b-eth0") == [DEAD, DEAD]


def test_silent_guest_at_the_other_end(quick: Lab) -> None:
    """There is a warning about it, and the next command that it answers corrects its carrier."""
    lab = quick
    pair(lab)
    for gone, back in (
        ("dumm-bridge disconnect a-eth0", "dumm-bridge connect lan0 a-eth0"),
        ("dumm-bridge connect lan1 a-eth0", "dumm-bridge connect lan0 a-eth0"),
        ("dumm-bridge down lan0", "dumm-bridge up lan0"),
    ):
        lab("dumm-guest mconsole b -- stop")
        done = lab(gone)
        assert done.err.count("\n") == 1
        assert "warning: the guest's carrier of 'b-eth0' is unchanged: " in done.err
        assert lab("dumm-iface show a-eth0 b-eth0 -o carrier").lines[1] == "no"
        lab("dumm-guest mconsole b -- go")
        lab("dumm-iface up b-eth0")
        assert look(lab, "b-eth0") == DEAD
        lab(back)
        assert looks(lab, "a-eth0", "b-eth0") == [LIVE, LIVE]


def test_guest_that_starts_or_stops(quick: Lab) -> None:
    """Or says so: its cable can be pulled nevertheless."""
    lab = quick
    pair(lab)
    ending, ready = (lab.directory / "run" / "a" / "uml" / name for name in ("ending", "ready"))
    ending.touch()
    assert lab("dumm-guest show a -o state").out == "stopping\n"
    lab("dumm-bridge disconnect a-eth0")
    assert lab("dumm-iface show a-eth0 -o bridge,carrier").out == "-\tno\n"
    assert not pings(lab, "b", "10.0.0.1")
    assert look(lab, "b-eth0") == DEAD
    ending.unlink()
    lab("dumm-bridge connect lan0 a-eth0")
    assert looks(lab, "a-eth0", "b-eth0") == [LIVE, LIVE]
    nonce = ready.read_bytes()
    ready.write_bytes(b"")
    assert lab("dumm-guest show a -o state").out == "starting\n"
    lab("dumm-bridge disconnect a-eth0")
    ready.write_bytes(nonce)
    assert looks(lab, "a-eth0", "b-eth0") == [DEAD, DEAD]


@pytest.mark.root
def test_device_of_the_host_mends_a_cut_cable(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab("lab", "--host-net")
    pair(lab)
    lab("dumm-bridge disconnect b-eth0")
    assert look(lab, "a-eth0") == DEAD
    lab.host("ip link add port0 type veth peer port1")
    try:
        lab("dumm-bridge uplink lan0 --to port0")
        assert look(lab, "a-eth0") == LIVE
        assert lab("dumm-iface show a-eth0 -o carrier").out == "yes\n"
        lab("dumm-bridge uplink lan0 --none")
        assert look(lab, "a-eth0") == DEAD
        assert lab("dumm-iface show a-eth0 -o carrier").out == "no\n"
        lab("dumm-bridge uplink lan0 --to port0")
        assert look(lab, "a-eth0") == LIVE
    finally:
        lab("dumm-bridge uplink lan0 --none")
        lab.host("ip link delete port0")


def test_old_records_of_unplugged_interfaces(quick: Lab) -> None:
    """Earlier versions recorded them as down."""
    lab = quick
    lab("dumm-bridge create lan0")
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0 a-eth1")
    lab("dumm-iface create a-eth2 --bridge lan0")
    lab("dumm-iface down a-eth1 a-eth2")
    file = lab.directory / "state.json"
    assert [i["up"] for i in json.loads(file.read_text())["ifaces"].values()] == [
        True,
        False,
        False,
    ]
    data = json.loads(file.read_text())
    del data["carriers"]
    data["ifaces"]["a-eth0"]["up"] = False
    for bridge in data["bridges"].values():
        bridge.clear()
    file.write_text(json.dumps(data))
    lab("dumm-guest start a")
    assert looks(lab, "a-eth0", "a-eth1", "a-eth2") == [DEAD, DEAD, "down"]
    assert [i["up"] for i in json.loads(file.read_text())["ifaces"].values()] == [True, True, False]


def test_bond_fails_over(lab: Lab) -> None:
    """Its monitor sees a cable that is pulled, and one that is plugged in again."""
    lab("dumm-bridge create lan0 lan1 lan2")
    lab("dumm-guest create a b c")
    lab("dumm-iface create a-eth0 b-eth0 --bridge lan0")
    lab("dumm-iface create a-eth1 c-eth0 --bridge lan1")
    lab("dumm-guest start --all")
    script = """
        modprobe bonding max_bonds=0 || exit
        echo +bond0 >/sys/class/net/bonding_masters
        cd /sys/class/net/bond0/bonding
        echo active-backup >mode; echo 100 >miimon; echo 0 >primary_reselect
        ip link set eth0 down; ip link set eth1 down
        echo +eth0 >slaves; echo +eth1 >slaves
        echo eth0 >primary; ip link set bond0 up"""
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", script])
    active = "dumm-guest exec a -- cat /sys/class/net/bond0/bonding/active_slave"

    def uses(device: str, after: str) -> None:
        until(lambda: lab(active).out == f"{device}\n", f"the bond uses {device} after {after}")

    uses("eth0", "the start")
    for gone, back in (
        ("disconnect a-eth0", "connect lan0 a-eth0"),
        ("disconnect b-eth0", "connect lan0 b-eth0"),
        ("connect lan2 b-eth0", "connect lan0 b-eth0"),
        ("down lan0", "up lan0"),
    ):
        lab(f"dumm-bridge {gone}")
        uses("eth1", gone)
        lab(f"dumm-bridge {back}")
        uses("eth0", back)
    lab("dumm-iface down a-eth0")
    uses("eth1", "down")
    lab("dumm-bridge disconnect a-eth0")
    lab("dumm-bridge connect lan0 a-eth0")
    assert look(lab, "a-eth0") == "down"
    lab("dumm-iface up a-eth0")
    uses("eth0", "up")


def test_guest_has_moved_the_address_to_a_bridge(quick: Lab) -> None:
    """And so the port's recorded routes are not possible, nor needed."""
    lab = quick
    pair(lab)
    lab("dumm-iface route add a-eth0 default --via 10.0.0.2")
    script = """
        ip link add br0 type bridge forward_delay 0 || exit
        ip addr flush dev eth0; ip link set eth0 master br0; ip link set br0 up
        ip addr add 10.0.0.1/24 dev br0; ip route add default via 10.0.0.2 dev br0"""
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", script])
    lab("dumm-iface down a-eth0")
    lab("dumm-iface up a-eth0")
    assert "eth0" not in lab("dumm-guest exec a -- ip route").out
    reaches(lab, "a", "10.0.0.2")


def test_bond_has_the_address_of_its_port(quick: Lab) -> None:
    """And so the port's recorded routes are not possible, nor needed."""
    lab = quick
    pair(lab)
    lab("dumm-iface route add a-eth0 default --via 10.0.0.2")
    script = """
        modprobe bonding max_bonds=0 || exit
        echo +bond0 >/sys/class/net/bonding_masters
        echo 100 >/sys/class/net/bond0/bonding/miimon
        ip link set eth0 down; ip addr flush dev eth0
        echo +eth0 >/sys/class/net/bond0/bonding/slaves; ip link set bond0 up
        ip addr add 10.0.0.1/24 dev bond0; ip route add default via 10.0.0.2 dev bond0"""
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", script])
    for gone, back in (
        ("dumm-bridge disconnect a-eth0", "dumm-bridge connect lan0 a-eth0"),
        ("dumm-iface down a-eth0", "dumm-iface up a-eth0"),
    ):
        lab(gone)
        lab(back)
        assert "eth0" not in lab("dumm-guest exec a -- ip route").out
        reaches(lab, "a", "10.0.0.2")
