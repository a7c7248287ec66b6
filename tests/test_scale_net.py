"""Large networks and unusual frames: many interfaces, many guests, many bridges; VLAN tags, jumbo
frames, IPv6 neighbour discovery, multicast; the order of devices."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

import pytest
from support import PATIENCE, SUITES
from support.checks import until
from support.labs import Lab

pytestmark = pytest.mark.uml

PLACES = ["--isolated", *(["--host-net"] if os.geteuid() == 0 else [])]


@pytest.fixture(params=PLACES)
def place(new_lab: Callable[..., Lab], request: pytest.FixtureRequest) -> Lab:
    """A lab on the host's network, and an isolated one."""
    return new_lab("lab", request.param)


def sh(lab: Lab, guest: str, script: str, status: int | None = 0) -> str:
    """Run a script in a guest."""
    return lab(["dumm-guest", "exec", guest, "--", "sh", "-c", script], status=status).out


def devices(lab: Lab, guest: str) -> dict[str, tuple[int, str]]:
    """The ethernet devices of a guest: index and MAC address by name."""
    script = (
        "for d in /sys/class/net/*; do"
        " [ -e $d/device ] && echo ${d##*/} $(cat $d/ifindex $d/address); done; true"
    )
    rows = [line.split() for line in sh(lab, guest, script).splitlines()]
    return {name: (int(index), mac) for name, index, mac in rows}


def two(lab: Lab, options: str = "", kernel: str = "sid") -> None:
    """Guests a and b on lan0."""
    lab("dumm-bridge create lan0")
    lab(f"dumm-guest create a b --kernel {kernel}")
    for n, guest in enumerate("ab", 1):
        both = f"--address 10.0.0.{n}/24 --address fd00::{n}/64"
        lab(f"dumm-iface create {guest}-eth0 --bridge lan0 {both} {options}")
    lab("dumm-guest start --all")


@pytest.mark.parametrize("suite", SUITES)
def test_30_interfaces_in_one_guest(new_lab: Callable[..., Lab], suite: str) -> None:
    """More than fit on its kernel's command line."""
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan0")
    lab("dumm-guest create a")

    def create(start: int, stop: int) -> None:
        line = "iface create a-eth{} --bridge lan0 --address 10.0.0.1/24"
        lab.batch(*map(line.format, range(start, stop)))

    create(0, 26)
    lab("dumm-iface route add a-eth25 192.168.0.0/16 --via 10.0.0.2")
    lab("dumm-iface shape a-eth25 --delay 1")
    done = lab("dumm-guest start a")
    assert done.err == ""
    create(26, 30)
    macs = dict(r.split("\t") for r in lab("dumm-iface list -o name,mac").lines)
    for again in (False, True):
        if again:
            assert lab("dumm-guest restart a").err == ""
        found = devices(lab, "a")
        assert {f"a-{name}": mac for name, (_, mac) in found.items()} == macs
        states = lab("dumm-iface list -o state").lines
        assert states == ["up"] * 30
        assert sh(lab, "a", "ip -4 addr").count("10.0.0.1/24") == 30
        assert "192.168.0.0/16\t10.0.0.2" in lab("dumm-iface route list a --live -o dest,via").out
        assert lab("dumm-iface show a-eth25 -o actual").out == "delay=1\n"
    lab(["dumm-iface", "delete", *(f"a-eth{n}" for n in range(1, 30))])
    assert set(devices(lab, "a")) == {"eth0"}


def test_40_guests_on_one_bridge(place: Lab) -> None:
    place("dumm-bridge create lan0")
    guests = [f"g{n}" for n in range(1, 41)]
    place(["dumm-guest", "create", *guests])
    place.batch(
        *(
            f"iface create {guest}-eth0 --bridge lan0 --address 10.0.0.{n}/24"
            for n, guest in enumerate(guests, 1)
        )
    )
    place("dumm-guest start --all")
    for guest in (guests[0], guests[-1]):
        script = "for n in $(seq 40); do ping -c1 -W30 10.0.0.$n >/dev/null || echo $n; done"
        assert sh(place, guest, script) == ""
    place("dumm-guest stop --all --kill")


