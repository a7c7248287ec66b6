"""The host's own network: frames that guests send to it, and settings that labs change in it.

Frames are made by hand and sent as a guest would (frames.py). The host accepts and answers those
for an address that the lab gave it, and no others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import frames
import pytest
from support import PATIENCE
from support.checks import until
from support.labs import Lab, recorded

from dumm_tools import statefile
from dumm_tools.linux import sysfs
from dumm_tools.net import bridge, iface, link_views

pytestmark = [pytest.mark.netns, pytest.mark.root]

#: Addresses that the host has on a device of its own, not from a lab.
OTHER, OTHER6 = "203.0.113.7", "2001:db8:7::7"
FENCE = "10.99.0.254"


class Host:
    """The host of a lab's network: the session's namespace for root's labs, otherwise the lab's
    own."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def sh(self, script: str) -> str:
        """Run a script in the namespace."""
        return self.lab.host(["sh", "-ec", script]).out

    def mac(self, bridge: str) -> str:
        """The MAC address of a bridge."""
        return self.sh(f"cat /sys/class/net/{bridge}/address").strip()

    def plug(self, bridge: str) -> str:
        """Make a cable with one end in a bridge; return the name of the other end, where a guest's
        frames enter."""
        self.sh(
            f"ip link add {bridge}-0 type veth peer {bridge}-1;"
            f"for d in {bridge}-0 {bridge}-1; do"
            " ip link set $d addrgenmode none; ip link set $d up; done;"
            f"ip link set {bridge}-0 master {bridge}"
        )
        return f"{bridge}-1"

    def send(self, device: str, *sent: bytes) -> list[str]:
        """Send frames as a guest; return which of them the host accepted, and its answers."""
        fence = frames.udp(self.mac("fence"), "10.99.0.1", FENCE, "fence")
        script: list[str | Path] = [
            sys.executable,
            Path(frames.__file__),
            device,
            "fence-1",
            fence.hex(),
        ]
        lines = "\n".join(f.hex() for f in sent).encode()
        done = self.lab(["dumm-guest", "exec", "--host", "--", *script], stdin=lines)
        return sorted(done.lines)


