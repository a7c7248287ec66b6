"""Routes with metrics, tables, several gateways, or none; and rules that choose among tables."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PLACES, ROOT
from support.labs import Lab, recorded

from dumm_tools import routing, statefile
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.net import iface, route, rule

# ---- records ----


@pytest.fixture
def labdir(tmp_path: Path) -> str:
    """A working set with the stopped guest alice, which has eth0 and eth1."""
    labdir = recorded(tmp_path, "alice")
    iface.create(labdir, "alice-eth0", addresses=["10.0.0.1/24", "fd00::1/64"])
    iface.create(labdir, "alice-eth1", addresses=["10.1.0.1/24", "fd01::1/64"])
    return labdir


#: Routes that alice-eth0 cannot have: destination, options, and a part of the message.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("127.0.0.0/8", {}, "loopback"),
    ("127.0.0.1", {"via": ["10.0.0.2"]}, "loopback"),
    ("::1", {}, "loopback"),
    ("0.0.0.0", {}, "is not a destination"),
    ("::", {}, "is not a destination"),
    ("255.255.255.255", {}, "never routed"),
    ("10.0.0.1/0", {}, "host bits"),
    ("224.0.0.0/4", {"via": ["10.0.0.2"]}, "multicast"),
    ("239.1.2.3", {"via": ["10.0.0.2"]}, "multicast"),
    ("ff00::/8", {"via": ["fd00::2"]}, "multicast"),
    ("ff05::/16", {}, "the table 'local' first"),
    ("fe80::/64", {"via": ["fd00::2"]}, "link-local"),
    ("10.9.0.0/16", {"table": "local"}, "the kernel's own"),
    ("10.9.0.0/16", {"table": "0"}, "bad table"),
    ("10.9.0.0/16", {"table": "4294967296"}, "bad table"),
    ("10.9.0.0/16", {"table": "mine"}, "bad table"),
    ("10.9.0.0/16", {"via": ["127.0.0.1"]}, "cannot be a gateway"),
    ("10.9.0.0/16", {"via": ["::1"]}, "cannot be a gateway"),
    ("10.9.0.0/16", {"via": ["10.1.0.1"]}, "an address of 'alice-eth1' itself"),
    ("10.9.0.0/16", {"via": ["192.168.0.1"]}, "not in any network"),
    ("10.9.0.0/16", {"via": ["fd05::2"]}, "not in any network"),
    ("fd09::/64", {"via": ["10.0.0.2"]}, "different address families"),
    ("10.9.0.0/16", {"onlink": True}, "--onlink is for a gateway"),
    ("10.9.0.0/16", {"via": ["10.0.0.2,weight=2"]}, "several gateways"),
    ("10.9.0.0/16", {"via": ["10.0.0.2", "10.0.0.2"]}, "given twice"),
    ("10.9.0.0/16", {"via": ["10.0.0.2", "10.0.0.3,weight=0"]}, "bad weight"),
    ("10.9.0.0/16", {"via": ["10.0.0.2", "10.0.0.3,weight=257"]}, "bad weight"),
    ("10.9.0.0/16", {"via": ["10.0.0.2,device=eth1"]}, "bad gateway"),
    ("10.9.0.0/16", {"via": ["10.0.0.2,dev"]}, "bad gateway"),
    ("10.9.0.0/16", {"via": ["10.0.0.2,dev=a b"]}, "bad device name"),
    ("10.9.0.0/16", {"via": ["10.0.0.2", "10.1.0.2,dev=eth7"]}, "no interface 'alice-eth7'"),
    ("10.9.0.0/16", {"via": ["10.0.0.2", "10.1.0.2"]}, "not in any network that 'alice-eth0'"),
    ("10.9.0.0/16", {"via": ["10.1.0.2,dev=eth1"]}, "no gateway is behind 'alice-eth0'"),
    ("10.9.0.0/16", {"src": "10.0.0.9"}, "has no address '10.0.0.9'"),
    ("10.9.0.0/16", {"src": "fd00::1"}, "different families"),
    ("10.9.0.0/16", {"src": "x"}, "bad source address"),
    ("10.9.0.0/16", {"via": ["10.0.0.2"], "kind": "blackhole"}, "has no gateway"),
    ("default", {"kind": "unreachable"}, "either address family"),
]


@pytest.mark.parametrize(("dest", "options", "message"), REFUSED)
def test_nonsense_is_refused(labdir: str, dest: str, options: dict[str, Any], message: str) -> None:
    before = Path(labdir, statefile.FILE).read_text()
    with pytest.raises(Usage, match=message.replace("(", r"\(")):
        route.add(labdir, "alice-eth0", dest, **options)
    assert Path(labdir, statefile.FILE).read_text() == before


@pytest.mark.parametrize("text", ["10.0.0.1/0", "fd00::1/0"])
def test_interfaces_are_not_on_a_segment_with_everybody(labdir: str, text: str) -> None:
    with pytest.raises(Usage, match="would make every address a neighbour"):
        iface.add_addresses(labdir, "alice-eth0", [text])


def rows(labdir: str) -> list[tuple[object, ...]]:
    return [
        (v.kind, v.shown, v.via, v.iface, v.metric, v.table, v.weight)
        for v in route.list_(labdir, "alice")
    ]


def test_what_distinguishes_routes(labdir: str) -> None:
    def add(dest: str, **options: Any) -> None:
        route.add(labdir, "alice-eth0", dest, **options)

    add("default", via=["10.0.0.2"])
    add("default", via=["10.0.0.3"], metric=100)
    add("default", via=["10.0.0.3"], table="7")
    add("0.0.0.0/0", via=["fe80::1"], metric=101)
    for options in ({}, {"metric": 0}, {"metric": 100}, {"table": "7"}):
        with pytest.raises(Conflict, match="already has a route"):
            add("default", via=["10.0.0.4"], **options)
    with pytest.raises(Conflict):
        route.add(labdir, "alice-eth1", "0.0.0.0/0", kind="blackhole")
    add("default", via=["10.0.0.3"], metric=100, may_exist=True)
    assert len(rows(labdir)) == 4
    for gateways in ([], ["10.0.0.3"]):
        with pytest.raises(Usage, match="several routes"):
            route.delete(labdir, "alice-eth0", "default", via=gateways)
    with pytest.raises(NotFound):
        route.delete(labdir, "alice-eth0", "default", metric=99)
    route.delete(labdir, "alice-eth0", "default", table="7")
    route.delete(labdir, "alice-eth0", "default", metric=0)
    route.delete(labdir, "alice-eth0", "default", via=["fe80::1"])
    assert rows(labdir) == [("unicast", "default", "10.0.0.3", "alice-eth0", 100, 254, 1)]
    # IPv6 routes without a metric have 1024.
    add("fd09::/64", via=["fd00::2"])
    with pytest.raises(Conflict):
        add("fd09::/64", via=["fd00::3"], metric=1024)
    route.delete(labdir, "alice-eth0", "fd09::/64", metric=1024)
    # The kernel's own routes keep their place only without a metric.
    for wanted in ({"kind": "blackhole"}, {"via": ["10.0.0.2"]}):
        with pytest.raises(Conflict, match="because of its address"):
            add("10.1.0.0/24", **wanted)
    add("10.1.0.0/24", via=["10.0.0.2"], metric=5)
    add("224.0.0.0/4")
    add("ff05::/16", table="local")


def test_route_keeps_its_other_gateways_when_an_interface_is_deleted(labdir: str) -> None:
    iface.create(labdir, "alice-eth2", addresses=["10.2.0.1/24"])
    several = ["10.0.0.2", "10.1.0.2,dev=eth1,weight=2", "10.2.0.2,dev=eth2,weight=3"]
    route.add(labdir, "alice-eth0", "default", via=several, metric=9)
    route.add(labdir, "alice-eth0", "10.9.0.0/16", kind="unreachable")
    own = ["10.0.0.2,dev=eth0", "10.0.0.3"]
    route.add(labdir, "alice-eth0", "10.8.0.0/16", via=own)
    iface.delete(labdir, "alice-eth0")
    common = ("unicast", "default")
    assert rows(labdir) == [
        (*common, "10.1.0.2", "alice-eth1", 9, 254, 2),
        (*common, "10.2.0.2", "alice-eth2", 9, 254, 3),
    ]
    route.delete(labdir, "alice-eth1", "default", via=["10.2.0.2,dev=eth2"], if_exists=True)
    assert rows(labdir) == []
    route.add(labdir, "alice-eth1", "default", via=["10.1.0.2", "10.2.0.2,dev=eth2"])
    iface.delete(labdir, "alice-eth2")
    assert rows(labdir) == [(*common, "10.1.0.2", "alice-eth1", None, 254, 1)]
    stored = statefile.load(labdir).ifaces["alice-eth1"].routes
    assert stored == [{"dest": "0.0.0.0/0", "via": "10.1.0.2"}]


BAD_RULES: list[tuple[dict[str, Any], str]] = [
    ({"source": "10.0.0.0/8"}, "needs a table"),
    ({"table": "5", "kind": "prohibit"}, "has no table"),
    ({"table": "x"}, "bad table"),
    ({"table": "5", "source": "10.0.0.1/8"}, "host bits"),
    ({"table": "5", "source": "10.0.0.0/8", "dest": "fd00::/8"}, "different families"),
    ({"table": "5", "source": "10.0.0.0/8", "family": "inet6"}, "different families"),
    ({"table": "5", "fwmark": "red"}, "bad mark"),
    ({"table": "5", "fwmark": "1/"}, "bad mask"),
    ({"table": "5", "fwmark": "0x1ffffffff"}, "bad mark"),
    ({"table": "5", "iif": "a/b"}, "bad device name"),
]


@pytest.mark.parametrize(("parts", "message"), BAD_RULES)
def test_bad_rules_are_refused(labdir: str, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(Usage, match=message):
        rule.add(labdir, "alice", rule.given(**parts))


def test_rules_are_recorded(labdir: str) -> None:
    def add(**parts: Any) -> None:
        rule.add(labdir, "alice", rule.given(**parts))

    add(source="10.0.0.0/8", table="100")
    add(fwmark="0x10/0xff", table="101")
    add(dest="fd00::/8", kind="prohibit", priority=77)
    with pytest.raises(
        Conflict, match=r"already has the rule '32765: from 10\.0\.0\.0/8 lookup 100'"
    ):
        add(source="10.0.0.0/8", table="100")
    rule.add(labdir, "alice", rule.given(source="10.0.0.0/8", table="100"), may_exist=True)
    assert [rule.text(r) for r in rule.list_(labdir, "alice")] == [
        "32764: from all fwmark 0x10/0xff lookup 101",
        "32765: from 10.0.0.0/8 lookup 100",
        "77: from all to fd00::/8 prohibit",
    ]
    with pytest.raises(Usage, match="several such rules"):
        rule.delete(labdir, "alice", rule.given(family="inet"))
    with pytest.raises(Usage, match="which rule"):
        rule.delete(labdir, "alice", {})
    with pytest.raises(NotFound):
        rule.delete(labdir, "alice", rule.given(priority=1))
    rule.delete(labdir, "alice", rule.given(priority=1), if_exists=True)
    rule.delete(labdir, "alice", rule.given(fwmark="16/255"))
    iface.delete(labdir, "alice-eth0")
    assert len(rule.list_(labdir, "alice")) == 2
    with pytest.raises(NotFound):
        rule.list_(labdir, "bob")


ROUTE = {
    "dest": "10.9.0.0/16", "metric": 5, "table": 7, "src": "10.0.0.1", "onlink": True,
    "hops": [{"via": "10.0.0.2", "weight": 2}, {"via": "10.1.0.2", "device": "eth1"}],
}  # fmt: skip
RULE = {"family": "inet", "priority": 5, "from": "10.0.0.0/8", "iif": "eth0", "fwmark": 1,
        "fwmask": 2, "table": 9}  # fmt: skip
KINDS = ["--host-net", "--isolated"] if ROOT else ["--isolated"]
VALUES = st.none() | st.booleans() | st.integers(-1, 2**33) | st.text(max_size=4) | st.sampled_from(
    ["10.0.0.1", "fd00::1", "::/0", "0.0.0.0/0", "eth0", "blackhole", "unicast", "lookup", [], {}]
)  # fmt: skip


@pytest.mark.parametrize("which", ["route", "rule"])
@given(st.dictionaries(st.sampled_from([*ROUTE, *RULE, "via", "kind", "to"]), VALUES, max_size=3))
@settings(max_examples=300, deadline=None)
def test_damaged_records(which: str, changes: dict[str, Any]) -> None:
    """A record is refused, or survives being written again."""
    decode, encode, good = {
        "route": (routing.route, routing.record, ROUTE),
        "rule": (routing.rule, routing.rule_record, RULE),
    }[which]
    assert encode(decode(good)) == good  # type: ignore[operator]
    with contextlib.suppress(ValueError):
        found = decode({**good, **changes})
        assert decode(encode(found)) == found  # type: ignore[operator]


def test_state_with_a_bad_rule_is_refused(labdir: str) -> None:
    rule.add(labdir, "alice", rule.given(table="5"))
    path = Path(labdir, statefile.FILE)
    path.write_text(path.read_text().replace('"table": 5', '"table": 0'))
    with pytest.raises(DummError, match="'alice' has a bad rule"):
        statefile.load(labdir)


# ---- guests ----


def live(lab: Lab, fields: str = "kind,dest,via,device,metric,table,src,weight") -> set[str]:
    """The routes of the guest a that are not the kernel's own."""
    found = json.loads(lab("dumm-iface route list a --live --format json").out)
    kept = [r for r in found if r["via"] or r["kind"] != "unicast" or r["dest"] == "224.0.0.0/4"]
    return {" ".join(str(r[f] or "-") for f in fields.split(",")) for r in kept}


