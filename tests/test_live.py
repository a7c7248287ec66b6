"""Fields that are asked of running guests: `list` and `show` stay quick, and never fail."""

from __future__ import annotations

import json
import os
import signal

import pytest
from support import SUITES
from support.labs import Lab

LIVE = "live_mac,live_mtu,actual"


@pytest.mark.uml
@pytest.mark.parametrize("suite", SUITES)
def test_live_fields_show_what_the_guest_has_set(lab: Lab, suite: str) -> None:
    lab(f"dumm-guest create a --kernel {suite}")
    lab("dumm-guest create b")
    lab("dumm-iface create a-eth0 --mac 02:00:00:00:00:01")
    lab("dumm-iface create a-eth1 --mtu 9000 --mac 02:00:00:00:00:02")
    lab("dumm-iface create b-eth0 --mac 02:00:00:00:00:03")
    lab("dumm-guest start a")
    lab("dumm-iface shape a-eth1 --loss 1%")
    wanted = [
        "a-eth0\t02:00:00:00:00:01\t1500\t-",
        "a-eth1\t02:00:00:00:00:02\t9000\tloss=1",
        "b-eth0\t-\t-\t-",
    ]
    assert lab(f"dumm-iface list -o name,{LIVE}").lines == wanted
    for command in (
        "ip link set eth0 down",
        "ip link set eth0 address 02:00:00:00:00:99",
        "ip link set eth0 mtu 1400",
        "ip link set eth0 name lan",
        "ip link set eth1 mtu 1300",
    ):
        lab(f"dumm-guest exec a -- {command}")
    wanted[0] = "a-eth0\t02:00:00:00:00:99\t1400\t-"
    wanted[1] = "a-eth1\t02:00:00:00:00:02\t1300\tloss=1"
    assert lab(f"dumm-iface list -o name,{LIVE}").lines == wanted
    assert lab("dumm-iface list -o mac,mtu").lines[0] == "02:00:00:00:00:01\t1500"
    (shown,) = json.loads(lab("dumm-iface show a-eth0 --format json").out)
    assert (shown["live_mac"], shown["live_mtu"]) == ("02:00:00:00:00:99", 1400)
    assert (shown["mac"], shown["mtu"]) == ("02:00:00:00:00:01", 1500)
    # A guest's kernel allows neither of these (dumm-iface(1)).
    lab("dumm-guest exec a -- ip link set eth1 up")
    lab("dumm-guest exec a -- ip link set eth1 mtu 9000", status=2)
    lab("dumm-guest exec a -- ip link set eth1 address 02:00:00:00:00:98", status=2)


@pytest.mark.uml
def test_what_guests_use(lab: Lab) -> None:
    lab.batch("guest create a b", "bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
    use, traffic = "uptime,cpu_seconds,memory_used", "rx_packets,tx_packets,rx_dropped,tx_dropped"
    assert lab(f"dumm-guest list -o {use}").lines == ["-\t-\t-"] * 2
    assert lab(f"dumm-iface list -o {traffic}").lines == ["-\t-\t-\t-"]
    lab("dumm-guest start a")
    lab("dumm-guest exec a -- ping -c 3 -i 0.1 10.0.0.254")
    row, other = lab(f"dumm-guest list -o {use}").lines
    assert other == "-\t-\t-"
    uptime, seconds, memory = map(float, row.split("\t"))
    assert uptime >= 0
    assert seconds > 0
    assert 1 << 22 < memory < 1 << 27
    # More is more.
    lab("dumm-guest exec a -- dd if=/dev/zero of=/tmp/x bs=1M count=20")
    assert int(lab("dumm-guest show a -o memory_used").out) > memory + (10 << 20)
    numbers = [int(n) for n in lab(f"dumm-iface show a-eth0 -o {traffic}").out.split("\t")]
    assert min(numbers[:2]) >= 3
    assert "uptime" not in lab("dumm-guest list --format json").out


@pytest.mark.attack("silence")
@pytest.mark.uml
def test_silent_guests_are_asked_once_and_the_others_answer(lab: Lab) -> None:
    lab("dumm-guest create a b c --start")
    lab("dumm-iface create a-eth0 a-eth1 b-eth0 c-eth0")
    macs = dict(row.split("\t") for row in lab("dumm-iface list -o name,mac").lines)
    lab("dumm-guest pause b")
    pid = int(lab("dumm-guest show a -o pid").out)
    os.kill(pid, signal.SIGSTOP)
    try:
        # Nobody is asked for these: a would delay them.
        assert "live_mac" not in json.loads(lab("dumm-iface list --format json").out)[0]
        assert "LIVE_MAC" not in lab("dumm-iface list").out
        found = dict(row.split("\t") for row in lab("dumm-iface list -o name,live_mac").lines)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found == {"a-eth0": "-", "a-eth1": "-", "b-eth0": "-", "c-eth0": macs["c-eth0"]}
    found = dict(row.split("\t") for row in lab("dumm-iface list -o name,live_mac").lines)
    assert found == {**macs, "b-eth0": "-"}
