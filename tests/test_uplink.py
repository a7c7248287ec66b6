"""Uplinks: NAT and host devices, made, remembered, and undone without a trace. "The Internet" is a
network namespace reached through the session's own veth."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from support import PATIENCE, outside
from support.checks import one_line_error, until
from support.labs import Lab
from support.outside import HERE, METADATA, THERE, call
from support.users import User

from dumm_tools.linux import sysctl, sysfs

pytestmark = [pytest.mark.uml, pytest.mark.root]

#: The host's own address and its services.
OWN = HERE
SERVICE = f"{OWN}:8000"


def _held(link: dict[str, list[dict[str, object]]]) -> list[str]:
    return [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]]


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[list[str]]:
    """The prefix that runs a command there."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www/index.html").write_text("the Internet\n")
    server = ["busybox", "httpd", "-f", "-h", str(tmp_path / "www"), "-p", "8000"]
    with outside.world(tmp_path / "www") as inside, subprocess.Popen(server) as service:
        yield inside
        service.terminate()


def world() -> dict[str, str]:
    """Everything on the host that an uplink could change."""
    sysctls = call("sh", "-c", "sysctl -a -r '^net[.]' 2>/dev/null").splitlines()
    links = json.loads(call("ip", "-j", "address"))
    return {
        "nftables": call("nft", "list", "ruleset"),
        "sysctls": "\n".join(s for s in sysctls if "nf_conntrack_count" not in s),
        "links": str([(d["ifname"], "UP" in d["flags"], _held(d), d.get("master")) for d in links]),
        "routes": call("ip", "route") + call("ip", "-6", "route"),
    }


def guest(lab: Lab, address: str = "10.0.0.1/24", gateway: str = "10.0.0.254") -> None:
    """Make a guest with a route by the host's address on lan0."""
    lab("dumm-guest create a")
    lab(f"dumm-iface create a-eth0 --bridge lan0 --address {address}")
    lab(f"dumm-iface route add a-eth0 default --via {gateway}")
    lab("dumm-guest start a")


def reaches(lab: Lab, name: str = "a") -> bool:
    """Whether a guest gets a page from the Internet, however long it takes."""
    done = lab(f"dumm-guest exec {name} -- wget -q -O - http://{THERE}/", status=None)
    return done.out == "the Internet\n"


def is_cut_off(lab: Lab) -> bool:
    """Whether the guest gets no page from the Internet for a few seconds."""
    return reached(lab, set(), {f"{THERE}:80"}) == set()


def reached(lab: Lab, wanted: Collection[str], closed: Collection[str] = ()) -> set[str]:
    """The places (ADDRESS:PORT) that the guest gets a page from. The `wanted` ones get all the time
    that they need, the `closed` ones a few seconds."""
    fetch = "({1} wget -q -O - http://{0}/ | grep -q Internet && echo {0}) & "
    script = "".join(fetch.format(place, "") for place in wanted)
    script += "".join(fetch.format(place, "timeout 6") for place in closed)
    return set(lab(["dumm-guest", "exec", "a", "--", "sh", "-c", f"{script} wait"]).lines)


def state_id(lab: Lab) -> str:
    """The suffix of the lab's table names."""
    return str(json.loads((lab.directory / "state.json").read_text())["id"])


def pings(lab: Lab, to: str = THERE, wait: float = PATIENCE) -> bool:
    return lab(f"dumm-guest exec a -- ping -c 1 -W {wait:.0f} {to}", status=None).code == 0


