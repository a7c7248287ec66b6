"""FRR's bfd_topo1: BFD ends BGP sessions over a link that fails without losing its carrier."""

from __future__ import annotations

import frr
import pytest

from dumm_tools import Lab

LOOPBACK = "10.254.254.{}"
#: The addresses and systems at the other ends of each router's links.
PEERS = {
    "r1": {"192.168.0.2": 102},
    "r2": {"192.168.0.1": 101, "192.168.1.1": 103, "192.168.2.1": 104},
    "r3": {"192.168.1.2": 102},
    "r4": {"192.168.2.2": 102},
}


def config(number: int) -> str:
    """The hold time is FRR's default of three minutes: only BFD is quicker."""
    lines = [
        f"router bgp {100 + number}",
        " no bgp ebgp-requires-policy",
        " no bgp network import-check",
    ]
    for address, system in PEERS[f"r{number}"].items():
        lines += [f" neighbor {address} remote-as {system}", f" neighbor {address} bfd"]
        lines += [f" neighbor {address} timers connect 1"]
    lines += [" address-family ipv4 unicast", f"  network 10.254.254.{number}/32"]
    return "\n".join([*lines, ""])


@pytest.fixture(scope="module", autouse=True)
def routers(lab: Lab) -> None:
    frr.start(lab, "bfdd", "bgpd", **{f"r{n}": config(n) for n in range(1, 5)})


@pytest.mark.parametrize("name", PEERS)
def test_peers(lab: Lab, name: str) -> None:
    for address in PEERS[name]:
        frr.shows(lab.guest(name), f"bfd peer {address}", '"status":"up"')


def test_prefixes(lab: Lab) -> None:
    for number in (2, 3, 4):
        frr.learns(lab.guest("r1"), f"10.254.254.{number}/32", via="192.168.0.2")
    frr.learns(lab.guest("r4"), "10.254.254.1/32", via="192.168.2.2")


def test_link_that_loses_everything(lab: Lab) -> None:
    r1, r2, r4 = (lab.guest(name) for name in ("r1", "r2", "r4"))
    lab.iface("r1-eth0").shape(loss=100)
    frr.shows(r2, "bfd peer 192.168.0.1", '"status":"down"')
    frr.shows(r2, "bgp neighbors 192.168.0.1", r'"lastNotificationReason":"Cease[^"]*BFD Down')
    for number in (2, 3, 4):
        frr.forgets(r1, f"10.254.254.{number}/32")
    frr.forgets(r4, "10.254.254.1/32")
    frr.learns(r4, "10.254.254.3/32", via="192.168.2.2")


def test_link_that_is_good_again(lab: Lab) -> None:
    lab.iface("r1-eth0").shape(clear=True)
    frr.learns(lab.guest("r4"), "10.254.254.1/32", via="192.168.2.2")