ADDED = [
    "a-eth0 default --via 10.0.0.2",
    "a-eth1 default --via 10.1.0.2 --metric 100",
    "a-eth1 default --via 10.1.0.2 --table 100",
    "a-eth0 10.5.0.0/16 --via 10.0.0.2 --via 10.1.0.2,dev=eth1,weight=2",
    "a-eth0 fd05::/64 --via fd00::2 --via fd01::2,dev=eth1",
    "a-eth0 10.6.0.0/16 --via fe80::2 --src 10.1.0.1",
    "a-eth0 10.7.0.0/16 --blackhole",
    "a-eth0 10.8.0.0/16 --unreachable --table 100",
    "a-eth0 fd08::/64 --prohibit",
    "a-eth1 10.9.0.0/16 --via 192.168.7.7 --onlink",
    "a-eth1 224.0.0.0/4",
]
EXPECTED = {
    "unicast default 10.0.0.2 eth0 - main - 1",
    "unicast default 10.1.0.2 eth1 100 main - 1",
    "unicast default 10.1.0.2 eth1 - 100 - 1",
    "unicast 10.5.0.0/16 10.0.0.2 eth0 - main - 1",
    "unicast 10.5.0.0/16 10.1.0.2 eth1 - main - 2",
    "unicast fd05::/64 fd00::2 eth0 1024 main - 1",
    "unicast fd05::/64 fd01::2 eth1 1024 main - 1",
    "unicast 10.6.0.0/16 fe80::2 eth0 - main 10.1.0.1 1",
    "blackhole 10.7.0.0/16 - - - main - 1",
    "unreachable 10.8.0.0/16 - - - 100 - 1",
    "prohibit fd08::/64 - - 1024 main - 1",
    "unicast 10.9.0.0/16 192.168.7.7 eth1 - main - 1",
    "unicast 224.0.0.0/4 - eth1 - main - 1",
}
RULES = [
    "--from 10.1.0.1 --table 100",
    "--fwmark 0x1 --iif eth1 --unreachable --priority 50",
    "--to fd09::/64 --table 101",
    "--fwmark 0 --table 102 --priority 51",
]
EXPECTED_RULES = {
    "32765\tinet\t10.1.0.1/32\t-\t-\t-\t100\tlookup",
    "50\tinet\t-\t-\teth1\t0x1\t-\tunreachable",
    "51\tinet\t-\t-\t-\t0x0\t102\tlookup",
    "32765\tinet6\t-\tfd09::/64\t-\t-\t101\tlookup",
}


