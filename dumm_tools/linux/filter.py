"""Ingress filters on a device, ahead of the protocol stack (tc-bpf(8)): classic BPF in "direct
action" mode, which drops a frame or lets it pass.

A filter disappears with its device, and needs neither a program nor a capability outside the
network namespace.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from dumm_tools.linux import message_classes, netlink
from dumm_tools.linux.netlink import Request

_RTM_NEWQDISC = 36
_RTM_NEWTFILTER, _RTM_DELTFILTER = 44, 45
_TCA_BPF_FLAG_ACT_DIRECT = 1
#: Parent of clsact, its handle, and the ingress hook.
_TC_H_CLSACT, _CLSACT, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
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
    options = {
        "attrs": [
            ("TCA_BPF_OPS_LEN", len(program)),
            ("TCA_BPF_OPS", [number for operation in program for number in operation]),
            ("TCA_BPF_FLAGS", _TCA_BPF_FLAG_ACT_DIRECT),
        ]
    }
    fields = {"index": index, "handle": _CLSACT, "parent": _TC_H_CLSACT}
    kind = [("TCA_KIND", "clsact")]
    clsact = _request(_RTM_NEWQDISC, netlink.NLM_F_CREATE, fields, kind, subject)
    fields = {"index": index, "handle": _HANDLE, "parent": _INGRESS, "info": _info()}
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    attributes = [("TCA_KIND", "bpf"), ("TCA_OPTIONS", options)]
    return [clsact, _request(_RTM_NEWTFILTER, flags, fields, attributes, subject)]


def remove(index: int, subject: str) -> Request:
    """Remove our filter from the device, and leave others; OSError(ENOENT) or, if there never was a
    filter, OSError(EINVAL)."""
    fields = {"index": index, "parent": _INGRESS, "info": _info()}
    return _request(_RTM_DELTFILTER, 0, fields, [], subject)


def _request(
    kind: int,
    flags: int,
    fields: dict[str, int],
    attributes: message_classes.Attributes,
    subject: str,
) -> Request:
    data = message_classes.encode(message_classes.bpf_filter(), kind, flags, fields, attributes)
    return Request(data, subject)


def _info() -> int:
    return _PRIORITY << 16 | socket.htons(_ETH_P_ALL)
