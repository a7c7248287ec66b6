"""Routes: what is recorded and rejected; routes in guests that start, change and lose links."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SUITES
from support.checks import until
from support.labs import Lab, recorded

from dumm_tools import address, statefile
from dumm_tools.agent import protocol
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.net import iface, nic, route

# ---- records ----


@pytest.fixture
def labdir(tmp_path: Path) -> str:
    """A working set with the stopped guest alice, which has eth0 and eth1."""
    labdir = recorded(tmp_path, "alice")
    iface.create(labdir, "alice-eth0", addresses=["10.0.0.1/24", "fd00::1/64"])
    iface.create(labdir, "alice-eth1", addresses=["10.1.0.1/24"])
    return labdir


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.0/24", "10.0.0.0/24"),
        ("10.0.0.7", "10.0.0.7/32"),
        ("FD00:0::/32", "fd00::/32"),
        ("fd00::7", "fd00::7/128"),
        ("::/0", "::/0"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_destinations_are_normalized(text: str, wanted: str) -> None:
    assert address.network(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "/", "10.0.0.0/", "10.0.0.1/24", "10.0.0.0/33", "fd00::1/64", "host", "10/8", "::/129"],
)
def test_bad_destinations_are_rejected(text: str) -> None:
    with pytest.raises(Usage):
        address.network(text)


REFUSED: list[tuple[type[DummError], str, str, str | None]] = [
    (Usage, "alice-eth0", "default", None),
    (Usage, "alice-eth0", "default", "10.9.0.1"),
    (Usage, "alice-eth0", "default", "10.1.0.2"),
    (Usage, "alice-eth0", "default", "10.0.0.1"),
    (Usage, "alice-eth0", "default", "224.0.0.1"),
    (Usage, "alice-eth0", "default", "10.0.0.2/24"),
    (Usage, "alice-eth1", "fd01::/64", "fd00::2"),
    (Usage, "alice-eth0", "fd01::/64", "10.0.0.2"),
    (NotFound, "alice-eth2", "default", "10.0.0.2"),
    (NotFound, "bob-eth0", "default", "10.0.0.2"),
    (Usage, "alice", "default", "10.0.0.2"),
    (Conflict, "alice-eth0", "10.7.0.0/16", "10.0.0.2"),
    (Conflict, "alice-eth1", "10.7.0.0/16", "10.1.0.2"),
    (Conflict, "alice-eth1", "10.0.0.0/24", None),
    # In the kernel it would replace the route to the gateway itself.
    (Conflict, "alice-eth0", "10.0.0.0/24", "10.0.0.2"),
    (Conflict, "alice-eth0", "fd00::/64", "fd00::2"),
    (Usage, "alice-eth0", "10.8.0.0/16", "10.0.0.0"),
    (Usage, "alice-eth0", "10.8.0.0/16", "10.0.0.255"),
]


@pytest.mark.parametrize(("error", "name", "dest", "via"), REFUSED)
def test_rejected_changes_leave_the_state_alone(
    labdir: str, error: type[DummError], name: str, dest: str, via: str | None
) -> None:
    route.add(labdir, "alice-eth0", "10.7.0.0/16", via=["10.0.0.2"])
    before = Path(labdir, statefile.FILE).read_text()
    with pytest.raises(error):
        route.add(labdir, name, dest, via=[via] if via else [])
    assert Path(labdir, statefile.FILE).read_text() == before


def test_routes_are_recorded_and_listed(labdir: str) -> None:
    route.add(labdir, "alice-eth0", "default", via=["10.0.0.2"])
    route.add(labdir, "alice-eth0", "default", via=["10.0.0.2"], may_exist=True)
    route.add(labdir, "alice-eth0", "default", via=["fe80::1"])
    route.add(labdir, "alice-eth1", "192.168.0.0/16")
    seen = [(v.family, v.shown, v.via, v.iface) for v in route.list_(labdir, "alice")]
    assert seen == [
        ("inet", "192.168.0.0/16", None, "alice-eth1"),
        ("inet", "default", "10.0.0.2", "alice-eth0"),
        ("inet6", "default", "fe80::1", "alice-eth0"),
    ]
    with pytest.raises(Usage, match="both address families"):
        route.delete(labdir, "alice-eth0", "default")
    route.delete(labdir, "alice-eth0", "::/0")
    with pytest.raises(NotFound):
        route.delete(labdir, "alice-eth0", "default", via=["10.0.0.3"])
    route.delete(labdir, "alice-eth0", "default")
    route.delete(labdir, "alice-eth0", "default", if_exists=True)
    assert [v.dest for v in route.list_(labdir, "alice")] == ["192.168.0.0/16"]
    with pytest.raises(Conflict):
        route.list_(labdir, "alice", ask_guest=True)


def test_link_that_stays_down_has_no_routes_at_boot(labdir: str) -> None:
    def kinds() -> list[int]:
        records = nic.boot_records(statefile.load(labdir), "alice")
        messages = [data for kind, _, data in records if kind == protocol.BOOT_NETLINK]
        routes = [data[4 * n :] for kind, n, data in records if kind == protocol.BOOT_ROUTE]
        return [int.from_bytes(data[4:6], "little") for data in messages + routes]

    iface.set_up(labdir, "alice-eth0", False)
    route.add(labdir, "alice-eth0", "default", via=["10.0.0.2"])
    route.add(labdir, "alice-eth0", "192.168.0.0/16")
    assert kinds().count(24) == 0
    iface.set_up(labdir, "alice-eth0", True)
    assert kinds().count(24) == 2
    iface.del_addresses(labdir, "alice-eth0", ["10.0.0.1/24"])
    assert kinds().count(24) == 1


# ---- guests ----


def live(lab: Lab, guest: str) -> set[str]:
    """The routes by a gateway in a guest's kernel, as `DEST via GW`."""
    done = lab(f"dumm-iface route list {guest} --live -o dest,via")
    return {" via ".join(row.split("\t")) for row in done.lines if not row.endswith("\t-")}


