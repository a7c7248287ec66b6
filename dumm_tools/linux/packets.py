"""Packets of a device, as packet sockets deliver them: packet(7)."""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

#: A classic BPF program: struct sock_filter (linux/filter.h), as code, jt, jf and k.
Operation = tuple[int, int, int, int]

# linux/if_ether.h, linux/if_packet.h, asm-generic/socket.h
_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA = 263, 6, 8
_PACKET_ADD_MEMBERSHIP, _PACKET_MR_PROMISC = 1, 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_TP_STATUS_VLAN_VALID, _TP_STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_TIMESPEC = struct.Struct("@ll")
_ETH_P_8021Q = 0x8100
_ADDRESSES = 12  # bytes in front of a VLAN tag
#: The largest packet; longer ones do not exist on Ethernet devices.
LARGEST = 1 << 18
#: How much the kernel keeps while we are busy (bytes).
_BUFFER = 4 << 20


class Packet(NamedTuple):
    """A packet, and when the device received or sent it, in nanoseconds since the Epoch."""

    time: int
    data: bytes


def opened(device: str, program: Sequence[Operation] = ()) -> socket.socket:
    """A socket for all packets of a device in both directions that a filter accepts; OSError. The
    device is promiscuous meanwhile: a bridge passes to us what it forwards only then."""
    # Protocol 0: nothing is delivered before the filter is there, and the device is chosen.
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        found.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        found.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        with contextlib.suppress(OSError):  # not privileged on this host
            found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        if program:
            code = array.array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
            head = struct.pack("@HP", len(program), code.buffer_info()[0])
            found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
        found.bind((device, _ETH_P_ALL))
        member = struct.pack("=iHH8x", socket.if_nametoindex(device), _PACKET_MR_PROMISC, 0)
        found.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, member)
    except BaseException:
        found.close()
        raise
    return found


def received(source: socket.socket) -> Packet | None:
    """The next packet, with its VLAN tag where it was; None if there is none now. OSError; ENETDOWN
    once when the device goes down, ahead of packets that arrived before."""
    try:
        data, ancillary, _, _ = source.recvmsg(LARGEST, 128)
    except BlockingIOError:
        return None
    when = 0
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, rest = _TIMESPEC.unpack(value)
            when = seconds * 1_000_000_000 + rest
        elif level == _SOL_PACKET and kind == _PACKET_AUXDATA:
            status, *_, tag, protocol = _AUXDATA.unpack(value)
            if status & _TP_STATUS_VLAN_VALID:  # the kernel has taken it out
                if not status & _TP_STATUS_VLAN_TPID_VALID:
                    protocol = _ETH_P_8021Q
                inserted = struct.pack("!HH", protocol, tag)
                data = data[:_ADDRESSES] + inserted + data[_ADDRESSES:]
    return Packet(when, data)


def dropped(source: socket.socket) -> int:
    """Packets that found no room since the last call."""
    _, drops = struct.unpack("=II", source.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    return int(drops)


def is_gone(source: socket.socket) -> bool:
    """Whether the device does not exist any more; one of the same name is another."""
    return not source.getsockname()[0]
