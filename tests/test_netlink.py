"""Netlink messages and the request loop, against this host's kernel; taps; sysfs."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dumm_tools.linux import netlink, rtnl, sysfs, tun
from dumm_tools.linux.netlink import Channel

MAC = "02:00:00:00:00:01"


def ack(number: int, code: int = 0, flags: int = 0, extra: bytes = b"") -> bytes:
    """A struct nlmsgerr."""
    body = struct.pack("=i", -code) + bytes(16) + extra
    return struct.pack("=IHHII", 16 + len(body), 2, flags, number, 0) + body


class Script:
    """A channel with prepared answers instead of a kernel."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []

    def send(self, data: bytes, /) -> None:
        self.sent.append(data)

    def receive(self, timeout: float, /) -> bytes:
        if not self.answers:
            raise TimeoutError
        return self.answers.pop(0)


def request(subject: str = "x") -> netlink.Request:
    return rtnl.link(rtnl.RTM_GETLINK, subject)


def test_transact_accepts_answers_in_any_order_and_several_per_datagram() -> None:
    script = Script(ack(2) + ack(99), ack(3), ack(1))
    netlink.transact(script, [request(), request(), request()])
    assert script.answers == []
    numbers = [struct.unpack_from("=IHHII", data)[3] for data in script.sent]
    assert numbers == [1, 2, 3]


def test_transact_raises_the_first_failure_after_all_answers() -> None:
    script = Script(ack(1), ack(2, errno.EPERM), ack(3, errno.EEXIST))
    with pytest.raises(OSError, match="Operation not permitted") as caught:
        netlink.transact(script, [request("a"), request("b"), request("c")])
    assert (caught.value.errno, caught.value.filename) == (errno.EPERM, "b")
    assert script.answers == []


def test_error_contains_the_kernels_message() -> None:
    words = b"no such thing.\0"
    attribute = struct.pack("=HH", 4 + len(words), 1) + words
    for flags, echo in ((0x300, b""), (0x200, bytes(16))):
        head = bytearray(ack(1, errno.EINVAL, flags, echo + attribute))
        struct.pack_into("=I", head, 20, 32 if echo else 999)
        with pytest.raises(OSError, match=r"Invalid argument \(no such thing\)"):
            netlink.transact(Script(bytes(head)), [request()])


@pytest.mark.parametrize("datagram", [b"\x04\0\0\0" + bytes(12), b"\xff\0\0\0" + bytes(12)])
def test_damaged_datagram_is_an_error(datagram: bytes) -> None:
    with pytest.raises(OSError, match="Bad message"):
        netlink.transact(Script(datagram), [request()])


def test_missing_answer_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        netlink.transact(Script(), [request()])


def test_address_message() -> None:
    data = rtnl.address(rtnl.RTM_NEWADDR, 7, "10.1.2.3/24").data
    assert data[16:24] == struct.pack("=BBBBI", 2, 24, 0, 0, 7)
    assert b"\x0a\x01\x02\xff" in data  # broadcast
    data = rtnl.address(rtnl.RTM_NEWADDR, 7, "fe80::1/64").data
    assert data[16:24] == struct.pack("=BBBBI", 10, 64, 2, 253, 7)