def live_rules(lab: Lab) -> set[str]:
    done = lab("dumm-iface rule list a --live -o priority,family,from,to,iif,fwmark,table,kind")
    return {row for row in done.lines if "\t-\t-\t-\t-\t" not in row}


@pytest.fixture
def two(new_lab: Callable[..., Lab]) -> Callable[..., Lab]:
    """Make a lab with the guest a, which has two interfaces."""

    def make(suite: str, kind: str = KINDS[0]) -> Lab:
        lab = new_lab("lab", kind, kernel=suite)
        lab("dumm-bridge create lan0 lan1")
        lab("dumm-guest create a")
        for n in (0, 1):
            both = f"--address 10.{n}.0.1/24 --address fd0{n}::1/64"
            lab(f"dumm-iface create a-eth{n} --bridge lan{n} {both}")
        return lab

    return make


@pytest.mark.uml
@pytest.mark.parametrize(("suite", "kind"), PLACES)
def test_all_kinds_of_routes(two: Callable[..., Lab], suite: str, kind: str) -> None:
    lab = two(suite, kind)
    lab("dumm-guest start a")
    for words in ADDED:
        lab(f"dumm-iface route add {words}")
    for words in RULES:
        lab(f"dumm-iface rule add a {words}")
    assert live(lab) == EXPECTED
    assert live_rules(lab) == EXPECTED_RULES
    got = lab("dumm-guest exec a -- ip route get 10.3.0.1").out
    assert "via 10.0.0.2 dev eth0" in got
    got = lab("dumm-guest exec a -- ip route get 10.3.0.1 from 10.1.0.1").out
    assert "via 10.1.0.2 dev eth1" in got
    lab("dumm-guest restart a")
    assert live(lab) == EXPECTED
    assert live_rules(lab) == EXPECTED_RULES
    lab("dumm-guest exec a -- reboot -f", status=None)
    lab("dumm-guest wait a")
    assert live(lab) == EXPECTED
    assert live_rules(lab) == EXPECTED_RULES
    lab("dumm-iface down a-eth1")
    lab("dumm-iface up a-eth1")
    assert live(lab) == EXPECTED
    # Again, as after a killed command.
    for words in ADDED:
        lab(f"dumm-iface route add {words} --may-exist")
    for words in RULES:
        lab(f"dumm-iface rule add a {words} --may-exist")
    assert live(lab) == EXPECTED
    assert live_rules(lab) == EXPECTED_RULES
    lab("dumm-iface delete a-eth1")
    left = {row for row in EXPECTED if "eth1" not in row and "10.1.0.1" not in row}
    assert live(lab) == left
    assert live_rules(lab) == EXPECTED_RULES
    lab("dumm-guest restart a")
    assert live(lab) == left
    for words in ADDED:
        if "10.6" not in words and not words.startswith("a-eth1"):
            lab(f"dumm-iface route del {' '.join(words.split()[:2])}")
    for words in RULES:
        lab(f"dumm-iface rule del a {words}")
    assert live(lab) == set()
    assert live_rules(lab) == set()
    assert "errno" not in lab.logs()


