"""FRR's bgp_rr_ibgp: a route reflector without an IGP, and a leaf that is cut off."""

from __future__ import annotations

import frr
import pytest

from dumm_tools import Lab

LEAF = """
router bgp 99
 neighbor {spine} remote-as internal
 neighbor {spine} timers 1 5
 neighbor {spine} timers connect 1
 address-family ipv4 unicast
  redistribute connected
"""
SPINE = """
router bgp 99
 neighbor leaves peer-group
 neighbor leaves remote-as internal
 neighbor leaves timers 1 5
 neighbor leaves timers connect 1
 neighbor 192.168.2.1 peer-group leaves
 neighbor 192.168.4.2 peer-group leaves
 address-family ipv4 unicast
  redistribute connected
  neighbor leaves route-reflector-client
"""


@pytest.fixture(scope="module", autouse=True)
def fabric(lab: Lab) -> None:
    tor1, tor2 = LEAF.format(spine="192.168.2.3"), LEAF.format(spine="192.168.4.3")
    frr.start(lab, "bgpd", tor1=tor1, tor2=tor2, spine1=SPINE)


@pytest.mark.parametrize("name", ["tor1", "tor2"])
def test_leaves_have_a_session_with_the_spine_alone(lab: Lab, name: str) -> None:
    summary = r'"state":"Established".*"failedPeers":0,.*"totalPeers":1'
    frr.shows(lab.guest(name), "bgp ipv4 unicast summary", summary)


def test_routes_are_reflected(lab: Lab) -> None:
    tor1, tor2 = lab.guest("tor1"), lab.guest("tor2")
    frr.learns(tor1, "192.168.3.0/24", via="192.168.2.3")
    frr.learns(tor2, "192.168.1.0/24", via="192.168.4.3")
    frr.shows(tor1, "bgp ipv4 unicast 192.168.3.0/24", '"originatorId":"192.168.4.2"')
    tor1.run(["ping", "-c1", "-W30", "192.168.3.2"], check=True)


def test_segment_down(lab: Lab) -> None:
    lab.bridge("sw4").down()
    frr.forgets(lab.guest("tor1"), "192.168.3.0/24")
    frr.forgets(lab.guest("tor2"), "192.168.1.0/24")


def test_segment_up(lab: Lab) -> None:
    lab.bridge("sw4").up()
    frr.learns(lab.guest("tor1"), "192.168.3.0/24", via="192.168.2.3")
    frr.learns(lab.guest("tor2"), "192.168.1.0/24", via="192.168.4.3")