def test_only_message_classes_of_pyroute2_are_loaded() -> None:
    code = (
        "import sys; from dumm_tools.linux import rtnl; "
        "assert 'pyroute2' not in sys.modules; "
        "rtnl.load(); "
        "print([m for m in ('pyroute2.iproute', 'asyncio', 'pyroute2.netlink.nlsocket') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def channel() -> Iterator[Channel]:
    with netlink.host() as opened:
        yield opened


@pytest.fixture
def bridge(channel: Channel) -> Iterator[str]:
    netlink.transact(channel, [rtnl.new_bridge("br.t0", MAC)])
    yield "br.t0"
    delete = rtnl.link(rtnl.RTM_DELLINK, "br.t0", [("IFLA_IFNAME", "br.t0")])
    netlink.transact(channel, [delete])


@pytest.mark.netns
def test_new_bridge_has_no_addresses_of_its_own(channel: Channel, bridge: str) -> None:
    link = rtnl.find_link(channel, bridge)
    assert (link.up, link.mtu, link.parent) == (False, 1500, None)
    assert sysfs.read(bridge, "address") == MAC
    assert bridge in [found.name for found in rtnl.links(channel)]
    assert [found.name for found in rtnl.links(channel, bridge.encode() + b"\0")] == [bridge]
    for file in ("stp_state", "forward_delay", "multicast_snooping"):
        assert sysfs.number(bridge, f"bridge/{file}") == 0
    with pytest.raises(FileExistsError):
        netlink.transact(channel, [rtnl.new_bridge(bridge, MAC)])


@pytest.mark.netns
def test_addresses_are_added_listed_and_deleted(channel: Channel, bridge: str) -> None:
    index = rtnl.find_link(channel, bridge).ifindex
    wanted = ["10.0.0.1/24", "10.0.0.2/24", "192.0.2.1/32", "fd00::1/64"]
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    for _ in range(2):  # a second time changes nothing
        requests = [rtnl.address(rtnl.RTM_NEWADDR, index, a, flags=flags) for a in wanted]
        netlink.transact(channel, requests)
    assert sorted(a.address for a in rtnl.addresses(channel, index)) == sorted(wanted)
    assert rtnl.addresses(channel, index + 1000) == []
    with pytest.raises(OSError, match="assign") as caught:
        netlink.transact(channel, [rtnl.address(rtnl.RTM_DELADDR, index, "10.9.9.9/8")])
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.netns
def test_hundreds_of_requests_at_once(channel: Channel, bridge: str) -> None:
    index = rtnl.find_link(channel, bridge).ifindex
    requests = [
        rtnl.address(rtnl.RTM_NEWADDR, index, f"10.{n >> 8}.{n & 255}.1/24") for n in range(600)
    ]
    netlink.transact(channel, requests)
    assert len(rtnl.addresses(channel, index)) == 600


@pytest.mark.netns
def test_errors_name_the_reason_and_the_device(channel: Channel, bridge: str) -> None:
    with pytest.raises(OSError, match="No such device"):
        rtnl.find_link(channel, "nothere")
    wanted = [("IFLA_IFNAME", bridge), ("IFLA_MTU", 70000)]
    with pytest.raises(OSError, match="greater than device maximum") as caught:
        netlink.transact(channel, [rtnl.link(rtnl.RTM_SETLINK, bridge, wanted)])
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, bridge)


@pytest.mark.netns
def test_altname_is_set(channel: Channel, bridge: str) -> None:
    long = "quite-a-long-name-of-a-guest-eth0"
    netlink.transact(channel, [rtnl.new_altname(bridge, long)])
    assert rtnl.find_link(channel, bridge).altnames == (long,)


@pytest.mark.netns
def test_tap_vanishes_with_its_descriptor_unless_it_is_persistent() -> None:
    with tun.created("tap.t0", 0) as fd:
        assert sysfs.exists("tap.t0")
        assert sysfs.number("tap.t0", "owner") == 0
        with pytest.raises(OSError, match="busy"), tun.created("tap.t0", 0):
            pass
        assert fd > 2
        assert not os.get_inheritable(fd)
    assert not sysfs.exists("tap.t0")
    with tun.created("tap.t0", 0) as fd:
        tun.persist(fd)
    assert sysfs.exists("tap.t0")
    tun.give("tap.t0", 1234)
    assert sysfs.number("tap.t0", "owner") == 1234
    with netlink.host() as channel:
        delete = rtnl.link(rtnl.RTM_DELLINK, "tap.t0", [("IFLA_IFNAME", "tap.t0")])
        netlink.transact(channel, [delete])


@pytest.mark.netns
def test_sysfs_of_missing_devices(bridge: str) -> None:
    assert sysfs.read("nothere", "mtu") is None
    assert sysfs.number("nothere", "mtu") is None
    assert sysfs.number(bridge, "address") is None  # not a number
    assert sysfs.read(bridge, "carrier") is None  # the bridge is down
    assert not sysfs.is_up("nothere")
    assert sysfs.master("nothere") is None
    assert sysfs.ports("nothere") == []