@pytest.mark.uml
def test_boot_with_thousands_of_routes(two: Callable[..., Lab]) -> None:
    lab = two("sid")
    path = lab.directory / statefile.FILE
    state = json.loads(path.read_text())
    dests = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(9 << 8, 29 << 8)]
    state["ifaces"]["a-eth0"]["routes"] = [{"dest": d, "via": "10.0.0.2"} for d in dests]
    path.write_text(json.dumps(state))
    done = lab("dumm-guest start a")
    assert done.err == ""
    listed = lab("dumm-guest exec a -- ip route").lines
    assert len([line for line in listed if " via " in line]) == len(dests)


@pytest.mark.uml
def test_route_with_several_gateways_follows_its_interfaces(two: Callable[..., Lab]) -> None:
    lab = two("sid")
    lab("dumm-iface down a-eth1")
    lab("dumm-iface route add a-eth0 10.5.0.0/16 --via 10.0.0.2 --via 10.1.0.2,dev=eth1,weight=2")
    lab("dumm-iface route add a-eth0 10.6.0.0/16 --via 10.0.0.3 --src 10.1.0.1")
    lab("dumm-guest start a")
    assert live(lab, "dest,via") == {"10.5.0.0/16 10.0.0.2"}
    lab("dumm-iface up a-eth1")
    both = {"10.5.0.0/16 10.0.0.2", "10.5.0.0/16 10.1.0.2"}
    assert live(lab, "dest,via") == {*both, "10.6.0.0/16 10.0.0.3"}
    lab("dumm-iface address del a-eth1 10.1.0.1/24")
    assert live(lab, "dest,via") == {"10.5.0.0/16 10.0.0.2"}
    lab("dumm-iface address add a-eth1 10.1.0.1/24")
    assert live(lab, "dest,via") == {*both, "10.6.0.0/16 10.0.0.3"}
    # Removed by its owner's deletion, it goes on with its other gateway.
    lab("dumm-iface delete a-eth0")
    assert live(lab, "dest,via") == {"10.5.0.0/16 10.1.0.2"}
    listed = lab("dumm-iface route list a -o dest,via,iface").lines
    assert listed == ["10.5.0.0/16\t10.1.0.2\ta-eth1"]
    lab("dumm-iface route del a-eth1 10.5.0.0/16")
    assert live(lab) == set()
    assert "errno" not in lab.logs()


