"""FRR's ospf_topo1: two areas, and a router that loses its link to one of them."""

from __future__ import annotations

import frr
import pytest

from dumm_tools import Lab

AREA_0 = ("10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.10.0/24")
AREA_1 = ("172.16.0.0/24", "172.16.1.0/24")
#: Much quicker than the defaults, with which a change may take seconds.
TIMERS = " timers throttle spf 0 50 500\n timers throttle lsa all 100\n timers lsa min-arrival 50\n"


def config(number: int) -> str:
    devices = "".join(
        f"interface eth{n}\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n" for n in range(3)
    )
    networks = "".join(f" network {each} area 0\n" for each in AREA_0)
    networks += "".join(f" network {each} area 1\n" for each in AREA_1)
    return f"{devices}router ospf\n ospf router-id 10.0.255.{number}\n{TIMERS}{networks}"


@pytest.fixture(scope="module", autouse=True)
def routers(lab: Lab) -> None:
    frr.start(lab, "ospfd", **{f"r{n}": config(n) for n in range(1, 5)})


@pytest.mark.parametrize(
    ("name", "neighbors"), [("r1", "23"), ("r2", "13"), ("r3", "124"), ("r4", "3")]
)
def test_neighbors(lab: Lab, name: str, neighbors: str) -> None:
    for number in neighbors:
        frr.shows(lab.guest(name), "ip ospf neighbor", rf'"10.0.255.{number}":[^]]*"Full')


def test_routes(lab: Lab) -> None:
    for name in ("r1", "r2"):
        for prefix in ("10.0.10.0/24", *AREA_1):
            frr.learns(lab.guest(name), prefix, via="10.0.3.1")
    frr.learns(lab.guest("r3"), "172.16.1.0/24", via="172.16.0.1")
    for prefix in AREA_0:
        frr.learns(lab.guest("r4"), prefix, via="172.16.0.2")
    lab.guest("r1").run(["ping", "-c1", "-W30", "172.16.1.100"], check=True)


def test_area_border(lab: Lab) -> None:
    full = '"nbrFullAdjacentCounter":'
    areas = rf'"0.0.0.0":.*{full}2,.*"0.0.0.1":.*{full}1,'
    frr.shows(lab.guest("r3"), "ip ospf", areas)


def test_link_down(lab: Lab) -> None:
    lab.iface("r3-eth0").disconnect()
    for name in ("r1", "r2"):
        for prefix in ("10.0.10.0/24", *AREA_1):
            frr.forgets(lab.guest(name), prefix)
    frr.learns(lab.guest("r1"), "10.0.2.0/24", via="10.0.3.3")
    for prefix in AREA_0[:3]:
        frr.forgets(lab.guest("r4"), prefix)
    frr.learns(lab.guest("r4"), "10.0.10.0/24", via="172.16.0.2")


def test_link_up(lab: Lab) -> None:
    lab.iface("r3-eth0").connect("s3")
    frr.learns(lab.guest("r1"), "172.16.1.0/24", via="10.0.3.1")
    frr.learns(lab.guest("r4"), "10.0.1.0/24", via="172.16.0.2")
