"""Links changed from outside while their guests run; MTUs of all sizes."""

from __future__ import annotations

import pytest
from support.labs import Lab

from dumm_tools.linux import sysfs

#: For root only, since the lab's links are on the host's network.
pytestmark = [pytest.mark.uml, pytest.mark.root]


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """Guests a and b on lan0, who know each other's MAC addresses."""
    lab("dumm-bridge create lan0 lan1")
    lab("dumm-guest create a b")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24 --address fd00::1/64")
    lab("dumm-iface create b-eth0 --bridge lan0 --address 10.0.0.2/24 --address fd00::2/64")
    lab("dumm-iface route add b-eth0 10.9.0.0/16 --via 10.0.0.1")
    lab("dumm-guest start --all")
    reach(lab)
    return lab


def reach(lab: Lab, size: int = 56, status: int = 0) -> None:
    for address in ("10.0.0.2", "fd00::2"):
        lab(f"dumm-guest exec a -- ping -q -c 2 -i 0.2 -W 30 -s {size} {address}", status=status)


def state_of(lab: Lab, name: str) -> str:
    return lab(f"dumm-iface show {name} -o state").out.strip()


@pytest.mark.parametrize(
    "remedy",
    [
        "dumm-iface up b-eth0",
        "dumm-bridge connect lan0 b-eth0",
        "dumm-iface set b-eth0 --mtu 1400",
        "dumm-iface create b-eth0 --may-exist",
    ],
)
def test_removed_tap_is_restored(pair: Lab, remedy: str) -> None:
    pair("ip link del b-eth0")
    assert state_of(pair, "b-eth0") == "down"
    pair(remedy)
    assert state_of(pair, "b-eth0") == "up"
    reach(pair)
    routes = pair("dumm-iface route list b --live -o dest,via").lines
    assert "10.9.0.0/16\t10.0.0.1" in routes


def test_tap_that_was_down_when_its_guest_sent_is_restored(pair: Lab) -> None:
    pair("ip link set b-eth0 down")
    pair("dumm-guest exec b -- ping -q -c 1 -W 1 10.0.0.1", status=1)
    pair("dumm-iface up b-eth0")
    reach(pair)


@pytest.mark.parametrize(
    "remedy", ["dumm-bridge create lan0 --may-exist", "dumm-bridge connect lan0 a-eth0"]
)
def test_removed_bridge_is_restored(pair: Lab, remedy: str) -> None:
    pair("ip link del lan0")
    assert pair("dumm-bridge show lan0 -o state").out == "down\n"
    pair(remedy)
    reach(pair)


def test_removed_bridge_is_restored_by_the_next_start(pair: Lab) -> None:
    pair("dumm-guest create c")
    pair("ip link del lan0")
    pair("dumm-guest start c")
    reach(pair)


def test_foreign_link_in_a_bridge_is_left_alone(pair: Lab) -> None:
    pair("ip link add stranger type veth peer name stranger1")
    try:
        pair("ip link set stranger master lan0 up")
        assert pair("dumm-bridge show lan0 -o members").out == "a-eth0,b-eth0\n"
        pair("dumm-bridge delete lan0")
        assert sysfs.is_up("stranger")
    finally:
        pair("ip link del stranger")


def test_connecting_does_not_bring_an_interface_up(pair: Lab) -> None:
    pair("dumm-iface down b-eth0")
    pair("dumm-bridge connect lan1 b-eth0 a-eth0")
    assert state_of(pair, "b-eth0") == "down"
    pair("dumm-iface up b-eth0")
    assert state_of(pair, "b-eth0") == "up"
    reach(pair)


def test_deleting_the_first_address_of_a_network_keeps_the_others(pair: Lab) -> None:
    pair("dumm-iface address add b-eth0 10.0.0.3/24 10.0.0.4/24")
    pair("dumm-iface address del b-eth0 10.0.0.2/24")
    live = pair("dumm-iface address list b-eth0 --live -q").lines
    assert [a for a in live if a.startswith("10.")] == ["10.0.0.3/24", "10.0.0.4/24"]
    assert "10.9.0.0/16\t10.0.0.1" in pair("dumm-iface route list b --live -o dest,via").lines
    pair("dumm-iface address del b-eth0 10.0.0.3/24 10.0.0.4/24")
    live = pair("dumm-iface address list b-eth0 --live -q").lines
    assert [a for a in live if a.startswith("10.")] == []


def test_device_that_its_guest_renamed_is_found(pair: Lab) -> None:
    script = "ip link set eth0 down; ip link set eth0 name lan; ip link set lan up"
    pair(["dumm-guest", "exec", "b", "--", "sh", "-c", script])
    pair("dumm-iface shape b-eth0 --delay 3")
    assert pair("dumm-iface show b-eth0 -o actual").out == "delay=3\n"
    pair("dumm-iface delete b-eth0")
    assert pair("dumm-guest exec b -- ls /sys/class/net").out == "lo\n"


def test_mtus_of_all_sizes(pair: Lab) -> None:
    """In a running guest, and at its start; without IPv6 addresses, which need 1280."""
    for guest, n in ("a", 1), ("b", 2):
        pair(f"dumm-iface address del {guest}-eth0 fd00::{n}/64")
    for mtu in (68, 576, 1279, 1280, 1501, 9000, 65521, 1500, 600):
        for guest in "ab":
            pair(f"dumm-iface set {guest}-eth0 --mtu {mtu}")
            found = pair(f"dumm-guest exec {guest} -- cat /sys/class/net/eth0/mtu").out
            assert found == f"{mtu}\n"
        size = min(mtu - 28, 60000)
        pair(f"dumm-guest exec a -- ping -q -c 1 -W 30 -s {size} 10.0.0.2")
    # As after a command that was killed once it had recorded the change.
    file = pair.directory / "state.json"
    file.write_text(file.read_text().replace('"mtu": 600', '"mtu": 9000'))
    for guest in "ab":
        pair(f"dumm-iface set {guest}-eth0 --mtu 9000")
        found = pair(f"dumm-guest exec {guest} -- cat /sys/class/net/eth0/mtu").out
        assert found == "9000\n"
        pair(f"dumm-iface set {guest}-eth0 --mtu 600")
    pair("dumm-guest restart --all")
    assert pair("dumm-guest exec a -- cat /sys/class/net/eth0/mtu").out == "600\n"
    pair("dumm-guest exec a -- ping -q -c 1 -W 30 10.0.0.2")