def test_20_bridges(place: Lab) -> None:
    bridges = [f"lan{n}" for n in range(20)]
    place(["dumm-bridge", "create", *bridges])
    place("dumm-guest create a b")
    place.batch(
        *(
            f"iface create {guest}-eth{n} --bridge {bridge} --address 10.{n}.0.{host}/24"
            for n, bridge in enumerate(bridges)
            for host, guest in enumerate("ab", 1)
        )
    )
    place("dumm-guest start --all")
    script = "for n in $(seq 0 19); do ping -c1 -W30 10.$n.0.2 >/dev/null || echo $n; done"
    assert sh(place, "a", script) == ""
    place(["dumm-bridge", "delete", *bridges])
    assert set(place("dumm-iface list -o state,bridge").lines) == {"down\t-"}


@pytest.mark.parametrize("suite", SUITES)
def test_frames_of_all_kinds_pass_a_bridge(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    two(lab, "--mtu 9000", suite)
    # Jumbo frames: 8972 and 28 are 9000.
    assert " 0% packet loss" in sh(lab, "a", "ping -c3 -s 8972 10.0.0.2")
    assert " 0% packet loss" in sh(lab, "a", "ping -c3 -s 8952 fd00::2")
    # IPv6 finds its neighbours by solicitations to a multicast address.
    macs = dict(r.split("\t") for r in lab("dumm-iface list -o name,mac").lines)
    seen = sh(lab, "a", "ip -6 neigh show fd00::2 dev eth0")
    assert macs["b-eth0"] in seen, seen
    # Multicast is flooded: b answers to the group of all nodes, as any other guest would.
    until(lambda: "fe80" in sh(lab, "a", "ip -6 addr show dev eth0 | grep -v tentative"), "fe80")
    everyone = sh(lab, "a", "ping -c2 -w20 -I eth0 ff02::1", None)
    assert re.search(r"from fe80::\S+ .*\n(?s:.*)from fe80::", everyone), everyone


@pytest.mark.parametrize("suite", SUITES)
def test_vlan_tags_pass_a_bridge(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    two(lab, "", suite)
    for n, guest in enumerate("ab", 1):
        script = "modprobe 8021q; vconfig add eth0 5 && ip link set eth0.5 up"
        sh(lab, guest, f"{script} && ip addr add 10.5.0.{n}/24 dev eth0.5")
    capture = lab.start("dumm-bridge capture lan0 -- -e -c 4 vlan 5 and icmp")
    assert capture.stderr is not None
    while b"listening" not in capture.stderr.readline():
        pass
    assert " 0% packet loss" in sh(lab, "a", "ping -c2 -s 1400 10.5.0.2")
    out, _ = capture.communicate(timeout=PATIENCE)
    assert out.count(b"802.1Q") == 4
    assert out.count(b"vlan 5") == 4


def test_order_and_names_of_devices_are_stable(lab: Lab) -> None:
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth2 a-wan0")
    lab("dumm-guest start a")
    lab("dumm-iface create a-eth0 a-eth1")

    def look() -> dict[str, str]:
        return {name: mac for name, (_, mac) in devices(lab, "a").items()}

    macs = json.loads(lab("dumm-iface list --format json").out)
    wanted = {row["device"]: row["mac"] for row in macs}
    assert look() == wanted
    lab("dumm-guest restart a")
    assert look() == wanted
    order = sorted(devices(lab, "a").values())
    lab("dumm-guest restart a")
    assert sorted(devices(lab, "a").values()) == order
    mac = wanted["eth2"]
    lab("dumm-iface delete a-eth2")
    lab("dumm-guest restart a")
    lab("dumm-iface create a-eth2")
    assert look() == {**wanted, "eth2": mac}
    lab("dumm-iface set a-eth0 --mtu 4000")  # unplugged and plugged in again
    assert look() == wanted
    lab("dumm-guest restart a")
    assert look() == wanted
    assert sorted(devices(lab, "a").values()) == order
