"""Devices that their guest has moved to another network namespace, renamed, or made ports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import PLACES
from support.checks import one_line_error
from support.labs import Lab
from test_carrier import DEAD, LIVE, look, pair, pings, reaches

pytestmark = pytest.mark.uml


@pytest.fixture(params=PLACES, ids=lambda place: "".join(place))
def lab(request: pytest.FixtureRequest, new_lab: Callable[..., Lab]) -> Lab:
    made = new_lab("lab", request.param[1], kernel=request.param[0])
    pair(made)
    return made


def sh(lab: Lab, script: str, status: int = 0) -> str:
    return lab(["dumm-guest", "exec", "a", "--", "sh", "-c", script], status=status).out


#: Run a command in another network namespace, which a process keeps.
THERE = "nsenter -t $(cat /tmp/pid) -n"
AWAY = f"""
    unshare -n sleep 100000 </dev/null >/dev/null 2>&1 &
    pid=$!; echo $pid >/tmp/pid
    until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
    ip link set eth0 netns $pid
    {THERE} ip link set eth0 up; {THERE} ip addr add 10.0.0.1/24 dev eth0"""


def there(lab: Lab) -> str:
    """The flags UP and NO-CARRIER of the device in the other namespace."""
    words = sh(lab, f"{THERE} ip link show eth0").split()
    return " ".join(sorted(set(words[2].strip("<>").split(",")) & {"UP", "NO-CARRIER"}))


def test_device_in_another_network_namespace(lab: Lab) -> None:
    sh(lab, AWAY)
    ping = f"{THERE} ping -q -c 1 -W 30 10.0.0.2"
    sh(lab, ping)
    for gone, back in (
        ("dumm-bridge disconnect a-eth0", "dumm-bridge connect lan0 a-eth0"),
        ("dumm-bridge down lan0", "dumm-bridge up lan0"),
    ):
        lab(gone)
        assert there(lab) == "NO-CARRIER UP"
        lab(back)
        assert there(lab) == "UP"
        assert look(lab, "b-eth0") == LIVE
        sh(lab, ping)
    lab("dumm-iface down a-eth0")
    assert there(lab) == ""
    assert not pings(lab, "b", "10.0.0.1")
    lab("dumm-iface up a-eth0")
    assert there(lab) == "UP"
    assert "10.0.0.1/24" in lab("dumm-iface address list a-eth0 --live -q").lines
    for change in (
        "dumm-iface address add a-eth0 10.7.0.1/24",
        "dumm-iface set a-eth0 --mac 02:00:00:00:00:99",
        "dumm-iface set a-eth0 --mtu 1400",
        "dumm-iface set a-eth0 --mtu 9000",
        "dumm-iface shape a-eth0 --delay 5",
    ):
        error = one_line_error(lab(change, status=4).err, "dumm-iface")
        assert error == "guest 'a' has moved 'a-eth0' to another network namespace"
    assert lab("dumm-iface show a-eth0 -o mtu,shape").out == "1500\t-\n"
    sh(lab, ping)
    lab("dumm-iface address del a-eth0 fd00::1/64")
    lab("dumm-iface delete a-eth0")
    assert "eth0" not in sh(lab, f"{THERE} ip link")
    assert look(lab, "b-eth0") == DEAD
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
    reaches(lab, "a", "10.0.0.2")


def test_device_that_cannot_be_found(lab: Lab) -> None:
    """Its namespace has neither a process nor a name: traffic stops nevertheless."""
    sh(lab, AWAY)
    hold = "exec 9</proc/$(cat /tmp/pid)/ns/net; kill $(cat /tmp/pid); sleep 100000"
    holder = lab.start(["dumm-guest", "exec", "a", "--", "sh", "-c", hold])
    sh(lab, "while [ -d /proc/$(cat /tmp/pid) ]; do :; done")
    hidden = "guest 'a' has 'a-eth0' in a network namespace that cannot be found"
    assert pings(lab, "b", "10.0.0.1")
    assert hidden in lab("dumm-iface delete a-eth0", status=4).err
    assert lab("dumm-iface show a-eth0 -o bridge").out == "-\n"
    assert not pings(lab, "b", "10.0.0.1")
    assert hidden in lab("dumm-iface up a-eth0", status=4).err
    assert hidden in lab("dumm-bridge connect lan0 a-eth0", status=4).err
    holder.kill()


def test_named_namespace_and_many_others(lab: Lab) -> None:
    """A guest may have more namespaces than are searched, and anything in /run/netns."""
    sh(lab, AWAY)
    sh(
        lab,
        """mkdir -p /run/netns; touch /run/netns/lab /run/netns/odd; mkfifo /run/netns/fifo
        mount --bind /proc/$(cat /tmp/pid)/ns/net /run/netns/lab; kill $(cat /tmp/pid)
        while [ -d /proc/$(cat /tmp/pid) ]; do :; done
        for n in 1 2 3 4 5 6 7 8; do unshare -n sleep 100000 </dev/null >/dev/null 2>&1 & done""",
    )
    lab("dumm-bridge disconnect a-eth0")
    lab("dumm-bridge connect lan0 a-eth0")
    assert pings(lab, "b", "10.0.0.1")
    lab("dumm-iface delete a-eth0")
    lab("dumm-iface create a-eth0 --bridge lan0")
    assert look(lab, "a-eth0") == LIVE


#: Uses of a device in its guest.
USES = {
    "another device has its name": """ip link set eth0 down; ip link set eth0 name wan
        ip link set wan up; ip link add eth0 type dummy""",
    "bridge": "ip link add br0 type bridge; ip link set eth0 master br0; ip link set br0 up",
    "macvlan": "ip link add m0 link eth0 type macvlan; ip link set m0 up",
    "vlan": "ip link add link eth0 name eth0.5 type vlan id 5; ip link set eth0.5 up",
    "bond": """modprobe bonding max_bonds=0; echo +bond0 >/sys/class/net/bonding_masters
        echo 100 >/sys/class/net/bond0/bonding/miimon; ip link set eth0 down
        echo +eth0 >/sys/class/net/bond0/bonding/slaves; ip link set bond0 up""",
    "vrf": "ip link add red type vrf table 10; ip link set red up; ip link set eth0 master red",
}
MODULES = "for m in dummy bridge macvlan 8021q bonding vrf; do modprobe $m; done 2>/dev/null; "


def test_device_in_use(lab: Lab) -> None:
    for use, script in USES.items():
        sh(lab, f"set -e; {MODULES}{script}")
        for command in (
            "dumm-bridge disconnect a-eth0",
            "dumm-bridge connect lan0 a-eth0",
            "dumm-iface down a-eth0",
            "dumm-iface up a-eth0",
            "dumm-iface address add a-eth0 10.7.0.1/24",
            "dumm-iface set a-eth0 --mtu 1400",
            "dumm-iface shape a-eth0 --delay 1",
        ):
            assert lab(command).err == "", (use, command)
        assert lab("dumm-iface show a-eth0 -o state,actual").out == "up\tdelay=1\n", use
        lab("dumm-iface delete a-eth0")
        assert look(lab, "b-eth0") == DEAD
        masters = "/sys/class/net/bonding_masters"
        sh(lab, f"ip link del eth0 || ip link del br0 || echo -bond0 >{masters} || :")
        lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
        reaches(lab, "a", "10.0.0.2")
        lab("dumm-iface address del --if-exists a-eth0 10.7.0.1/24")