@pytest.fixture(params=["--host-net", "--isolated"])
def host(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    """The host of a lab on the host's network, and of an isolated one. A frame on the bridge
    `fence` shows that everything sent before has been handled."""
    if request.param == "--isolated":
        lab("dumm-fs destroy")
        lab("dumm-fs init --kernel sid --master busybox --isolated")
    yield from _with_another_network(lab)


@pytest.fixture
def roots(lab: Lab) -> Iterator[Host]:
    """As `host`, on the host's network only, where the taps can be reached."""
    yield from _with_another_network(lab)


def _with_another_network(lab: Lab) -> Iterator[Host]:
    host = Host(lab)
    lab(f"dumm-bridge create fence --address {FENCE}/24")
    try:
        host.sh(
            "ip link add other0 type bridge; ip link set other0 addrgenmode none;"
            "ip link set other0 up;"
            f"ip addr add {OTHER}/24 dev other0; ip addr add {OTHER6}/64 dev other0 nodad"
        )
        host.plug("fence")
        yield host
    finally:
        host.sh("for d in /sys/class/net/*-0 /sys/class/net/other0; do ip link del ${d##*/}; done")


def everything(to: str, *also: str) -> list[bytes]:
    """Packets that a host following the weak model accepts or answers, sent to the MAC address of a
    bridge or a group: for addresses that are not on this segment, and for everybody."""
    found = []
    for address in (OTHER, FENCE, *also):
        for mac in (to, frames.EVERYBODY):
            found += [
                frames.arp("10.0.0.1", address, mac),
                frames.arp(OTHER.replace(".7", ".1"), address, mac),
                frames.udp(mac, "10.0.0.1", address, f"udp to {address}"),
                frames.udp(mac, "203.0.113.1", address, f"udp to {address}"),
                frames.syn(mac, "10.0.0.1", address),
                frames.ping(mac, "10.0.0.1", address),
            ]
    return [
        *found,
        frames.udp(to, "2001:db8:7::1", OTHER6, "udp6"),
        frames.syn(to, "2001:db8:7::1", OTHER6),
        frames.ping(to, "fd00::1", OTHER6),
    ]


#: Broadcasts and multicasts on a segment.
BROADCAST = frames.udp(frames.EVERYBODY, "0.0.0.0", "255.255.255.255", "broadcast")
MULTICAST = frames.udp("01:00:5e:00:00:01", "10.0.0.1", "224.0.0.1", "multicast")
MULTICAST6 = frames.udp("33:33:00:00:00:01", "fe80::1", "ff02::1", "multicast6")


@pytest.mark.attack("host-without-address")
def test_host_without_address_accepts_nothing(host: Host) -> None:
    host.lab("dumm-bridge create lan0")
    port, mac = host.plug("lan0"), host.mac("lan0")
    everybody = (BROADCAST, MULTICAST, MULTICAST6, frames.router_advertisement())
    assert host.send(port, *everything(mac), *everybody) == []
    # Adding and deleting an address leaves the bridge as it was.
    host.lab("dumm-bridge address add lan0 10.0.0.254/24 fd00::fe/64")
    assert host.send(port, BROADCAST) == ["taken: broadcast"]
    host.lab("dumm-bridge address del lan0 10.0.0.254/24 fd00::fe/64")
    assert host.send(port, *everything(mac, "10.0.0.254"), *everybody) == []
    # An IPv6 address does not enable IPv4.
    host.lab("dumm-bridge address add lan0 fd00::fe/64")
    assert host.send(port, *everything(mac), *everybody) == ["taken: multicast6"]


@pytest.mark.attack("other-address")
def test_host_accepts_only_frames_for_its_address(host: Host) -> None:
    host.lab("dumm-bridge create lan0 --address 10.0.0.254/24 --address fd00::fe/64")
    port, mac = host.plug("lan0"), host.mac("lan0")
    said = host.send(port, *everything(mac), frames.router_advertisement())
    assert said == []
    host.sh(f"ip neigh replace fd00::1 lladdr {frames.MAC} dev lan0")
    good = [
        frames.arp("10.0.0.1", "10.0.0.254"),
        frames.udp(mac, "10.0.0.1", "10.0.0.254", "udp"),
        frames.udp(mac, "fd00::1", "fd00::fe", "udp6"),
        frames.ping(mac, "10.0.0.1", "10.0.0.254"),
        frames.ping(mac, "fd00::1", "fd00::fe"),
        frames.syn(mac, "10.0.0.1", "10.0.0.254"),
        frames.udp(frames.EVERYBODY, "10.0.0.1", "10.0.0.255", "directed broadcast"),
    ]
    assert host.send(port, *good, BROADCAST, MULTICAST, MULTICAST6) == [
        "arp: it is me, 10.0.0.254",
        "ip: protocol 1 from 10.0.0.254",
        "ip: protocol 58/129 from fd00::fe",
        "ip: protocol 6 from 10.0.0.254",
        *(f"taken: {t}" for t in ("broadcast", "directed broadcast", "multicast", "multicast6")),
        "taken: udp",
        "taken: udp6",
    ]
    # A guest that claims to be elsewhere is not trusted.
    assert host.send(port, frames.udp(mac, "203.0.113.1", "10.0.0.254", "spoofed")) == []


@pytest.mark.attack("router")
def test_guests_cannot_become_the_hosts_router(host: Host) -> None:
    host.lab("dumm-bridge create lan0 --address 10.0.0.254/24 --address fd00::fe/64")
    port, mac = host.plug("lan0"), host.mac("lan0")
    host.sh("ip route add 10.5.0.0/16 via 10.0.0.1; ip neigh replace 10.0.0.2 lladdr"
            f" {frames.MAC} dev lan0")  # fmt: skip

    def known() -> str:
        script = (
            "ip -6 route; ip -6 addr; ip route; ip route get 10.5.0.9; ip -o -6 route show cache"
        )
        return host.sh(script)

    before = known()
    host.send(
        port,
        frames.router_advertisement(),
        frames.router_advertisement("fe80::2"),
        frames.redirect(mac, "10.0.0.1", "10.0.0.254", "10.5.0.9", "10.0.0.2"),
    )
    assert known() == before
    assert "via 10.0.0.1 " in before


@pytest.mark.attack("no-nftables")
def test_host_is_closed_without_nftables(host: Host, tmp_path: Path) -> None:
    """The host then forwards nothing, and is closed as well."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nft").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/nft").chmod(0o755)
    without = {"PATH": f"{tmp_path}/bin:{host.lab.env['PATH']}"}
    words = "--address 10.0.0.254/24 --address fd00::fe/64"
    host.lab(f"dumm-bridge create lan0 {words}", env=without)
    port, mac = host.plug("lan0"), host.mac("lan0")
    assert host.send(port, *everything(mac)) == []
    host.sh(f"ip neigh replace fd00::1 lladdr {frames.MAC} dev lan0")
    good = [
        frames.arp("10.0.0.1", "10.0.0.254"),
        frames.udp(mac, "10.0.0.1", "10.0.0.254", "udp"),
        frames.udp(mac, "fd00::1", "fd00::fe", "udp6"),
        frames.udp(frames.EVERYBODY, "10.0.0.1", "10.0.0.255", "directed broadcast"),
    ]
    assert host.send(port, *good, BROADCAST, MULTICAST, MULTICAST6) == [
        "arp: it is me, 10.0.0.254",
        *(f"taken: {t}" for t in ("broadcast", "directed broadcast", "multicast", "multicast6")),
        "taken: udp",
        "taken: udp6",
    ]


@pytest.mark.attack("lone-tap")
def test_taps_are_closed_on_and_off_a_bridge(roots: Host) -> None:
    """On a bridge, off it, and through the groups that a bridge does not treat as its segment's."""
    lab = roots.lab
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0")
    state = statefile.load(str(lab.directory))
    iface.prepare(state, "a")  # as a guest's crash leaves it
    mac = sysfs.read("a-eth0", "address") or ""
    groups = [f"01:80:c2:00:00:{n:02x}" for n in (0, 2, 3, 14, 15)]
    odd = [frame for group in groups for frame in everything(group)]
    tagged = [f[:12] + bytes.fromhex("81000000") + f[12:] for f in odd]
    twice = [f[:12] + bytes.fromhex("81000000") + f[12:] for f in tagged]
    everybody = (BROADCAST, MULTICAST, MULTICAST6, frames.router_advertisement())
    attack = [*everything(mac, "10.0.0.254"), *odd, *tagged, *twice, *everybody]

    assert roots.send("tap:a-eth0", *attack) == []
    lab("dumm-bridge connect lan0 a-eth0")
    assert roots.send("tap:a-eth0", *odd, *tagged, *twice) == []
    good = frames.udp(roots.mac("lan0"), "10.0.0.1", "10.0.0.254", "udp")
    # The protocols that use these groups still work: LLDP, for example.
    assert roots.send("tap:a-eth0", good) == ["taken: udp"]
    lab("dumm-bridge disconnect a-eth0")
    assert roots.send("tap:a-eth0", *attack) == []
    lab("dumm-bridge connect lan0 a-eth0")
    lab("dumm-bridge delete lan0")
    assert roots.send("tap:a-eth0", *attack) == []
    iface.release(state, "a")


def test_expected_traffic_passes(host: Host, tmp_path: Path) -> None:
    """Expected uses work: pings in both directions, a service of the host at its address, and
    routing from one segment to another."""
    lab = host.lab
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-bridge create lan1 --address 10.0.1.254/24")
    lab("dumm-guest create a b")
    for n, guest in enumerate("ab"):
        lab(f"dumm-iface create {guest}-eth0 --bridge lan{n} --address 10.0.{n}.1/24")
        lab(f"dumm-iface route add {guest}-eth0 default --via 10.0.{n}.254")
    lab("dumm-guest start a b")

    def succeeds(guest: str, command: str) -> bool:
        return lab(f"dumm-guest exec {guest} -- {command}", status=None).code == 0

    host.sh("busybox ping -c1 -W30 10.0.0.1; busybox ping -c1 -W30 10.0.1.1")
    assert succeeds("a", "ping -c1 -W30 10.0.0.254")
    # The host's address on another segment cannot be reached on this one, and the host does not
    # route.
    host.sh("echo 0 >/proc/sys/net/ipv4/ip_forward")
    assert not succeeds("a", "ping -c1 -W1 10.0.1.254")
    assert not succeeds("a", f"ping -c1 -W1 {OTHER}")
    assert not succeeds("a", "ping -c1 -W1 10.0.1.1")
    host.sh("echo 1 >/proc/sys/net/ipv4/ip_forward")
    try:
        assert succeeds("a", "ping -c1 -W30 10.0.1.1")
        assert succeeds("b", "ping -c1 -W30 10.0.0.1")
        assert not succeeds("a", "ping -c1 -W1 10.0.1.254")
        assert not succeeds("a", f"ping -c1 -W1 {OTHER}")
    finally:
        host.sh("echo 0 >/proc/sys/net/ipv4/ip_forward")
    (tmp_path / "page").write_text("of the host's\n")
    serve = f"busybox httpd -f -p 8000 -h {tmp_path}"
    web = lab.start(f"dumm-guest exec --host -- {serve}")
    try:
        fetch = "timeout {1} wget -q -O - http://{0}:8000/page"
        until(lambda: succeeds("a", fetch.format("10.0.0.254", 30)), "a service of the host's")
        assert not succeeds("a", fetch.format("10.0.1.254", 2))
        # A NIC that is not on a bridge: the host is at its other end, and does not answer.
        lab("dumm-bridge disconnect a-eth0")
        lab("dumm-iface up a-eth0")
        mac = host.mac("a-eth0")
        tries = "".join(
            f"(ping -c1 -W1 {a} >/dev/null && echo ping {a}) &"
            f"({fetch.format(a, 2)} >/dev/null && echo page {a}) &"
            for a in ("10.0.0.254", "10.0.1.254", OTHER)
        )
        script = (
            f"for a in 10.0.0.254 10.0.0.253; do ip neigh replace $a lladdr {mac} dev eth0; done;"
            f"ip route del default; ip route add default via 10.0.0.253; {tries} wait"
        )
        assert lab(["dumm-guest", "exec", "a", "--", "sh", "-c", script]).out == ""
    finally:
        web.terminate()
        web.wait(PATIENCE)


def test_host_device_in_a_segment(roots: Host) -> None:
    """Everybody on its network is on the segment; the address that the host had there no longer
    counts."""
    lab = roots.lab
    roots.sh(
        "ip link add port0 type veth peer port1;"
        "for d in port0 port1; do ip link set $d addrgenmode none; ip link set $d up; done;"
        "ip address add 192.0.2.9/24 dev port0"
    )
    try:
        lab("dumm-bridge create lan0")
        lab("dumm-bridge uplink lan0 --to port0")
        attack = [*everything(roots.mac("lan0"), "192.0.2.9"), BROADCAST, MULTICAST, MULTICAST6]
        attack += everything(roots.mac("port0"), "192.0.2.9")
        assert roots.send("port1", *attack, frames.router_advertisement()) == []
        lab("dumm-bridge address add lan0 10.0.0.254/24")
        attack = everything(roots.mac("lan0"), "192.0.2.9")
        attack += everything(roots.mac("port0"), "192.0.2.9")
        assert roots.send("port1", *attack, frames.router_advertisement()) == []
        good = frames.udp(roots.mac("lan0"), "10.0.0.1", "10.0.0.254", "udp")
        assert roots.send("port1", good) == ["taken: udp"]
        lab("dumm-bridge uplink lan0 --none")
    finally:
        roots.sh("ip link del port0")


def test_rules_are_restored_after_the_firewall_is_reloaded(roots: Host) -> None:
    """The next command that concerns a segment restores the rules."""
    lab = roots.lab
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-guest create a")
    lab("dumm-iface create a-e0")
    port, mac = roots.plug("lan0"), roots.mac("lan0")
    before = call("nft", "list", "ruleset")
    for command in (
        "bridge address add lan0 10.0.0.254/24 --may-exist",
        "bridge connect lan0 a-e0",
    ):
        call("nft", "flush", "ruleset")
        lab(f"dumm-{command}")
        assert call("nft", "list", "ruleset") == before
        assert roots.send(port, *everything(mac)) == []
    # Destroying a lab whose rules are gone does not report an error.
    call("nft", "flush", "ruleset")
    assert lab("dumm-bridge delete lan0").err == ""


# ---- nothing is left ----


def call(*argv: str) -> str:
    """Run a program on the host."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


def world() -> dict[str, object]:
    """All of the host's network configuration."""
    settings = call("sh", "-c", "sysctl -a -r '^net[.]' 2>/dev/null").splitlines()
    links = json.loads(call("ip", "-j", "-d", "address"))
    return {
        "sysctls": [s for s in settings if "nf_conntrack_count" not in s],
        "links": [{k: v for k, v in d.items() if "linkinfo" not in k} for d in links],
        **{
            what: call(*what.split())
            for what in (
                "ip -4 route show table all",
                "ip -6 route show table all",
                "ip neigh",
                "ip rule",
                "ip -6 rule",
                "tc qdisc",
                "nft list ruleset",
            )
        },
    }


@pytest.mark.attack("left-behind")
def test_host_is_unchanged_after_50_labs(new_lab: Callable[..., Lab]) -> None:
    """Guests, bridges, addresses and uplinks, ended in order or by a guest's crash."""
    call("ip", "link", "add", "wan0", "type", "veth", "peer", "wan1")
    for device in ("wan0", "wan1"):
        call("ip", "link", "set", device, "addrgenmode", "none")
    for device in ("wan0", "wan1"):
        call("ip", "link", "set", device, "up")
    call("ip", "address", "add", "203.0.113.2/24", "dev", "wan0")
    call("ip", "route", "add", "default", "via", "203.0.113.1")
    try:
        with_table = new_lab("first")  # modules that the kernel loads for the first lab stay
        with_table("dumm-bridge create lan --address 10.200.0.254/24")
        with_table("dumm-bridge uplink lan")
        with_table("dumm-fs destroy")
        before = world()

        def one(number: int) -> None:
            lab = new_lab(f"lab{number}")
            lines = [
                f"bridge create q{number}",
                f"bridge create l{number} --address 10.{number}.0.254/24",
                f"bridge address add l{number} fd00:{number}::fe/64",
                "guest create a",
                f"iface create a-e{number} --bridge l{number} --address 10.{number}.0.1/24",
                f"iface create a-f{number}",
            ]
            if number % 2:
                lines.append(f"bridge uplink l{number} --nat")
            if number % 10 == 1:
                lines += ["guest start a", f"bridge disconnect a-e{number}"]
            if number % 10 == 3:
                lines += [f"bridge uplink l{number} --none", f"bridge delete l{number}"]
            lab("dumm-console", stdin="\n".join(lines).encode())
            if number % 20 == 1:
                lab("dumm-guest exec a -- halt -f", status=None)
            lab("dumm-fs destroy")

        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(one, number) for number in range(1, 51)]:
                done.result()
        after = world()
        for what, was in before.items():
            assert after[what] == was, what
    finally:
        call("ip", "link", "del", "wan0")