def pings(lab: Lab, guest: str, host: str, wait: int = 30) -> bool:
    return lab(f"dumm-guest exec {guest} -- ping -c1 -W{wait} {host}", status=None).code == 0


ROUTES = {"default via 10.0.0.254", "fd01::/64 via fd00::fe"}


@pytest.fixture
def routed(new_lab: Callable[..., Lab]) -> Callable[[str], Lab]:
    """Make a lab where a reaches b through the router r; a's routes were set before it started, b's
    afterwards."""

    def make(suite: str) -> Lab:
        lab = new_lab(kernel=suite)
        lab("dumm-bridge create lan0 lan1")
        lab("dumm-guest create a r b")
        for name, net, host in (
            *(("a-eth0", 0, 1), ("r-eth0", 0, 254), ("r-eth1", 1, 254), ("b-eth0", 1, 1)),
        ):
            both = f"--address 10.{net}.0.{host}/24 --address fd0{net}::{host:x}/64"
            lab(f"dumm-iface create {name} --bridge lan{net} {both}")
        lab("dumm-iface route add a-eth0 default --via 10.0.0.254")
        lab("dumm-iface route add a-eth0 fd01::/64 --via fd00::fe")
        lab("dumm-guest start --all")
        lab("dumm-iface route add b-eth0 default --via 10.1.0.254")
        lab("dumm-iface route add b-eth0 default --via fd01::fe")
        forward = (
            "for f in 4/ip_forward 6/conf/all/forwarding; do echo 1 >/proc/sys/net/ipv$f; done"
        )
        lab(["dumm-guest", "exec", "r", "--", "sh", "-c", forward])
        return lab

    return make


@pytest.mark.uml
@pytest.mark.parametrize("suite", SUITES)
def test_guests_reach_each_other_through_a_router(routed: Callable[[str], Lab], suite: str) -> None:
    lab = routed(suite)
    assert pings(lab, "a", "10.1.0.1")
    # It takes a second or two until a router's own link-local address can be used.
    until(lambda: pings(lab, "a", "fd01::1", 1), "IPv6 through the router")
    assert live(lab, "a") == ROUTES
    assert live(lab, "b") == {"default via 10.1.0.254", "default via fd01::fe"}
    lab("dumm-guest restart b")
    both = ("10.1.0.1", "fd01::1")
    until(lambda: all(pings(lab, "a", host, 1) for host in both), "both after restart")
    lab("dumm-iface route del b-eth0 default --via 10.1.0.254")
    assert not pings(lab, "a", "10.1.0.1", 1)
    assert live(lab, "b") == {"default via fd01::fe"}
    assert "errno" not in lab.logs()


