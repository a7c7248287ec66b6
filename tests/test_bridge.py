"""Bridges: made at once, quiet, ours or left alone; cables."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dumm_tools import statefile
from dumm_tools.cli.bridge import cli
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.linux import netlink, rtnl, sysfs
from dumm_tools.model import Bridge, Guest, State
from dumm_tools.net import bridge, host_links, iface, link_views

pytestmark = pytest.mark.netns


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """A working set with the guests alice and bob, both stopped."""
    (tmp_path / ".lock").touch()
    guests = {name: Guest(name) for name in ("alice", "bob")}
    made = State("t1t1", os.stat(tmp_path / ".lock").st_ino, guests=guests)
    statefile.create(str(tmp_path), made)
    before = sysfs.devices()
    yield str(tmp_path)
    bridge.remove_all(statefile.load(str(tmp_path)))
    assert sysfs.devices() == before


@pytest.fixture
def foreign() -> Iterator[str]:
    """A bridge that is not ours."""
    subprocess.run(["ip", "link", "add", "lan9", "type", "bridge"], check=True)
    yield "lan9"
    subprocess.run(["ip", "link", "del", "lan9"], check=True)


def host_addresses(device: str) -> set[str]:
    with netlink.host() as channel:
        index = rtnl.find_link(channel, device).ifindex
        return {a.address for a in rtnl.addresses(channel, index)}


def raw(lab: str) -> str:
    return Path(lab, statefile.FILE).read_text()


def test_made_at_once_and_quiet(lab: str) -> None:
    bridge.create(lab, "lan0")
    state = statefile.load(lab)
    assert sysfs.read("lan0", "ifalias") == state.tag
    assert sysfs.is_up("lan0")
    assert host_addresses("lan0") == set()
    assert Path("/proc/sys/net/ipv6/conf/lan0/disable_ipv6").read_text() == "1\n"
    view = link_views.bridge_view(state, "lan0")
    assert (view.state, view.members) == ("up", [])
    mac = sysfs.read("lan0", "address")
    assert mac == link_views.bridge_mac(state, "lan0")
    iface.create(lab, "alice-eth0", bridge="lan0")
    iface.prepare(statefile.load(lab), "alice")
    assert sysfs.read("lan0", "address") == mac
    bridge.delete(lab, "lan0")
    assert not sysfs.exists("lan0")


def test_the_hosts_addresses(lab: str) -> None:
    bridge.create(lab, "lan0", addresses=["10.0.0.254/24"])
    bridge.add_addresses(lab, "lan0", ["fd00::fe/64", "10.0.1.254/24"])
    assert host_addresses("lan0") == {"10.0.0.254/24", "10.0.1.254/24", "fd00::fe/64"}
    assert statefile.load(lab).bridges["lan0"].addresses[1] == "fd00::fe/64"
    bridge.add_addresses(lab, "lan0", ["10.0.0.254/24"], may_exist=True)
    bridge.del_addresses(lab, "lan0", ["10.0.0.254/24"])
    bridge.del_addresses(lab, "lan0", ["10.0.0.254/24"], if_exists=True)
    assert host_addresses("lan0") == {"10.0.1.254/24", "fd00::fe/64"}
    # The first of a network goes, the others stay.
    bridge.add_addresses(lab, "lan0", ["10.0.1.253/24", "10.0.1.252/24"])
    bridge.del_addresses(lab, "lan0", ["10.0.1.254/24"])
    assert host_addresses("lan0") == {"10.0.1.253/24", "10.0.1.252/24", "fd00::fe/64"}


REFUSED: list[tuple[type[DummError], Callable[[str], object]]] = [
    (Usage, lambda lab: bridge.create(lab, "a b")),
    (Usage, lambda lab: bridge.create(lab, "../x")),
    (Usage, lambda lab: bridge.create(lab, "sixteen-byte-str")),
    (Usage, lambda lab: bridge.create(lab, "lan1", addresses=["10.0.0.1"])),
    (Conflict, lambda lab: bridge.create(lab, "lan0")),
    (Conflict, lambda lab: bridge.create(lab, "lo")),
    (Conflict, lambda lab: bridge.create(lab, "lo", may_exist=True)),
    (Conflict, lambda lab: bridge.create(lab, "lan9")),
    (Conflict, lambda lab: bridge.create(lab, "alice-eth0")),
    (Conflict, lambda lab: iface.create(lab, "bob-eth0")),
    (NotFound, lambda lab: bridge.delete(lab, "lan1")),
    (NotFound, lambda lab: bridge.connect(lab, "lan1", "alice-eth0")),
    (NotFound, lambda lab: bridge.connect(lab, "lan0", "alice-eth1")),
    (Conflict, lambda lab: bridge.disconnect(lab, "alice-eth0")),
    (Conflict, lambda lab: bridge.add_addresses(lab, "lan0", ["10.9.0.1/8", "10.0.0.254/24"])),
    (NotFound, lambda lab: bridge.del_addresses(lab, "lan0", ["10.0.0.254/24", "10.9.0.1/8"])),
]


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize(("error", "action"), REFUSED)
def test_refused_with_nothing_changed(
    lab: str, error: type[DummError], action: Callable[[str], object]
) -> None:
    bridge.create(lab, "lan0", addresses=["10.0.0.254/24"])
    bridge.create(lab, "bob-eth0")
    iface.create(lab, "alice-eth0")
    before, links = raw(lab), sysfs.devices()
    with pytest.raises(error):
        action(lab)
    assert raw(lab) == before
    assert sysfs.devices() == links
    assert host_addresses("lan0") == {"10.0.0.254/24"}
    assert sysfs.read("lan9", "ifalias") == ""


def test_idempotent_forms(lab: str) -> None:
    bridge.delete(lab, "lan0", if_exists=True)
    bridge.create(lab, "lan0", may_exist=True)
    bridge.create(lab, "lan0", may_exist=True)
    bridge.remove_all(statefile.load(lab))
    assert link_views.bridge_view(statefile.load(lab), "lan0").state == "down"
    bridge.create(lab, "lan0", may_exist=True)  # there again
    assert sysfs.is_up("lan0")


def test_killed_before_it_could_tag(lab: str) -> None:
    with statefile.transaction(lab) as change:
        change.state.bridges["lan0"] = Bridge("lan0")
    state = statefile.load(lab)
    with netlink.host() as channel:
        mac = link_views.bridge_mac(state, "lan0")
        netlink.transact(channel, [rtnl.new_bridge("lan0", mac)])
    assert link_views.ours(state, "lan0")
    bridge.create(lab, "lan0", may_exist=True)
    assert sysfs.read("lan0", "ifalias") == state.tag
    assert sysfs.is_up("lan0")


def test_a_copied_working_set_owns_nothing(lab: str, tmp_path: Path) -> None:
    bridge.create(lab, "lan0")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / ".lock").touch()
    (copy / statefile.FILE).write_text(raw(lab))
    state = statefile.load(str(copy))
    bridge.remove_all(state)
    assert sysfs.exists("lan0")
    assert link_views.bridge_view(state, "lan0").state == "down"
    bridge.delete(str(copy), "lan0")
    assert sysfs.exists("lan0")


def test_the_cable_is_recorded(lab: str) -> None:
    for name in ("lan0", "lan1"):
        bridge.create(lab, name)
    iface.create(lab, "alice-eth0")
    iface.create(lab, "bob-eth0", bridge="lan0")

    def cable(name: str) -> tuple[str | None, bool]:
        record = statefile.load(lab).ifaces[name]
        return record.bridge, record.up

    assert cable("alice-eth0") == (None, False)
    assert cable("bob-eth0") == ("lan0", True)
    bridge.connect(lab, "lan0", "alice-eth0")
    assert cable("alice-eth0") == ("lan0", True)
    iface.set_up(lab, "alice-eth0", False)
    bridge.connect(lab, "lan1", "alice-eth0")
    assert cable("alice-eth0") == ("lan1", True)
    bridge.disconnect(lab, "bob-eth0")
    assert cable("bob-eth0") == (None, False)
    bridge.connect(lab, "lan1", "bob-eth0")
    assert link_views.bridge_view(statefile.load(lab), "lan1").members == ["alice-eth0", "bob-eth0"]
    bridge.delete(lab, "lan1")
    assert cable("bob-eth0") == cable("alice-eth0") == (None, False)
    assert sorted(statefile.load(lab).ifaces) == ["alice-eth0", "bob-eth0"]


def test_mtu_follows_the_members(lab: str) -> None:
    bridge.create(lab, "lan0")
    iface.create(lab, "alice-eth0", bridge="lan0", mtu=9000)
    iface.create(lab, "bob-eth0", mtu=9000)
    state = statefile.load(lab)
    iface.prepare(state, "alice")
    iface.prepare(state, "bob")
    assert sysfs.number("lan0", "mtu") == 9000
    bridge.connect(lab, "lan0", "bob-eth0")
    iface.set_(lab, "bob-eth0", mtu=1400)
    assert sysfs.number("lan0", "mtu") == 1400


def test_a_small_mtu_takes_nothing_from_the_bridge(lab: str) -> None:
    """Below 1280 octets the kernel has no IPv6 on a link: not on the tap, nor on the bridge that
    follows it; and above again it would begin anew, with an address of its own choice."""
    bridge.create(lab, "lan0", addresses=["fd00::fe/64"])
    bridge.create(lab, "lan1")
    for name in ("lan0", "lan1"):
        iface.create(lab, "alice-eth0", bridge=name, mtu=68)
        iface.prepare(statefile.load(lab), "alice")
        iface.set_(lab, "alice-eth0", mtu=600)
        assert sysfs.number(name, "mtu") == sysfs.number("alice-eth0", "mtu") == 1280
        iface.set_(lab, "alice-eth0", mtu=1400)
        iface.delete(lab, "alice-eth0")
    assert host_addresses("lan0") == {"fd00::fe/64"}
    assert host_addresses("lan1") == set()


def test_the_way_out_of_a_small_mtu_that_somebody_set(lab: str) -> None:
    iface.create(lab, "alice-eth0")
    iface.prepare(statefile.load(lab), "alice")
    subprocess.run(["ip", "link", "set", "alice-eth0", "mtu", "500"], check=True)
    iface.set_(lab, "alice-eth0", mtu=1400)
    assert sysfs.number("alice-eth0", "mtu") == 1400
    assert sysfs.is_up("alice-eth0")
    assert sysfs.ipv6_is_off("alice-eth0")
    assert host_addresses("alice-eth0") == set()


def test_made_anew_with_its_members(lab: str) -> None:
    for name in ("lan0", "lan1"):
        bridge.create(lab, name)
    iface.create(lab, "alice-eth0", bridge="lan0")
    iface.create(lab, "alice-eth1", bridge="lan1")
    iface.create(lab, "bob-eth0", bridge="lan0")
    iface.prepare(statefile.load(lab), "alice")
    subprocess.run(["ip", "link", "del", "lan0"], check=True)
    assert sysfs.master("alice-eth0") is None
    bridge.create(lab, "lan0", may_exist=True)
    assert sysfs.ports("lan0") == ["alice-eth0"]
    assert sysfs.ports("lan1") == ["alice-eth1"]


def test_a_failure_makes_nothing(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "lan0")

    before, links = raw(lab), sysfs.devices()
    monkeypatch.setattr(host_links, "add_addresses", fail)
    with pytest.raises(DummError, match="cannot create 'lan0': No space left on device"):
        bridge.create(lab, "lan0")
    assert (raw(lab), sysfs.devices()) == (before, links)


def test_output_shapes(lab: str) -> None:
    bridge.create(lab, "lan1", addresses=["10.0.0.254/24"])
    bridge.create(lab, "lan0")
    for name in ("bob-eth0", "alice-eth0"):
        iface.create(lab, name, bridge="lan0")

    def run(*args: str) -> str:
        done = CliRunner().invoke(cli, ["-C", lab, *args], catch_exceptions=False)
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
        }
    ]
    args = ["-C", lab, "connect", "lan1", "bob-eth0", "eve-eth0"]
    done = CliRunner().invoke(cli, args, standalone_mode=False)
    assert (done.return_value, done.stdout) == (3, "")
    assert statefile.load(lab).ifaces["bob-eth0"].bridge == "lan1"
