"""Ingress filters on a device, ahead of the protocol stack (tc-bpf(8)): classic BPF in "direct
action" mode, which drops a frame or lets it pass.

Encoded by hand after linux/pkt_cls.h and linux/filter.h. A filter disappears with its device, and
needs neither a program nor a capability outside the network namespace.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from dumm_tools.linux import netlink, rtattr
from dumm_tools.linux.netlink import Request

_RTM_NEWQDISC = 36
_RTM_NEWTFILTER, _RTM_DELTFILTER = 44, 45
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_OPS_LEN, _TCA_BPF_OPS, _TCA_BPF_FLAGS = 4, 5, 8
_TCA_BPF_FLAG_ACT_DIRECT = 1
#: Parent of clsact, its handle, and the ingress hook.
_TC_H_CLSACT, _CLSACT, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
#: struct tcmsg: family, padding, ifindex, handle, parent, info.
_TCMSG = struct.Struct("=BxxxiIII")
#: For `info`: highest priority, all protocols.
_PRIORITY, _HANDLE = 1, 1
_ETH_P_ALL = 0x0003

#: struct sock_filter: code, steps when true, steps when false, operand.
Operation = tuple[int, int, int, int]
Program = Sequence[Operation]

_DROP, _GO_ON = 2, 0xFFFFFFFF  # TC_ACT_SHOT, TC_ACT_UNSPEC
_PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL, without any VLAN tag
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF

DROP: Operation = (0x06, 0, 0, _DROP)
PASS: Operation = (0x06, 0, 0, _GO_ON)
LOAD_PROTOCOL: Operation = (0x28, 0, 0, _PROTOCOL)


def load(offset: int, size: int = 4, *, network: bool = False) -> Operation:
    """Load 2 or 4 bytes of the frame, or of the header after the Ethernet header."""
    return ({4: 0x20, 2: 0x28}[size], 0, 0, offset + (_NETWORK_HEADER if network else 0))


def mask(bits: int) -> Operation:
    """Keep only these bits of the loaded value."""
    return (0x54, 0, 0, bits)


def unless_equal(value: int, skip: int) -> Operation:
    """Skip operations unless the loaded value is this one."""
    return (0x15, 0, skip, value)


def unless_at_least(value: int, skip: int) -> Operation:
    """Skip operations unless the loaded value is at least this one."""
    return (0x35, 0, skip, value)


def when_equal(value: int, what: Program) -> list[Operation]:
    """Run operations if the loaded value is this one, otherwise continue after them; any length."""
    return [unless_equal(value, 1), (0x05, 0, 0, 1), (0x05, 0, 0, len(what)), *what]


def put(index: int, program: Program, subject: str) -> list[Request]:
    """Install this filter on the device, replacing one installed earlier in the same way."""
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    options = [
        rtattr.attribute(_TCA_BPF_OPS_LEN, struct.pack("=H", len(program))),
        rtattr.attribute(_TCA_BPF_OPS, b"".join(struct.pack("=HBBI", *o) for o in program)),
        rtattr.attribute(_TCA_BPF_FLAGS, struct.pack("=I", _TCA_BPF_FLAG_ACT_DIRECT)),
    ]
    head = _TCMSG.pack(0, index, _CLSACT, _TC_H_CLSACT, 0)
    kind = rtattr.attribute(_TCA_KIND, b"clsact\0")
    there = rtattr.message(_RTM_NEWQDISC, netlink.NLM_F_CREATE, head, [kind])
    parts = [
        rtattr.attribute(_TCA_KIND, b"bpf\0"),
        rtattr.attribute(_TCA_OPTIONS, b"".join(options)),
    ]
    head = _TCMSG.pack(0, index, _HANDLE, _INGRESS, _info())
    filter_ = rtattr.message(_RTM_NEWTFILTER, flags, head, parts)
    return [Request(there, subject), Request(filter_, subject)]


def remove(index: int, subject: str) -> Request:
    """Remove our filter from the device, and leave others; OSError(ENOENT) or, if there never was a
    filter, OSError(EINVAL)."""
    head = _TCMSG.pack(0, index, 0, _INGRESS, _info())
    return Request(rtattr.message(_RTM_DELTFILTER, 0, head), subject)


def _info() -> int:
    return _PRIORITY << 16 | socket.htons(_ETH_P_ALL)