def test_rules_of_a_bridge_do_not_affect_other_devices(lab: Lab) -> None:
    """A device that takes the name of a removed bridge belongs to the host."""
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    call("ip", "link", "del", "lan0")
    call("ip", "link", "add", "lan0", "type", "bridge")
    try:
        index = sysfs.number("lan0", "ifindex")
        rules = json.loads(call("nft", "-j", "list", "ruleset"))["nftables"]
        members = [m for r in rules for m in r.get("set", {}).get("elem", ())]
        assert members
        assert not {"lan0", index} & {*members}
        assert sysfs.read("lan0", "ifalias") == ""
    finally:
        call("ip", "link", "del", "lan0")
    lab("dumm-fs destroy")
    assert call("nft", "list", "ruleset") == ""


def test_settings_of_other_devices_are_kept(tmp_path: Path) -> None:
    """`all`, `default` and each existing device keep their settings while the lab exists."""
    labdir = recorded(tmp_path, "a")

    def settings() -> list[str]:
        return [s for s in call("sysctl", "-a", "-r", "^net[.]ipv.[.](conf|neigh)").splitlines()]

    before = settings()
    try:
        bridge.create(labdir, "lan0", addresses=["10.0.0.254/24", "fd00::fe/64"])
        bridge.create(labdir, "lan1")
        iface.create(labdir, "a-eth0", bridge="lan0")
        state = statefile.load(labdir)
        iface.prepare(state, "a")
        assert link_views.ours(state, "a-eth0")
        own = ("lan0", "lan1", "a-eth0")
        assert [s for s in settings() if s.split(" ")[0].split(".")[3] not in own] == before
        wanted = {
            "ipv6": ("accept_ra=0", "autoconf=0", "accept_redirects=0", "accept_source_route=0"),
            "ipv4": ("accept_redirects=0", "accept_source_route=0", "rp_filter=1"),
        }
        for device in own:
            for family, values in wanted.items():
                for name, value in (v.split("=") for v in values):
                    path = Path(f"/proc/sys/net/{family}/conf/{device}/{name}")
                    assert path.read_text() == f"{value}\n", path
    finally:
        bridge.remove_all(statefile.load(labdir))
    assert settings() == before


def test_rules_and_settings_of_bridges_go_with_the_lab(lab: Lab) -> None:
    """Even if a bridge was removed by hand, or an address could not be recorded."""
    script = "nft list ruleset; sysctl -a 2>/dev/null | grep forwarding"
    before = subprocess.run(["sh", "-c", script], capture_output=True, check=False).stdout
    lab("dumm-bridge create b0 --address 10.7.0.254/24")
    lab("dumm-bridge uplink b0 --nat")
    subprocess.run(["ip", "link", "del", "b0"], check=True)
    lab("dumm-bridge delete b0")
    lab("dumm-bridge create b1")
    full = ["sh", "-c", "ulimit -f 0; exec dumm-bridge address add b1 10.9.0.254/24"]
    assert lab(full, status=None).code != 0
    assert lab("dumm-bridge show b1 -o address").lines == ["-"]
    lab("dumm-fs destroy")
    after = subprocess.run(["sh", "-c", script], capture_output=True, check=False).stdout
    assert after == before
