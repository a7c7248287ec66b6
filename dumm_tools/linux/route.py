"""Routes of a kernel, by netlink: the main table, unicast (rtnetlink(7), linux/rtnetlink.h)."""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from dumm_tools.linux import netlink, rtattr
from dumm_tools.linux.netlink import Channel, Request

RTM_NEWROUTE = 24
RTM_DELROUTE = 25
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_MULTIPATH = 9
_RTA_TABLE = 15
_RTA_VIA = 18
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RTN_UNICAST = 1
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_RT_SCOPE_NOWHERE = 255
_RTM_F_CLONED = 0x200

#: Next hops of all routes together that a list may have: a guest may claim a million.
ROUTES_MAX = 100_000

#: struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
_RTMSG = struct.Struct("=BBBBBBBBI")
#: struct rtnexthop: len, flags, hops, ifindex.
_NEXTHOP = struct.Struct("=HBBi")


class Route(NamedTuple):
    """A route: where to (A/P), by which gateway, out of which device."""

    dest: str
    via: str | None
    ifindex: int


def route(kind: int, index: int, dest: str, via: str | None, *, flags: int = 0) -> Request:
    """A message about the route to `dest` (A/P) out of the device `index`, whose attribute is
    the first one."""
    network, _, prefix = dest.partition("/")
    family = socket.AF_INET6 if ":" in network else socket.AF_INET
    if kind == RTM_DELROUTE:
        protocol, scope, unicast = 0, _RT_SCOPE_NOWHERE, 0  # whatever it has
    else:
        near = via is None and family == socket.AF_INET
        protocol, unicast = _RTPROT_STATIC, _RTN_UNICAST
        scope = _RT_SCOPE_LINK if near else _RT_SCOPE_UNIVERSE
    head = (family, int(prefix), 0, 0, _RT_TABLE_MAIN, protocol, scope, unicast, 0)
    parts = [rtattr.attribute(_RTA_OIF, struct.pack("=I", index))]
    if int(prefix):
        parts.append(rtattr.attribute(_RTA_DST, socket.inet_pton(family, network)))
    if via is not None:
        parts.append(rtattr.attribute(_RTA_GATEWAY, socket.inet_pton(family, via)))
    subject = f"{dest} via {via}" if via else dest
    return Request(rtattr.message(kind, flags, _RTMSG.pack(*head), parts), subject)


def routes(channel: Channel) -> list[Route]:
    """The unicast routes of the main table; one with several next hops stands once for each.
    OSError(EMSGSIZE) where they are too many."""
    data = rtattr.message(_RTM_GETROUTE, netlink.NLM_F_DUMP, bytes(_RTMSG.size))
    found: list[Route] = []
    for message in netlink.query(channel, Request(data, "routes")):
        with netlink.decoding("route"):
            found += _routes(message)
        if len(found) > ROUTES_MAX:
            raise OSError(errno.EMSGSIZE, f"there are more than {ROUTES_MAX}", "routes")
    return found


def _routes(message: bytes) -> list[Route]:
    family, length, _, _, table, _, _, kind, flags = _RTMSG.unpack(
        rtattr.fixed(message, _RTMSG.size)
    )
    parts = rtattr.attributes(message, _RTMSG.size)
    if _RTA_TABLE in parts:
        (table,) = struct.unpack_from("=I", parts[_RTA_TABLE])
    if table != _RT_TABLE_MAIN or kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
        return []
    if family not in (socket.AF_INET, socket.AF_INET6):
        return []
    packed = parts.get(_RTA_DST, bytes(16 if family == socket.AF_INET6 else 4))
    dest = f"{socket.inet_ntop(family, packed)}/{length}"
    found = []
    if _RTA_OIF in parts:
        (index,) = struct.unpack_from("=I", parts[_RTA_OIF])
        found.append(Route(dest, _gateway(family, parts), index))
    hops = parts.get(_RTA_MULTIPATH, b"")
    while len(hops) >= _NEXTHOP.size:
        size, _, _, index = _NEXTHOP.unpack_from(hops)
        if not _NEXTHOP.size <= size <= len(hops):
            break
        inner = dict(rtattr.split(hops[_NEXTHOP.size : size]))
        found.append(Route(dest, _gateway(family, inner), index))
        hops = hops[(size + 3) & ~3 :]
    return found


def _gateway(family: int, parts: dict[int, bytes]) -> str | None:
    if _RTA_GATEWAY in parts:
        return socket.inet_ntop(family, parts[_RTA_GATEWAY])
    if _RTA_VIA in parts:  # IPv4 by an IPv6 gateway: struct rtvia, family and address
        (other,) = struct.unpack_from("=H", parts[_RTA_VIA])
        return socket.inet_ntop(other, parts[_RTA_VIA][2:])
    return None
