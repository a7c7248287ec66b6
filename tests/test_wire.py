"""Programs that watch their links, on cables that are pulled: routing daemons, spanning tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import pytest
from support.checks import until
from support.labs import Lab

pytestmark = pytest.mark.uml


# ---- routing daemons ----

#: Nothing but a lost carrier ends an adjacency or a session within the test.
ROUTER = """\
interface eth0
 ip ospf network point-to-point
 ip ospf hello-interval 1
 ip ospf dead-interval 65535
router ospf
 network 10.0.0.0/8 area 0
router bgp 6500{0}
 bgp router-id 10.0.0.{0}
 no bgp ebgp-requires-policy
 neighbor 10.0.0.{1} remote-as 6500{1}
 neighbor 10.0.0.{1} timers 0 0
 neighbor 10.0.0.{1} timers connect 1
"""
DAEMONS = "for d in zebra ospfd bgpd; do /usr/lib/frr/$d -d; done; vtysh -b"


@pytest.fixture
def routers(new_lab: Callable[..., Lab], example_masters: Path) -> Iterator[Lab]:
    """Two guests with OSPF and BGP on a cable between them."""
    lab = new_lab()
    lab("dumm-guest create a b --master frr --memory 96M")
    lab("dumm-bridge create lan0")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
    lab("dumm-iface create b-eth0 --bridge lan0 --address 10.0.0.2/24")
    lab("dumm-guest start a b")
    for name, own, other in (("a", 1, 2), ("b", 2, 1)):
        file = lab.directory / "frr.conf"
        file.write_text(ROUTER.format(own, other))
        lab(["dumm-fs", "cp", str(file), f"{name}:/etc/frr/frr.conf"])
        lab(["dumm-guest", "exec", name, "--", "sh", "-c", DAEMONS])
    yield lab
    # Files of FRR's user may belong to a subordinate id, which only the guest's deletion removes.
    lab("dumm-guest stop --kill a b")
    lab("dumm-guest delete a b")


def test_routing_daemons_notice_a_pulled_cable(routers: Lab) -> None:
    """At both ends, and not only when a timer runs out."""

    def show(name: str, what: str) -> str:
        return routers(["dumm-guest", "exec", name, "--", "vtysh", "-c", f"show {what}"]).out

    def neighbours() -> list[bool]:
        return [" Full" in show(name, "ip ospf neighbor") for name in "ab"]

    def sessions() -> list[bool]:
        return ["state = Established" in show(name, "bgp neighbors") for name in "ab"]

    until(lambda: neighbours() == sessions() == [True, True], "the routers know each other")
    routers("dumm-bridge disconnect a-eth0")
    until(lambda: neighbours() == sessions() == [False, False], "both have noticed", 60)
    routers("dumm-bridge connect lan0 a-eth0")
    until(lambda: neighbours() == sessions() == [True, True], "they know each other again")


# ---- spanning tree ----

#: No IPv6, so that nothing circulates while the tree changes.
#: With the shortest times that the kernel accepts.
BRIDGE = """\
set -e
sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link add br0 type bridge
cd /sys/class/net/br0/bridge
echo 200 >forward_delay
echo 600 >max_age
echo 1 >stp_state
ip link set eth0 master br0
ip link set eth1 master br0
ip link set br0 up
ip address add 10.0.0.{}/24 dev br0
"""
DISABLED, FORWARDING, BLOCKING = "0", "3", "4"  # linux/if_bridge.h


def test_ring_with_spanning_tree_survives_a_pulled_cable(lab: Lab) -> None:
    names = "abc"
    lab(["dumm-guest", "create", *names])
    for here, there in ("ab", "bc", "ca"):
        lab(f"dumm-bridge create {here}{there}")
        lab(f"dumm-iface create {here}-eth1 {there}-eth0 --bridge {here}{there}")
        # Should a loop form on a busy machine, it must not starve the guests.
        lab(f"dumm-iface shape {here}-eth1 --rate 1mbit")
        lab(f"dumm-iface shape {there}-eth0 --rate 1mbit")
    lab(["dumm-guest", "start", *names])

    def run(name: str, script: str, status: int | None = 0) -> str:
        return lab(["dumm-guest", "exec", name, "--", "sh", "-c", script], status=status).out

    for n, name in enumerate(names, 1):
        run(name, BRIDGE.format(n))

    def states() -> dict[str, str]:
        found = {}
        for name in names:
            lines = run(name, "cat /sys/class/net/br0/brif/*/state").split()
            found[f"{name}-eth0"], found[f"{name}-eth1"] = lines
        return found

    def settled(pulled: tuple[str, ...]) -> bool:
        """Whether the ends of the pulled cable are disabled, and the others form a tree."""
        found = states()
        rest = sorted(state for port, state in found.items() if port not in pulled)
        tree = [FORWARDING] * 4 if pulled else [FORWARDING] * 5 + [BLOCKING]
        return rest == tree and all(found[port] == DISABLED for port in pulled)

    def answer() -> bool:
        return all(
            "1 packets received" in run(names[i], f"ping -c 1 -W 1 10.0.0.{j + 1}", None)
            for i, j in permutations(range(3), 2)
        )

    until(lambda: settled(()) and answer(), "the ring is a tree")
    before = states()
    cables = [(f"{here}-eth1", f"{there}-eth0") for here, there in ("ab", "bc", "ca")]
    pulled = next(c for c in cables if all(before[port] == FORWARDING for port in c))
    lab(f"dumm-bridge disconnect {pulled[0]}")
    until(lambda: settled(pulled) and answer(), f"a tree without {pulled}", 60)