def test_nat_is_made_and_undone_without_a_trace(internet: list[str], lab: Lab) -> None:
    before = world()
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    guest(lab)
    assert is_cut_off(lab)
    made = world()
    lab("dumm-bridge uplink lan0 --nat")
    assert lab("dumm-bridge list -o name,uplink").out == "lan0\tnat\n"
    assert reaches(lab)
    assert pings(lab)
    # The traffic is masqueraded, otherwise there could not be an answer; nobody there gets in.
    call(*internet, "ip", "route", "add", "10.0.0.0/24", "via", "203.0.113.2")
    ping = [*internet, "busybox", "ping", "-c", "1", "-W", "1"]
    assert subprocess.run([*ping, "203.0.113.2"], capture_output=True, check=False).returncode == 0
    assert subprocess.run([*ping, "10.0.0.1"], capture_output=True, check=False).returncode == 1
    lab("dumm-bridge uplink lan0 --nat")  # a second time is not an error
    lab("dumm-bridge uplink lan0 --none")
    assert world() == made
    assert is_cut_off(lab)
    lab("dumm-bridge uplink lan0")
    assert reaches(lab)
    lab("dumm-fs destroy")
    assert world() == before


@pytest.mark.attack("host-by-nat")
def test_host_is_closed_unless_access_is_allowed(internet: list[str], lab: Lab) -> None:
    before = world()
    lab("dumm-bridge create lan0 --address 10.0.0.254/24 --address fd00::fe/64")
    lab("dumm-bridge create lan1 --address 10.0.1.254/24")
    guest(lab)
    lab("dumm-iface address add a-eth0 fd00::1/64")
    # As Docker forwards to its containers; and the host's own services, forwarded to itself.
    call("nft", "add table ip other")
    call("nft", "add chain ip other pre { type nat hook prerouting priority dstnat; }")
    call("nft", f"add rule ip other pre ip daddr {OWN} tcp dport 9000 dnat to {THERE}:80")
    call("nft", f"add rule ip other pre ip daddr {THERE} tcp dport 9001 redirect to :8000")
    own = {"10.0.0.254:8000", "[fd00::fe]:8000", f"{THERE}:9001"}
    others = {SERVICE, METADATA, "10.0.1.254:8000", f"{OWN}:9000"}
    outside = {f"{THERE}:80"}
    # Without an uplink the host is a member of the segment through its address there.
    assert reached(lab, own, others | outside) == own
    lab("dumm-bridge uplink lan0 --nat")
    assert lab("dumm-bridge show -o uplink,host_access lan0").out == "nat\tno\n"
    assert reached(lab, outside, own | others) == outside
    assert pings(lab, "10.0.0.254")
    assert pings(lab, "fd00::fe")
    assert not pings(lab, OWN, 2)
    # Requests from the host itself to a guest are answered.
    lab("dumm-guest exec a -- sh -c 'mkdir /www; echo mine >/www/index.html; httpd -h /www'")
    with urllib.request.urlopen("http://10.0.0.1/", timeout=PATIENCE) as page:
        assert page.read() == b"mine\n"
    lab("dumm-bridge uplink lan0 --nat --host-access")
    assert lab("dumm-bridge show -o uplink,host_access lan0").out == "nat\tyes\n"
    assert reached(lab, own | others | outside) == own | others | outside
    # The option is remembered, restored like the rest when the firewall is reloaded, and undone.
    call("nft", "delete table inet dumm_" + state_id(lab))
    call("nft", "delete table ip dumm_" + state_id(lab))
    lab("dumm-bridge connect lan0 a-eth0")
    assert reached(lab, {SERVICE, *outside}) == {SERVICE, *outside}
    lab("dumm-guest stop a")
    call("ip", "link", "del", "lan0")
    lab("dumm-guest start a")
    assert reached(lab, {SERVICE, METADATA}) == {SERVICE, METADATA}
    lab("dumm-bridge uplink lan0 --nat --may-exist")
    assert lab("dumm-bridge show -o uplink,host_access lan0").out == "nat\tyes\n"
    lab("dumm-bridge uplink lan0 --nat")
    assert reached(lab, outside, own | others) == outside
    lab("dumm-bridge uplink lan0 --none")
    assert reached(lab, own, others | outside) == own
    assert lab("dumm-bridge show -o uplink,host_access lan0").out == "-\tno\n"
    call("nft", "delete table ip other")
    lab("dumm-fs destroy")
    assert world() == before


