"""Bridges: created at once, silent on their own, left alone unless they are ours; cables."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.labs import recorded

from dumm_tools import statefile
from dumm_tools.cli.bridge import cli
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.linux import netlink, rtnl, sysctl, sysfs
from dumm_tools.model import Bridge
from dumm_tools.net import bridge, connection, host_links, iface, link_views

pytestmark = pytest.mark.netns


@pytest.fixture
def labdir(tmp_path: Path) -> Iterator[str]:
    """A working set with the guests alice and bob, both stopped."""
    labdir = recorded(tmp_path, "alice", "bob")
    before = sysfs.devices()
    yield labdir
    bridge.remove_all(statefile.load(labdir))
    assert sysfs.devices() == before


@pytest.fixture
def foreign() -> Iterator[str]:
    """A bridge that does not belong to the lab."""
    subprocess.run(["ip", "link", "add", "lan9", "type", "bridge"], check=True)
    yield "lan9"
    subprocess.run(["ip", "link", "del", "lan9"], check=True)


def host_addresses(device: str) -> set[str]:
    with netlink.host() as channel:
        index = rtnl.find_link(channel, device).ifindex
        return {a.address for a in rtnl.addresses(channel, index)}


def raw(labdir: str) -> str:
    return Path(labdir, statefile.FILE).read_text()


def test_create_makes_a_bridge_that_is_up_and_has_no_addresses(labdir: str) -> None:
    bridge.create(labdir, "lan0")
    state = statefile.load(labdir)
    assert sysfs.read("lan0", "ifalias") == state.tag
    assert sysfs.is_up("lan0")
    assert host_addresses("lan0") == set()
    assert Path("/proc/sys/net/ipv6/conf/lan0/disable_ipv6").read_text() == "1\n"
    view = link_views.bridge_view(state, "lan0")
    assert (view.state, view.members) == ("up", [])
    mac = sysfs.read("lan0", "address")
    assert mac == link_views.bridge_mac(state, "lan0")
    iface.create(labdir, "alice-eth0", bridge="lan0")
    iface.prepare(statefile.load(labdir), "alice")
    assert sysfs.read("lan0", "address") == mac
    bridge.delete(labdir, "lan0")
    assert not sysfs.exists("lan0")


def test_addresses_of_the_host_are_added_and_deleted(labdir: str) -> None:
    bridge.create(labdir, "lan0", addresses=["10.0.0.254/24"])
    bridge.add_addresses(labdir, "lan0", ["fd00::fe/64", "10.0.1.254/24"])
    assert host_addresses("lan0") == {"10.0.0.254/24", "10.0.1.254/24", "fd00::fe/64"}
    assert statefile.load(labdir).bridges["lan0"].addresses[1] == "fd00::fe/64"
    bridge.add_addresses(labdir, "lan0", ["10.0.0.254/24"], may_exist=True)
    bridge.del_addresses(labdir, "lan0", ["10.0.0.254/24"])
    bridge.del_addresses(labdir, "lan0", ["10.0.0.254/24"], if_exists=True)
    assert host_addresses("lan0") == {"10.0.1.254/24", "fd00::fe/64"}
    # Deleting the first address of a network keeps the others.
    bridge.add_addresses(labdir, "lan0", ["10.0.1.253/24", "10.0.1.252/24"])
    bridge.del_addresses(labdir, "lan0", ["10.0.1.254/24"])
    assert host_addresses("lan0") == {"10.0.1.253/24", "10.0.1.252/24", "fd00::fe/64"}


REFUSED: list[tuple[type[DummError], Callable[[str], object]]] = [
    (Usage, lambda at: bridge.create(at, "a b")),
    (Usage, lambda at: bridge.create(at, "../x")),
    (Usage, lambda at: bridge.create(at, "sixteen-byte-str")),
    (Usage, lambda at: bridge.create(at, "lan1", addresses=["10.0.0.1"])),
    (Conflict, lambda at: bridge.create(at, "lan0")),
    (Conflict, lambda at: bridge.create(at, "lo")),
    (Conflict, lambda at: bridge.create(at, "lo", may_exist=True)),
    (Conflict, lambda at: bridge.create(at, "lan9")),
    (Conflict, lambda at: bridge.create(at, "alice-eth0")),
    (Conflict, lambda at: iface.create(at, "bob-eth0")),
    (NotFound, lambda at: bridge.delete(at, "lan1")),
    (NotFound, lambda at: connection.connect(at, "lan1", "alice-eth0")),
    (NotFound, lambda at: connection.connect(at, "lan0", "alice-eth1")),
    (Conflict, lambda at: connection.disconnect(at, "alice-eth0")),
    (
        Conflict,
        lambda at: bridge.add_addresses(at, "lan0", ["10.9.0.1/8", "10.0.0.254/24"]),
    ),
    (
        NotFound,
        lambda at: bridge.del_addresses(at, "lan0", ["10.0.0.254/24", "10.9.0.1/8"]),
    ),
]


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(("error", "action"), REFUSED)
def test_rejected_changes_leave_state_and_kernel_alone(
    labdir: str, error: type[DummError], action: Callable[[str], object]
) -> None:
    bridge.create(labdir, "lan0", addresses=["10.0.0.254/24"])
    bridge.create(labdir, "bob-eth0")
    iface.create(labdir, "alice-eth0")
    before, links = raw(labdir), sysfs.devices()
    with pytest.raises(error):
        action(labdir)
    assert raw(labdir) == before
    assert sysfs.devices() == links
    assert host_addresses("lan0") == {"10.0.0.254/24"}
    assert sysfs.read("lan9", "ifalias") == ""


def test_may_exist_and_if_exists(labdir: str) -> None:
    bridge.delete(labdir, "lan0", if_exists=True)
    bridge.create(labdir, "lan0", may_exist=True)
    bridge.create(labdir, "lan0", may_exist=True)
    bridge.remove_all(statefile.load(labdir))
    assert link_views.bridge_view(statefile.load(labdir), "lan0").state == "down"
    bridge.create(labdir, "lan0", may_exist=True)  # recreated
    assert sysfs.is_up("lan0")


def test_create_adopts_a_bridge_that_a_killed_command_left_untagged(labdir: str) -> None:
    with statefile.transaction(labdir) as change:
        change.state.bridges["lan0"] = Bridge("lan0")
    state = statefile.load(labdir)
    with netlink.host() as channel:
        mac = link_views.bridge_mac(state, "lan0")
        netlink.transact(channel, [rtnl.new_bridge("lan0", mac)])
    assert link_views.ours(state, "lan0")
    bridge.create(labdir, "lan0", may_exist=True)
    assert sysfs.read("lan0", "ifalias") == state.tag
    assert sysfs.is_up("lan0")


def test_copied_working_set_owns_no_bridges(labdir: str, tmp_path: Path) -> None:
    bridge.create(labdir, "lan0")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / ".lock").touch()
    (copy / statefile.FILE).write_text(raw(labdir))
    state = statefile.load(str(copy))
    bridge.remove_all(state)
    assert sysfs.exists("lan0")
    assert link_views.bridge_view(state, "lan0").state == "down"
    bridge.delete(str(copy), "lan0")
    assert sysfs.exists("lan0")


def test_connecting_and_disconnecting_is_recorded(labdir: str) -> None:
    for name in ("lan0", "lan1"):
        bridge.create(labdir, name)
    iface.create(labdir, "alice-eth0")
    iface.create(labdir, "bob-eth0", bridge="lan0")

    def cable(name: str) -> tuple[str | None, bool]:
        record = statefile.load(labdir).ifaces[name]
        return record.bridge, record.up

    assert cable("alice-eth0") == (None, True)
    assert cable("bob-eth0") == ("lan0", True)
    connection.connect(labdir, "lan0", "alice-eth0")
    assert cable("alice-eth0") == ("lan0", True)
    iface.set_up(labdir, "alice-eth0", False)
    connection.connect(labdir, "lan1", "alice-eth0")
    assert cable("alice-eth0") == ("lan1", False)
    connection.disconnect(labdir, "bob-eth0")
    assert cable("bob-eth0") == (None, True)
    connection.connect(labdir, "lan1", "bob-eth0")
    assert link_views.bridge_view(statefile.load(labdir), "lan1").members == [
        "alice-eth0",
        "bob-eth0",
    ]
    bridge.delete(labdir, "lan1")
    assert (cable("bob-eth0"), cable("alice-eth0")) == ((None, True), (None, False))
    assert sorted(statefile.load(labdir).ifaces) == ["alice-eth0", "bob-eth0"]


def test_bridge_mtu_follows_its_members(labdir: str) -> None:
    bridge.create(labdir, "lan0")
    iface.create(labdir, "alice-eth0", bridge="lan0", mtu=9000)
    iface.create(labdir, "bob-eth0", mtu=9000)
    state = statefile.load(labdir)
    iface.prepare(state, "alice")
    iface.prepare(state, "bob")
    assert sysfs.number("lan0", "mtu") == 9000
    connection.connect(labdir, "lan0", "bob-eth0")
    iface.set_(labdir, "bob-eth0", mtu=1400)
    assert sysfs.number("lan0", "mtu") == 1400


def test_small_mtu_of_a_tap_leaves_the_bridge_alone(labdir: str) -> None:
    """Below 1280 bytes the kernel disables IPv6 on a link: on the tap, and on the bridge, whose MTU
    follows it. Above that it would enable IPv6 again, with an address of its own choice."""
    bridge.create(labdir, "lan0", addresses=["fd00::fe/64"])
    bridge.create(labdir, "lan1")
    for name in ("lan0", "lan1"):
        iface.create(labdir, "alice-eth0", bridge=name, mtu=68)
        iface.prepare(statefile.load(labdir), "alice")
        iface.set_(labdir, "alice-eth0", mtu=600)
        assert sysfs.number(name, "mtu") == sysfs.number("alice-eth0", "mtu") == 1280
        iface.set_(labdir, "alice-eth0", mtu=1400)
        iface.delete(labdir, "alice-eth0")
    assert host_addresses("lan0") == {"fd00::fe/64"}
    assert host_addresses("lan1") == set()


def test_setting_the_mtu_repairs_a_tap_with_a_small_one(labdir: str) -> None:
    iface.create(labdir, "alice-eth0")
    iface.prepare(statefile.load(labdir), "alice")
    subprocess.run(["ip", "link", "set", "alice-eth0", "mtu", "500"], check=True)
    iface.set_(labdir, "alice-eth0", mtu=1400)
    assert sysfs.number("alice-eth0", "mtu") == 1400
    assert sysfs.is_up("alice-eth0")
    assert sysctl.ipv6_is_off("alice-eth0")
    assert host_addresses("alice-eth0") == set()


def test_removed_bridge_is_recreated_with_its_members(labdir: str) -> None:
    for name in ("lan0", "lan1"):
        bridge.create(labdir, name)
    iface.create(labdir, "alice-eth0", bridge="lan0")
    iface.create(labdir, "alice-eth1", bridge="lan1")
    iface.create(labdir, "bob-eth0", bridge="lan0")
    iface.prepare(statefile.load(labdir), "alice")
    subprocess.run(["ip", "link", "del", "lan0"], check=True)
    assert sysfs.master("alice-eth0") is None
    bridge.create(labdir, "lan0", may_exist=True)
    assert sysfs.ports("lan0") == ["alice-eth0"]
    assert sysfs.ports("lan1") == ["alice-eth1"]


def test_failed_create_leaves_nothing(labdir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "lan0")

    before, links = raw(labdir), sysfs.devices()
    monkeypatch.setattr(host_links, "add_addresses", fail)
    with pytest.raises(DummError, match="cannot create 'lan0': No space left on device"):
        bridge.create(labdir, "lan0")
    assert (raw(labdir), sysfs.devices()) == (before, links)


def test_output_shapes(labdir: str) -> None:
    bridge.create(labdir, "lan1", addresses=["10.0.0.254/24"])
    bridge.create(labdir, "lan0")
    for name in ("bob-eth0", "alice-eth0"):
        iface.create(labdir, name, bridge="lan0")

    def run(*args: str) -> str:
        done = CliRunner().invoke(cli, ["-C", labdir, *args], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    assert run("list", "-q") == "lan0\nlan1\n"
    assert run("list", "-o", "name,state,address,members,uplink") == (
        "lan0\tup\t-\talice-eth0,bob-eth0\t-\nlan1\tup\t10.0.0.254/24\t-\t-\n"
    )
    assert json.loads(run("show", "lan1", "--format", "json")) == [
        {
            "name": "lan1",
            "state": "up",
            "address": ["10.0.0.254/24"],
            "members": [],
            "uplink": None,
            "host_access": False,
            "kind": "cable",
            "kind_set": "auto",
        }
    ]
    args = ["-C", labdir, "connect", "lan1", "bob-eth0", "eve-eth0"]
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    assert (done.return_value, done.stdout) == (3, "")
    assert statefile.load(labdir).ifaces["bob-eth0"].bridge == "lan1"
