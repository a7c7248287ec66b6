"""Labs where /sys shows another network namespace than the one that they are in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from support import PATIENCE
from support.checks import one_line_error, until
from support.labs import Lab

pytestmark = [pytest.mark.netns, pytest.mark.root]

#: Runs a command as root without the right to mount anything.
NO_MOUNTS = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]


@pytest.fixture
def elsewhere() -> Iterator[list[str]]:
    """Runs a command in a new network namespace, with the session's /sys."""
    sleep = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
    place = f"/proc/{sleep.pid}/ns/net"
    until(lambda: os.readlink(place) != os.readlink("/proc/self/ns/net"), "there is a namespace")
    yield ["nsenter", f"--net={place}"]
    sleep.kill()
    sleep.wait(PATIENCE)


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge of somebody else, in the session's own network namespace."""
    subprocess.run(["ip", "link", "add", "lan0", "type", "bridge"], check=True)
    yield "lan0"
    subprocess.run(["ip", "link", "del", "lan0"], check=True)


@pytest.mark.uml
def test_lab_below_unshare_or_nsenter(elsewhere: list[str], bridge: str, lab: Lab) -> None:
    lab.prefix = elsewhere
    assert not os.path.exists("/sys/class/net/lan1")
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-bridge create lan1")
    lab("dumm-guest create a b")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
    lab("dumm-guest start --all")
    lab("dumm-iface create b-eth0 --bridge lan0 --address 10.0.0.2/24")
    lab("dumm-guest exec a -- ping -c1 -W30 10.0.0.2")
    lab("dumm-guest exec a -- ping -c1 -W30 10.0.0.254")
    assert lab("dumm-iface list -o name,state").out == "a-eth0\tup\nb-eth0\tup\n"
    assert lab("dumm-bridge list -o name,state").out == "lan0\tup\nlan1\tup\n"
    lab("dumm-bridge connect lan1 a-eth0 b-eth0")
    lab("dumm-guest exec a -- ping -c1 -W30 10.0.0.2")
    assert lab("dumm-bridge uplink lan1 --to a-eth0", status=None).code != 0
    done = lab(["dumm-bridge", "uplink", "lan1", "--to", "eth0"], status=3)
    assert "eth0" in one_line_error(done.err, "dumm-bridge")
    lab("dumm-guest stop b")
    assert lab("dumm-iface list -o name,state").out == "a-eth0\tup\nb-eth0\tdown\n"
    lab("dumm-bridge delete lan0")
    lab("dumm-fs destroy")
    assert lab("ip -o link").out.count("\n") == 1
    assert os.path.exists(f"/sys/class/net/{bridge}")


def test_same_where_nothing_may_be_mounted(elsewhere: list[str], bridge: str, lab: Lab) -> None:
    lab.prefix = [*NO_MOUNTS, "--"]
    lab("dumm-bridge create lan1")
    assert lab("dumm-bridge list -o name,state").out == "lan1\tup\n"
    done = lab("dumm-bridge create lan0", status=4)
    assert "does not belong to this lab" in one_line_error(done.err, "dumm-bridge")
    lab.prefix = [*elsewhere, *NO_MOUNTS, "--"]
    for command in ("create lan2", "list -o state", "delete lan1"):
        done = lab(f"dumm-bridge {command}", status=1)
        assert "another network namespace" in one_line_error(done.err, "dumm-bridge")
    lab.prefix = []
    assert lab("dumm-bridge list -q").out == "lan1\n"
    lab("dumm-bridge delete lan1")


def test_same_with_ip_netns(lab: Lab, bridge: str) -> None:
    name = f"test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        lab.prefix = ["ip", "netns", "exec", name]
        lab("dumm-bridge create lan0")
        assert lab("dumm-bridge list -o name,state").out == "lan0\tup\n"
        lab("dumm-fs destroy")
        assert lab("ip -o link").out.count("\n") == 1
    finally:
        lab.prefix = []
        subprocess.run(["ip", "netns", "del", name], check=True)
        subprocess.run(["umount", "/run/netns"], check=True)
