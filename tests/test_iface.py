"""Interfaces, without a guest: what is recorded, made in the kernel, and rejected."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.labs import recorded

from dumm_tools import address, names, statefile
from dumm_tools.agent import protocol
from dumm_tools.cli.iface import cli
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.linux import netlink, rtnl, sysfs, tun
from dumm_tools.model import Iface
from dumm_tools.net import bridge, connection, iface, link_views, nic

LONG = "averylongguestname-eth0"


@pytest.fixture
def labdir(tmp_path: Path) -> Iterator[str]:
    """A working set with the guests alice, bob and one with a long name, all stopped."""
    labdir = recorded(tmp_path, "alice", "bob", "averylongguestname")
    yield labdir
    bridge.remove_all(statefile.load(labdir))


def record(labdir: str, name: str) -> Iface:
    return statefile.load(labdir).ifaces[name]


@contextlib.contextmanager
def foreign_tap(name: str) -> Iterator[None]:
    """A link that does not belong to the lab."""
    with tun.created(name, 0):
        yield


def raw(labdir: str) -> str:
    return Path(labdir, statefile.FILE).read_text()


# ---- addresses ----


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.1/24", "10.0.0.1/24"),
        ("10.0.0.77/024", "10.0.0.77/24"),
        ("FD00:0:0:0::1/64", "fd00::1/64"),
        ("::ffff:10.0.0.1/128", "::ffff:10.0.0.1/128"),
        ("10.0.0.0/31", "10.0.0.0/31"),
        ("10.0.0.255/32", "10.0.0.255/32"),
        ("10.0.0.255/16", "10.0.0.255/16"),
        ("fd00::/64", "fd00::/64"),
    ],
)
def test_addresses_are_normalized(text: str, wanted: str) -> None:
    assert address.interface(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/-1", "10.0.0.1/+8"),
        *("10.0.0/24", "10.0.0.01/24", "10.0.0.1/24/8", "1.2.3.4/2 4", "fd00::1/129"),
        *("fd00::1", "fd00::1%eth0/64", "224.0.0.1/8", "ff02::1/64", "::/64", "0.0.0.0/8"),
        *("255.255.255.255/32", "a\0b/8", "10.0.0.1/²", "host/24"),
        *("127.0.0.1/8", "127.1.2.3/32", "::1/128", "::1/64"),  # an address of the loopback device
        *("10.0.0.0/24", "10.0.0.255/24", "10.1.255.255/16", "10.0.0.4/30", "10.0.0.7/30"),
    ],
)
def test_bad_addresses_are_rejected(text: str) -> None:
    with pytest.raises(Usage):
        address.interface(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10.0.0.1", "such as 10.0.0.1/24"),
        ("fd00::1", "such as fd00::1/64"),
        ("fd00::1/129", "0 to 128"),
        ("10.0.0.1/33", "0 to 32"),
        ("fd00::g/64", "such as fd00::1/64"),
        ("10.0.0.256/24", "such as 10.0.0.1/24 or fd00::1/64"),
    ],
)
def test_hints_are_of_the_addresss_family(text: str, hint: str) -> None:
    with pytest.raises(Usage) as caught:
        address.interface(text)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    "text",
    [
        *("", "02:00:00:00:00", "02:00:00:00:00:0g", "2:0:0:0:0:1", "02-00-00-00-00-01"),
        *("01:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00:00:00:00:01:02"),
        *("02:00:00:00:00:+1", "02:00:00:00:00: 1", "02:00:00:00:00:\u0660\u0661"),
    ],
)
def test_bad_macs_are_rejected(text: str) -> None:
    with pytest.raises(Usage):
        address.mac(text)


def test_generated_macs_are_stable_and_unique() -> None:
    one = address.made_mac("lab alice-eth0")
    assert one == address.made_mac("lab alice-eth0") == address.mac(one)
    assert one.startswith("02:")
    assert address.made_mac("lab alice-eth0", {one}) != one
    assert len({address.made_mac(f"lab g{n}-eth0") for n in range(5000)}) == 5000


# ---- records ----


def test_create_for_a_stopped_guest_makes_only_a_record(labdir: str) -> None:
    iface.create(labdir, "alice-eth0", addresses=["10.0.0.1/24", "10.0.0.1/24"], mtu=9000)
    found = record(labdir, "alice-eth0")
    assert (found.slot, found.tap, found.up, found.bridge) == (0, "alice-eth0", True, None)
    assert (found.addresses, found.mtu) == (["10.0.0.1/24"], 9000)
    assert not sysfs.exists("alice-eth0")
    view = link_views.interface_view(statefile.load(labdir), "alice-eth0")
    assert (view.state, view.rx_bytes, view.tx_bytes) == ("down", None, None)


def test_lowest_free_slot_is_used(labdir: str) -> None:
    for name in ("alice-eth0", "alice-wan", "alice-eth2", "bob-eth0"):
        iface.create(labdir, name)
    iface.delete(labdir, "alice-wan")
    iface.create(labdir, "alice-eth9")
    state = statefile.load(labdir)
    assert [i.name for i in state.ifaces_of("alice")] == ["alice-eth0", "alice-eth9", "alice-eth2"]
    assert [i.slot for i in state.ifaces_of("alice")] == [0, 1, 2]
    assert state.ifaces["bob-eth0"].slot == 0


REFUSED: list[tuple[type[DummError], Callable[[str], object]]] = [
    (Usage, lambda at: iface.create(at, "eth0")),
    (Usage, lambda at: iface.create(at, "alice-")),
    (Usage, lambda at: iface.create(at, "../x-eth0")),
    (Usage, lambda at: iface.create(at, "alice-averylongdevice0")),
    (Usage, lambda at: iface.create(at, "alice-lo")),
    (Usage, lambda at: iface.create(at, "alice-all")),
    (Usage, lambda at: iface.create(at, "alice-default")),
    (Usage, lambda at: iface.create(at, "alice-vec0")),
    (Usage, lambda at: iface.create(at, "alice-eth1", mac="01:00:00:00:00:00")),
    (Usage, lambda at: iface.create(at, "alice-eth1", mtu=67)),
    (Usage, lambda at: iface.create(at, "alice-eth1", mtu=65522)),
    (Usage, lambda at: iface.create(at, "alice-eth1", mtu=1279, addresses=["fd00::1/64"])),
    (Usage, lambda at: iface.create(at, "alice-eth1", addresses=["10.0.0.1"])),
    (Usage, lambda at: iface.create(at, "alice-eth1", addresses=["fd00::1/64", "fd00::1/48"])),
    (NotFound, lambda at: iface.create(at, "carol-eth0")),
    (NotFound, lambda at: iface.create(at, "alice-eth1", bridge="nolan")),
    (Usage, lambda at: iface.create(at, "alice-eth1", bridge="a bridge")),
    (Conflict, lambda at: iface.create(at, "alice-eth0")),
    (NotFound, lambda at: iface.delete(at, "alice-eth1")),
    (Usage, lambda at: iface.delete(at, "a b", if_exists=True)),
    (NotFound, lambda at: iface.set_up(at, "alice-eth1", True)),
    (Usage, lambda at: iface.set_(at, "alice-eth0")),
    (Usage, lambda at: iface.set_(at, "alice-eth0", mtu=0)),
    (Usage, lambda at: iface.set_(at, "alice-eth0", mac="")),
    (Usage, lambda at: iface.set_(at, "alice-eth0", mtu=1000)),
    (
        Conflict,
        lambda at: iface.add_addresses(at, "alice-eth0", ["10.9.9.9/8", "fd00::1/64"]),
    ),
    (Conflict, lambda at: iface.add_addresses(at, "alice-eth0", ["fd00::1/48"])),
    (
        NotFound,
        lambda at: iface.del_addresses(at, "alice-eth0", ["fd00::1/64", "10.9.9.9/8"]),
    ),
    (Conflict, lambda at: iface.addresses_of(at, "alice-eth0", ask_guest=True)),
]


@pytest.mark.parametrize(("error", "action"), REFUSED)
def test_rejected_changes_leave_state_and_kernel_alone(
    labdir: str, error: type[DummError], action: Callable[[str], object]
) -> None:
    iface.create(labdir, "alice-eth0", addresses=["fd00::1/64"])
    before = raw(labdir)
    with pytest.raises(error):
        action(labdir)
    assert raw(labdir) == before


def test_may_exist_and_if_exists(labdir: str) -> None:
    iface.create(labdir, "alice-eth0", mtu=1400)
    iface.create(labdir, "alice-eth0", mtu=1300, may_exist=True)
    assert record(labdir, "alice-eth0").mtu == 1400
    iface.delete(labdir, "alice-eth0", if_exists=True)
    iface.delete(labdir, "alice-eth0", if_exists=True)


def test_addresses_are_recorded(labdir: str) -> None:
    iface.create(labdir, "alice-eth0")
    iface.add_addresses(labdir, "alice-eth0", ["10.0.0.2/24", "fd00:0::2/64"])
    iface.add_addresses(labdir, "alice-eth0", ["10.0.0.2/24", "10.0.0.2/16"], may_exist=True)
    iface.del_addresses(labdir, "alice-eth0", ["10.0.0.2/24"])
    iface.del_addresses(labdir, "alice-eth0", ["10.0.0.2/24"], if_exists=True)
    assert iface.addresses_of(labdir, "alice-eth0") == ["10.0.0.2/16", "fd00::2/64"]


def test_up_and_down_are_recorded(labdir: str) -> None:
    iface.create(labdir, "alice-eth0")
    iface.set_up(labdir, "alice-eth0", True)
    assert record(labdir, "alice-eth0").up
    iface.set_up(labdir, "alice-eth0", False)
    assert not record(labdir, "alice-eth0").up


def test_two_interfaces_cannot_share_a_tap(labdir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    iface.create(labdir, "alice-eth0")
    monkeypatch.setattr(names, "tap", lambda name: "alice-eth0")
    with pytest.raises(Conflict, match="same tap"):
        iface.create(labdir, "alice-eth1")


# ---- taps ----


@pytest.mark.netns
def test_prepare_makes_taps_and_release_removes_them(labdir: str) -> None:
    bridge.create(labdir, "lan0")
    iface.create(labdir, "alice-eth0", bridge="lan0", addresses=["10.0.0.1/24"])
    iface.create(labdir, "alice-eth1", mtu=9000)
    iface.create(labdir, LONG, bridge="lan0")
    state = statefile.load(labdir)
    assert [nic.uml_arg(i) for i in state.ifaces_of("alice")] == [
        "vec0:transport=tap,ifname=alice-eth0,depth=128,gro=1",
        "vec1:transport=tap,ifname=alice-eth1,depth=128,gro=1,mtu=9000",
    ]
    iface.prepare(state, "alice")
    iface.prepare(state, "bob")
    iface.prepare(state, "averylongguestname")
    short = names.tap(LONG)
    assert sysfs.ports("lan0") == sorted(["alice-eth0", short])
    assert sysfs.number("alice-eth1", "mtu") == 9000
    assert sysfs.master("alice-eth1") is None
    with netlink.host() as channel:
        assert rtnl.find_link(channel, short).altnames == (LONG,)
    for tap in ("alice-eth0", "alice-eth1", short):
        assert sysfs.read(tap, "ifalias") == state.tag
        assert sysfs.is_up(tap)
        assert not sysfs.has_carrier(tap)
        assert Path(f"/proc/sys/net/ipv6/conf/{tap}/disable_ipv6").read_text() == "1\n"
    with tun.attached("alice-eth0"):  # as the guest's kernel does
        assert link_views.interface_view(state, "alice-eth0").state == "up"
    view = link_views.interface_view(state, "alice-eth0")
    assert view.state == "down"
    assert isinstance(view.rx_bytes, int)
    assert link_views.our_links(state) == [*sorted(["alice-eth0", "alice-eth1", short]), "lan0"]
    iface.release(state, "alice", "bob", "averylongguestname")
    iface.release(state, "alice")
    assert link_views.our_links(state) == ["lan0"]


@pytest.mark.netns
def test_prepare_adopts_taps_left_by_a_crash(labdir: str) -> None:
    bridge.create(labdir, "lan0")
    iface.create(labdir, LONG, bridge="lan0")
    state = statefile.load(labdir)
    tap = names.tap(LONG)
    iface.prepare(state, "averylongguestname")
    index = sysfs.number(tap, "ifindex")
    tun.give(tap, 1234)
    subprocess.run(["ip", "link", "set", tap, "nomaster", "down", "mtu", "1400"], check=True)
    subprocess.run(["ip", "link", "property", "del", "dev", tap, "altname", LONG], check=True)
    iface.prepare(state, "averylongguestname")
    assert sysfs.number(tap, "ifindex") == index
    assert sysfs.number(tap, "owner") == os.geteuid()
    assert (sysfs.master(tap), sysfs.number(tap, "mtu")) == ("lan0", 1500)
    assert sysfs.is_up(tap)
    with netlink.host() as channel:
        assert rtnl.find_link(channel, tap).altnames == (LONG,)


@pytest.mark.netns
def test_failed_prepare_is_undone(labdir: str) -> None:
    bridge.create(labdir, "lan0")
    iface.create(labdir, "alice-eth0", bridge="lan0")
    iface.create(labdir, "alice-eth1")
    bridge.remove_all(statefile.load(labdir))
    before = sysfs.devices()
    with foreign_tap("alice-eth1"), pytest.raises(Conflict, match="does not belong to this lab"):
        iface.prepare(statefile.load(labdir), "alice")
    assert sysfs.devices() == before


@pytest.mark.netns
def test_prepare_recreates_bridges_with_their_addresses(labdir: str) -> None:
    bridge.create(labdir, "lan0", addresses=["10.0.0.254/24", "fd00::ff/64"])
    bridge.create(labdir, "lan1", addresses=["10.1.0.254/24"])
    iface.create(labdir, "alice-eth0", bridge="lan0")
    state = statefile.load(labdir)
    bridge.remove_all(state)  # as a reboot of the host would
    iface.prepare(state, "alice")
    with netlink.host() as channel:
        for name in ("lan0", "lan1"):
            index = rtnl.find_link(channel, name).ifindex
            there = {a.address for a in rtnl.addresses(channel, index)}
            assert there == set(state.bridges[name].addresses)


@pytest.mark.netns
def test_foreign_link_is_left_alone(labdir: str) -> None:
    with foreign_tap("alice-eth0"):
        with pytest.raises(
            Conflict, match="'alice-eth0' already exists and does not belong to this lab"
        ):
            iface.create(labdir, "alice-eth0")
        assert statefile.load(labdir).ifaces == {}
    iface.create(labdir, "alice-eth0")
    with foreign_tap("alice-eth0"):
        state = statefile.load(labdir)
        iface.release(state, "alice")
        bridge.remove_all(state)
        iface.delete(labdir, "alice-eth0")
        assert sysfs.exists("alice-eth0")


@pytest.mark.netns
def test_changes_apply_to_the_tap_of_a_crashed_guest(labdir: str) -> None:
    for name in ("lan0", "lan1"):
        bridge.create(labdir, name)
    iface.create(labdir, "alice-eth0", bridge="lan0")
    iface.prepare(statefile.load(labdir), "alice")
    connection.connect(labdir, "lan1", "alice-eth0")
    assert sysfs.master("alice-eth0") == "lan1"
    iface.set_(labdir, "alice-eth0", mtu=1400)
    assert sysfs.number("alice-eth0", "mtu") == 1400
    connection.disconnect(labdir, "alice-eth0")
    assert sysfs.master("alice-eth0") is None
    iface.delete(labdir, "alice-eth0")
    assert not sysfs.exists("alice-eth0")


@pytest.mark.netns
def test_many_taps_are_removed_at_once(labdir: str) -> None:
    for n in range(20):
        iface.create(labdir, f"alice-eth{n}")
    state = statefile.load(labdir)
    iface.prepare(state, "alice")
    with foreign_tap("bob-eth0"):
        iface.release(state, "alice")
        assert link_views.our_links(state) == []
        assert sysfs.exists("bob-eth0")


@pytest.mark.netns
def test_delete_of_guest_removes_its_interfaces_only(labdir: str) -> None:
    iface.create(labdir, "alice-eth0")
    iface.create(labdir, "bob-eth0")
    state = statefile.load(labdir)
    iface.prepare(state, "alice")
    iface.delete_of_guest(state, "alice")
    assert list(state.ifaces) == ["bob-eth0"]
    assert link_views.our_links(state) == []


@pytest.mark.netns
def test_missing_tun_device_is_an_error_with_a_hint(
    labdir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    iface.create(labdir, "alice-eth0")
    monkeypatch.setattr(tun, "PATH", "/dev/net/nothere")
    with pytest.raises(DummError, match="cannot create 'alice-eth0': /dev/net/nothere: No") as e:
        iface.prepare(statefile.load(labdir), "alice")
    assert e.value.hint is not None
    assert "modprobe" in e.value.hint


@pytest.mark.netns
def test_boot_messages_configure_a_kernel(labdir: str) -> None:
    """The agent's messages to its kernel are sent to this one, about a tap with the device's
    name."""
    bridge.create(labdir, "lan0")
    iface.create(labdir, "alice-eth0", bridge="lan0", addresses=["10.0.0.1/24", "fd00::1/64"])
    records = nic.boot_records(statefile.load(labdir), "alice")
    assert records.pop(0)[:2] == (protocol.BOOT_NIC, 0)
    assert records[0] == (protocol.BOOT_MODULE, 0, b"ipv6\0")
    with tun.created("vec0", 0), netlink.host() as channel:
        index = sysfs.number("vec0", "ifindex")
        assert index is not None
        for kind, slot, message in records[1:]:
            assert (kind, slot) == (protocol.BOOT_NETLINK, 0)
            patched = message[:20] + struct.pack("=I", index) + message[24:]
            netlink.transact(channel, [netlink.Request(patched, "vec0")])
        link = rtnl.find_link(channel, "eth0")
        assert (link.ifindex, link.up, link.mtu) == (index, True, 1500)
        assert sysfs.read("eth0", "address") == record(labdir, "alice-eth0").mac
        there = [a.address for a in rtnl.addresses(channel, index)]
        assert {"10.0.0.1/24", "fd00::1/64"} <= set(there)


def test_boot_messages_of_interfaces_that_stay_down(labdir: str) -> None:
    iface.create(labdir, "alice-eth0", addresses=["10.0.0.1/24"], mtu=9000)
    iface.set_up(labdir, "alice-eth0", False)
    records = nic.boot_records(statefile.load(labdir), "alice")
    assert records.pop(0)[:2] == (protocol.BOOT_NIC, 0)
    assert [(kind, slot) for kind, slot, _ in records] == [(protocol.BOOT_NETLINK, 0)] * 2
    length, kind, _, _, _ = struct.unpack_from("=IHHII", records[0][2])
    assert (length, kind) == (len(records[0][2]), rtnl.RTM_SETLINK)
    flags, change = struct.unpack_from("=II", records[0][2], 24)
    assert (flags & 1, change & 1) == (0, 1)


# ---- the command ----


def test_output_shapes(labdir: str) -> None:
    iface.create(labdir, "bob-eth0", mac="02:00:00:00:00:0B")
    iface.create(labdir, "alice-eth0", addresses=["fd00::1/64", "10.0.0.1/24"])

    def run(*args: str) -> str:
        done = CliRunner().invoke(cli, ["-C", labdir, *args], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    assert run("list", "-q") == "alice-eth0\nbob-eth0\n"
    assert run("list", "-o", "name,bridge,addresses,mac").splitlines()[1] == (
        "bob-eth0\t-\t-\t02:00:00:00:00:0b"
    )
    (row,) = json.loads(run("show", "alice-eth0", "--format", "json"))
    del row["mac"]
    assert row == {
        "name": "alice-eth0",
        "guest": "alice",
        "device": "eth0",
        "tap": "alice-eth0",
        "bridge": None,
        "mtu": 1500,
        "state": "down",
        "carrier": False,
        "addresses": ["10.0.0.1/24", "fd00::1/64"],
        "shape": None,
        "rx_bytes": None,
        "tx_bytes": None,
        "rx_packets": None,
        "tx_packets": None,
        "rx_dropped": None,
        "tx_dropped": None,
        "actual": None,
        "live_mac": None,
        "live_mtu": None,
    }
    assert run("address", "list", "alice-eth0", "-o", "address,family", "-z") == (
        "10.0.0.1/24\tinet\0fd00::1/64\tinet6\0"
    )
    assert "alice-eth0" in run("list").splitlines()[1]


def test_all_operands_are_tried(labdir: str) -> None:
    args = ["-C", labdir, "create", "alice-eth0", "eve-eth0", "x", "bob-eth0"]
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    assert done.return_value == 3
    assert done.stdout == ""
    assert done.stderr.splitlines()[0].endswith(": no guest 'eve'")
    assert sorted(statefile.load(labdir).ifaces) == ["alice-eth0", "bob-eth0"]
    done = CliRunner().invoke(cli, ["-C", labdir, "create", "alice-a", "alice-b", "--mac", "x"])
    assert done.exit_code == 2