def test_last_of_two_labs_restores_the_hosts_settings(
    internet: list[str], new_lab: Callable[..., Lab]
) -> None:
    before = world()
    one, other = new_lab("one"), new_lab("other")
    one("dumm-bridge create lan0 --address 10.0.0.254/24")
    one("dumm-bridge create lan2 --address 10.0.2.254/24")
    other("dumm-bridge create lan1 --address 10.0.1.254/24")
    one("dumm-bridge uplink lan0")
    one("dumm-bridge uplink lan2")
    other("dumm-bridge uplink lan1")
    guest(one)
    one("dumm-bridge uplink lan2 --none")
    assert reaches(one)
    assert not sysctl.forwards("lan2")
    one("dumm-bridge delete lan0")
    assert sysctl.forwards("wan0")
    other("dumm-guest create a")
    other("dumm-iface create a-eth9 --bridge lan1 --address 10.0.1.1/24")
    other("dumm-iface route add a-eth9 default --via 10.0.1.254")
    one("dumm-guest stop a")
    other("dumm-guest start a")
    assert reaches(other)
    other("dumm-fs destroy")
    assert not sysctl.forwards("wan0")
    one("dumm-fs destroy")
    assert world() == before


def test_uplink_is_recreated_with_its_bridge(internet: list[str], lab: Lab) -> None:
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-bridge uplink lan0")
    guest(lab)
    lab("dumm-guest stop a")
    # As a reboot of the host would.
    call("ip", "link", "del", "lan0")
    call("nft", "flush", "ruleset")
    sysctl.set_forwarding("wan0", False)
    lab("dumm-guest start a")
    assert reaches(lab)


def test_reloaded_firewall_leaves_nothing_behind(internet: list[str], lab: Lab) -> None:
    before = world()
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-bridge uplink lan0")
    guest(lab)
    call("nft", "flush", "ruleset")
    lab("dumm-bridge uplink lan0")
    assert reaches(lab)
    # The host forwards only for the lab, as before.
    assert '"wan0"' in call("nft", "list", "ruleset")
    call("nft", "flush", "ruleset")
    lab("dumm-bridge uplink lan0 --none")
    assert not sysctl.forwards("wan0")
    assert not sysctl.forwards("lan0")
    lab("dumm-bridge uplink lan0")
    call("nft", "flush", "ruleset")
    lab("dumm-fs destroy")
    assert world() == before


def test_missing_uplink_device_is_an_error(internet: list[str], lab: Lab) -> None:
    lab("dumm-bridge create lan0")
    call("ip", "link", "add", "port0", "type", "veth", "peer", "name", "port1")
    lab("dumm-bridge uplink lan0 --to port0")
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0 --bridge lan0")
    call("ip", "link", "del", "port0")
    call("ip", "link", "del", "lan0")
    done = lab("dumm-guest start a", status=3)
    assert done.err.splitlines() == [
        "dumm-guest: no device 'port0'",
        "dumm-guest: hint: dumm-bridge uplink lan0 --none removes the uplink",
    ]
    lab("dumm-bridge uplink lan0 --none")
    lab("dumm-guest start a")


def test_rejected_uplinks(lab: Lab) -> None:
    lab("dumm-bridge create lan0 lan1")
    before = world()
    for command, status, reason in (
        ("lan0", 4, "the host has no IPv4 address on 'lan0' for guests to use as a gateway"),
        ("lan9", 3, "no bridge 'lan9'"),
        ("lan0 --nat --none", 2, "--nat, --to and --none are mutually exclusive"),
        ("lan0 --none --host-access", 2, "--host-access requires --nat"),
        ("lan0 --to lo --host-access", 2, "--host-access requires --nat"),
        ("lan0 --to nosuch", 3, "no device 'nosuch'"),
        ("lan0 --to lo", 4, "'lo' cannot be a bridge's port"),
        ("lan0 --to lan1", 4, "'lan1' belongs to a lab"),
        ("lan0 --to ../x", 2, "bad device name '../x'"),
    ):
        done = lab(f"dumm-bridge uplink {command}", status=status)
        assert one_line_error(done.err, "dumm-bridge") == reason
    assert lab("dumm-bridge list -o uplink").out == "-\n-\n"
    assert world() == before
    lab("dumm-bridge address add lan0 10.0.0.254/24")
    lab("dumm-bridge uplink lan0")
    done = lab("dumm-bridge address del lan0 10.0.0.254/24", status=4)
    assert "needs an IPv4 address" in done.err