@pytest.mark.uml
def test_routes_come_back_with_the_link(routed: Callable[[str], Lab]) -> None:
    lab = routed("sid")
    for gone, back in (
        ("dumm-iface down a-eth0", "dumm-iface up a-eth0"),
        ("dumm-bridge disconnect a-eth0", "dumm-bridge connect lan0 a-eth0"),
        ("dumm-guest stop a", "dumm-guest start a"),
    ):
        lab(gone)
        if "stop" not in gone:
            # A route stays without a carrier.
            assert live(lab, "a") == (ROUTES if "disconnect" in gone else set())
        lab(back)
        assert live(lab, "a") == ROUTES, back
        assert pings(lab, "a", "10.1.0.1")
    for change in ("--mtu 9000", "--mac 02:00:00:00:00:77", "--mtu 1500"):
        lab(f"dumm-iface set a-eth0 {change}")
        assert live(lab, "a") == ROUTES, change
    lab("dumm-iface route add a-eth0 10.9.0.0/16 --via 10.0.0.253")
    lab("dumm-iface address del a-eth0 10.0.0.1/24")
    assert live(lab, "a") == {"fd01::/64 via fd00::fe"}
    lab("dumm-guest restart a")
    assert live(lab, "a") == {"fd01::/64 via fd00::fe"}
    lab("dumm-iface address add a-eth0 10.0.0.1/24")
    assert live(lab, "a") == {*ROUTES, "10.9.0.0/16 via 10.0.0.253"}
    # A guest can change its routes itself; the record stays.
    lab("dumm-guest exec a -- ip route del default")
    assert live(lab, "a") == {"fd01::/64 via fd00::fe", "10.9.0.0/16 via 10.0.0.253"}
    lab("dumm-iface route add a-eth0 default --via 10.0.0.254 --may-exist")
    assert "default via 10.0.0.254" in live(lab, "a")
    lab("dumm-guest exec a -- ip route del default")
    lab("dumm-iface route del a-eth0 default")
    lab("dumm-guest pause a")
    done = lab("dumm-iface route add a-eth0 default --via 10.0.0.254", status=4)
    assert done.err == "dumm-iface: guest 'a' is paused\n"
    lab("dumm-guest resume a")


@pytest.mark.uml
def test_gateway_reached_by_another_route(lab: Lab) -> None:
    """As for a machine with a single address: the gateway is on the segment, but in no network of
    the interface."""
    lab("dumm-guest create a")
    lab("dumm-bridge create lan0")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/32")
    lab("dumm-iface route add a-eth0 default --via 10.9.0.254", status=2)
    lab("dumm-iface route add a-eth0 10.9.0.254")
    lab("dumm-iface route add a-eth0 default --via 10.9.0.254")
    both = {"default via 10.9.0.254"}
    assert lab("dumm-guest start a").err == ""
    assert live(lab, "a") == both
    lab("dumm-iface route add a-eth0 10.4.0.0/16 --via 10.9.0.254")
    lab("dumm-iface route del a-eth0 10.4.0.0/16")
    lab("dumm-iface route del a-eth0 10.9.0.254")
    assert live(lab, "a") == set()
    assert lab("dumm-guest restart a").err == ""
    assert live(lab, "a") == set()
    lab("dumm-iface route add a-eth0 10.9.0.254")
    assert live(lab, "a") == both
    # It is recorded after the route that it depends on.
    assert lab("dumm-guest restart a").err == ""
    assert live(lab, "a") == both


@pytest.mark.uml
def test_guest_with_links_that_are_down_boots_without_errors(lab: Lab) -> None:
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0 --address 10.0.0.1/24 --address fd00::1/64")
    lab("dumm-iface route add a-eth0 default --via 10.0.0.2")
    lab("dumm-iface route add a-eth0 fd01::/64 --via fd00::2")
    lab("dumm-iface down a-eth0")
    assert lab("dumm-guest start a").err == ""
    assert live(lab, "a") == set()
    lab("dumm-iface up a-eth0")
    assert live(lab, "a") == {"default via 10.0.0.2", "fd01::/64 via fd00::2"}
    rows = json.loads(lab("dumm-iface route list a --format json").out)
    assert rows[0] == {
        "dest": "default",
        "via": "10.0.0.2",
        "iface": "a-eth0",
        "guest": "a",
        "device": "eth0",
        "family": "inet",
        "metric": None,
        "table": "main",
        "kind": "unicast",
        "src": None,
        "weight": 1,
        "onlink": False,
    }
    devices = lab("dumm-iface route list a --live -o device,iface").lines
    assert "eth0\ta-eth0" in devices
    lab("dumm-iface route list b", status=3)