@pytest.mark.uml
def test_routes_without_a_metric_do_not_take_others_with_them(two: Callable[..., Lab]) -> None:
    lab = two("sid")
    lab("dumm-guest start a")
    lab("dumm-iface route add a-eth0 default --via 10.0.0.2")
    lab("dumm-iface route add a-eth0 default --via 10.0.0.2 --metric 7")
    lab("dumm-guest exec a -- ip route del default metric 0")
    lab("dumm-iface route del a-eth0 default --metric 0")
    assert live(lab, "dest,via,metric") == {"default 10.0.0.2 7"}
    done = lab("dumm-iface route add a-eth0 127.0.0.0/8 --via 10.0.0.2", status=2)
    assert done.err == (
        "dumm-iface: '127.0.0.0/8' is a loopback address, which never leaves a guest\n"
    )
    lab("dumm-iface route del a-eth0 default --metric 8", status=3)
    lab("dumm-iface rule del a --priority 9", status=3)
    # The kernel removes the first that has the given parts.
    for words in ("--from 10.3.0.0/16", "--to 10.4.0.0/16", "", "--from 10.5.0.0/16"):
        lab(f"dumm-iface rule add a --priority 9 --table 7 {words}")
    lab("dumm-iface rule del a --priority 9", status=2)
    lab("dumm-iface rule del a --priority 9 --table 7")
    left = ["9:\tfrom 10.3.0.0/16", "9:\tfrom all to 10.4.0.0/16", "9:\tfrom 10.5.0.0/16"]
    found = lab("dumm-guest exec a -- ip rule").lines
    assert [line.partition(" lookup")[0].strip() for line in found if line[0] == "9"] == left
    lab("dumm-iface rule list b", status=3)
    assert lab("dumm-iface rule list a -o from").lines == ["10.3.0.0/16", "10.5.0.0/16", "-"]