def test_uplink_to_a_host_device(internet: list[str], lab: Lab) -> None:
    """A guest on the segment can reach neighbours of the host's device."""
    call("ip", "link", "add", "port0", "type", "veth", "peer", "name", "port1")
    call("ip", "link", "set", "port1", "addrgenmode", "none")
    try:
        call("ip", "address", "add", "10.7.0.9/24", "dev", "port1")
        call("ip", "link", "set", "port1", "up")
        before = world()
        lab("dumm-bridge create lan0 lan1")
        guest(lab, "10.7.0.1/24", "10.7.0.9")
        assert not pings(lab, "10.7.0.9", 2)
        lab("dumm-bridge uplink lan0 --to port0")
        assert lab("dumm-bridge show -o uplink lan0").out == "to:port0\n"
        until(lambda: pings(lab, "10.7.0.9", 2), "an answer")
        done = lab("dumm-bridge uplink lan1 --to port0", status=4)
        assert "is already a port of 'lan0'" in done.err
        lab("dumm-bridge uplink lan0 --none")
        assert sysfs.master("port0") is None
        assert not sysfs.is_up("port0")
        call("ip", "address", "add", "10.8.0.1/24", "dev", "port0")
        done = lab("dumm-bridge uplink lan0 --to port0")
        assert "warning: 'port0' has the address 10.8.0.1/24" in done.err
        call("ip", "address", "del", "10.8.0.1/24", "dev", "port0")
        lab("dumm-fs destroy")
        until(lambda: world()["links"] == before["links"], "the links as before")
        assert world() == before
    finally:
        call("ip", "link", "del", "port0")


@pytest.fixture(scope="module")
def user(packs: Path) -> Iterator[User]:
    """A user who is not root."""
    user = User(8, packs)
    user.lab("making")("dumm-fs master build busybox")
    yield user
    user.end()


@pytest.mark.parametrize("kind", ["root", "pasta", "slirp4netns"])
def test_uplink_of_an_isolated_lab(
    internet: list[str], kind: str, user: User, new_lab: Callable[..., Lab], packs: Path
) -> None:
    """In an isolated lab, of root and of an ordinary user; its guests cannot reach the host's
    loopback."""
    before = world()
    if kind == "root":
        lab = new_lab("host")
        lab("dumm-fs destroy")
        lab("dumm-fs init --isolated --kernel sid --master busybox")
    else:
        lab = user.lab(kind)
        if kind == "slirp4netns":
            lab.env["PATH"] = _without(lab, "pasta")
        lab("dumm-fs init --kernel sid --master busybox")
    try:
        lab("dumm-bridge create lan0 --address 10.0.0.254/24")
        lab("dumm-bridge uplink lan0 --nat")
        guest(lab)
        assert reaches(lab)
        with socket.create_server(("127.0.0.1", 0)) as private:
            port = private.getsockname()[1]
            addresses = ("10.0.0.254", "192.0.0.2", "192.0.0.100", "127.0.0.1")
            assert reached(lab, set(), {f"{a}:{port}" for a in addresses}) == set()
            private.settimeout(0.1)
            with pytest.raises(TimeoutError):
                private.accept()
        closed = {SERVICE, METADATA, "203.0.113.255:8000", "192.0.0.100:8000"}
        assert reached(lab, {f"{THERE}:80"}, closed) == {f"{THERE}:80"}
        lab("dumm-bridge uplink lan0 --nat --host-access")
        assert reached(lab, {SERVICE, METADATA}) == {SERVICE, METADATA}
        lab("dumm-bridge uplink lan0 --nat")
        done = lab("dumm-bridge uplink lan0 --to wan0", status=4)
        assert one_line_error(done.err, "dumm-bridge").startswith("'lan0' already has an uplink")
        # An address that the host gets later is closed by the next command that changes something.
        call("ip", "address", "add", "203.0.113.99/32", "dev", "wan0")
        # If the process ends for any reason, the next command that changes something restarts it.
        pid = pid_in(lab, "outside")
        call("kill", "-9", pid)
        lab("dumm-guest restart a")
        assert reached(lab, {f"{THERE}:80"}, {"203.0.113.99:8000"}) == {f"{THERE}:80"}
        call("ip", "address", "del", "203.0.113.99/32", "dev", "wan0")
        lab("dumm-bridge uplink lan0 --none")
        assert is_cut_off(lab)
        assert not list(lab.directory.glob("run/outside*"))
        tables = json.loads(lab.host("nft -j list tables").out)["nftables"]
        assert [t["table"]["family"] for t in tables if "table" in t] == ["inet"]
        lab("dumm-bridge uplink lan0 --nat")
        holder, pid = pid_in(lab, "holder"), pid_in(lab, "outside")
        call("kill", "-9", holder)
        until(lambda: not _lives(pid), "its end with the lab")
        lab("dumm-guest start a")
        assert reached(lab, {f"{THERE}:80"}, {SERVICE, METADATA}) == {f"{THERE}:80"}
        pid = pid_in(lab, "outside")
    finally:
        lab("dumm-fs destroy")
    until(lambda: not _lives(pid), "its end with the lab")
    assert world() == before


def pid_in(lab: Lab, name: str) -> str:
    """The process that a lab records by this name."""
    found = [p for p in lab.directory.glob(f"run/{name}-*") if p.name[len(name) + 1 :].isdecimal()]
    return found[0].read_text().split()[0]


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except OSError:
        return False


def _without(lab: Lab, program: str) -> str:
    """A PATH that leads to all programs except one."""
    place = lab.directory / "bin"
    place.mkdir()
    for directory in lab.env["PATH"].split(":"):
        for path in Path(directory).glob("*"):
            link = place / path.name
            if path.name != program and not link.is_symlink():
                link.symlink_to(path)
    return str(place)


def test_host_is_silent_on_a_segment_without_uplink(internet: list[str], lab: Lab) -> None:
    """Nothing on the host answers on such a segment, whatever the segment next to it has."""
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab("dumm-bridge create quiet")
    lab("dumm-bridge uplink lan0")
    guest(lab)
    lab("dumm-iface create a-eth1 --bridge quiet --address 10.5.0.1/24")
    mac = lab("dumm-iface show -o mac a-eth1").out.strip()
    strangers = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        tap.bind(("a-eth1", 0))
        tap.settimeout(0.1)
        assert reaches(lab)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            try:
                frame, (_, _, kind, *_) = tap.recvfrom(65536)
            except TimeoutError:
                continue
            if frame[6:12].hex(":") != mac or kind == socket.PACKET_OUTGOING:
                strangers.add(frame.hex())
    assert strangers == set()


def test_lab_file_with_a_way_out(internet: list[str], new_lab: Callable[..., Lab]) -> None:
    """That of an isolated lab is made by a process that has not entered it."""
    lab = new_lab("lab", "--isolated")
    assert internet
    text = b"""bridge create lan0 lan1
bridge address add lan0 10.0.0.254/24
bridge address add lan1 10.0.1.254/24
bridge uplink lan1
guest create a
"""
    without = text.replace(b"bridge uplink lan1\n", b"")

    def apply(file: bytes) -> None:
        assert lab("dumm-console apply - --prune", stdin=file).err == ""
        assert lab("dumm-console apply - --prune --dry-run", stdin=file).out == ""

    for file, uplinks in ((text, ["-", "nat"]), (without, ["-", "-"]), (text, ["-", "nat"])):
        apply(file)
        assert lab("dumm-bridge list -o uplink").lines == uplinks
    failing = text.replace(b"uplink lan1", b"uplink lan1 --to nosuch0")
    done = lab("dumm-console apply -", stdin=failing, status=4)
    message = "<stdin>:4:25: 'nosuch0' is outside this lab's network namespace"
    assert one_line_error(done.err, "dumm-console") == message
    assert lab("dumm-bridge list -o uplink").lines == ["-", "nat"]
