"""Routes of a kernel, by netlink (rtnetlink(7), linux/rtnetlink.h)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dumm_tools.linux import message_classes, netlink
from dumm_tools.linux.netlink import Channel, Request

RTM_NEWROUTE = 24
RTM_DELROUTE = 25
_RTM_GETROUTE = 26
_RT_TABLE_COMPAT = 252
_RT_TABLE_LOCAL = 255
_RTPROT_STATIC = 4
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_RT_SCOPE_NOWHERE = 255
_RTM_F_CLONED = 0x200
_RTNH_F_ONLINK = 4
UNICAST = "unicast"
#: RTN_UNICAST and the like.
_TYPES = {UNICAST: 1, "blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9}
_KINDS = {number: kind for kind, number in _TYPES.items()}
#: Where the first attribute begins: after struct nlmsghdr and struct rtmsg.
_FIRST = 28
_RTA_OIF = 4

#: Maximum number of next hops in a list of routes: a guest may claim a million.
ROUTES_MAX = 100_000


class Hop(NamedTuple):
    """A next hop: its device, its gateway (of either family), and its share of the traffic."""

    ifindex: int
    via: str | None = None
    weight: int = 1


class Route(NamedTuple):
    """A route with one of its next hops; a route that ends here has none."""

    dest: str
    hop: Hop | None
    kind: str
    metric: int | None
    table: int
    src: str | None
    onlink: bool


def route(
    message: int,
    dest: str,
    hops: Sequence[Hop],
    *,
    kind: str = UNICAST,
    metric: int | None = None,
    table: int,
    src: str | None = None,
    onlink: bool = False,
    flags: int = 0,
) -> Request:
    """A message about a route to `dest` (A/P). Its devices are in the first attribute
    (`places`). To delete a route, its metric and table, and at most one hop, identify it."""
    network, _, prefix = dest.partition("/")
    family = socket.AF_INET6 if ":" in network else socket.AF_INET
    if message == RTM_DELROUTE:
        protocol, scope = 0, _RT_SCOPE_NOWHERE  # any of them
    else:
        near = any(hop.via is None for hop in hops) and family == socket.AF_INET
        protocol, scope = _RTPROT_STATIC, _RT_SCOPE_LINK if near else _RT_SCOPE_UNIVERSE
    fields = {
        "family": family,
        "dst_len": int(prefix),
        "table": table if table < 256 else _RT_TABLE_COMPAT,
        "proto": protocol,
        "scope": scope,
        "type": _TYPES[kind],
    }
    bits = _RTNH_F_ONLINK if onlink else 0
    attributes: list[tuple[str, Any]] = []
    if len(hops) == 1:
        fields["flags"] = bits
        attributes += [("RTA_OIF", hops[0].ifindex), *_gateway(family, hops[0])]
    elif hops:
        several = [
            {
                "flags": bits,
                "hops": hop.weight - 1,
                "oif": hop.ifindex,
                "attrs": _gateway(family, hop),
            }
            for hop in hops
        ]
        attributes.append(("RTA_MULTIPATH", several))
    if int(prefix):
        attributes.append(("RTA_DST", network))
    if metric is not None:
        attributes.append(("RTA_PRIORITY", metric))
    if src is not None:
        attributes.append(("RTA_PREFSRC", src))
    if table > 255:
        attributes.append(("RTA_TABLE", table))
    gateways = [hop.via for hop in hops if hop.via]
    subject = " via ".join([dest, *gateways]) if kind == UNICAST else f"{kind} {dest}"
    return Request(
        message_classes.encode(message_classes.route(), message, flags, fields, attributes), subject
    )


def _gateway(family: int, hop: Hop) -> list[tuple[str, Any]]:
    if hop.via is None:
        return []
    if family == socket.AF_INET and ":" in hop.via:
        return [("RTA_VIA", {"family": socket.AF_INET6, "addr": hop.via})]
    return [("RTA_GATEWAY", hop.via)]


def places(message: bytes) -> list[int]:
    """Where an encoded message has the indexes of its devices, in the order of its hops."""
    length, kind = struct.unpack_from("=HH", message, _FIRST)
    if kind == _RTA_OIF:
        return [_FIRST + 4]
    found, at, end = [], _FIRST + 4, _FIRST + length
    while at < end:  # struct rtnexthop
        found.append(at + 4)
        (size,) = struct.unpack_from("=H", message, at)
        at += (size + 3) & ~3
    return found


def routes(channel: Channel) -> list[Route]:
    """The routes of all tables except for the kernel's own, `local`; a route with several next hops
    is listed once for each. OSError(EMSGSIZE) if there are too many."""
    data = message_classes.encode(
        message_classes.route(), _RTM_GETROUTE, netlink.NLM_F_DUMP, {"family": 0}
    )
    found: list[Route] = []
    for message in netlink.query(channel, Request(data, "routes")):
        found += _routes(message_classes.decode(message_classes.route(), message, "route"))
        if len(found) > ROUTES_MAX:
            raise OSError(errno.EMSGSIZE, f"there are more than {ROUTES_MAX}", "routes")
    return found


def _routes(message: Any) -> list[Route]:
    with netlink.decoding("route"):
        table = message_classes.value(message, "RTA_TABLE", int) or message["table"]
        kind = _KINDS.get(message["type"])
        if kind is None or table == _RT_TABLE_LOCAL or message["flags"] & _RTM_F_CLONED:
            return []
        if message["family"] not in (socket.AF_INET, socket.AF_INET6):
            return []
        anywhere = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"
        network = message_classes.value(message, "RTA_DST", str) or anywhere
        common = (
            kind,
            message_classes.value(message, "RTA_PRIORITY", int),
            table,
            message_classes.value(message, "RTA_PREFSRC", str),
        )
        dest = f"{network}/{message['dst_len']}"
        if kind != UNICAST:
            return [Route(dest, None, *common, onlink=False)]
        return [
            Route(dest, hop, *common, bool(bits & _RTNH_F_ONLINK)) for hop, bits in _hops(message)
        ]


def _hops(message: Any) -> Iterator[tuple[Hop, int]]:
    """Each next hop of a route, with its flags."""
    index = message_classes.value(message, "RTA_OIF", int)
    if index is not None:
        yield Hop(index, _via(message)), message["flags"]
    for hop in message_classes.value(message, "RTA_MULTIPATH", list) or ():
        yield Hop(hop["oif"], _via(hop), hop["hops"] + 1), hop["flags"]


def _via(message: Any) -> str | None:
    gateway = message_classes.value(message, "RTA_GATEWAY", str)
    if gateway is None:  # IPv4 by an IPv6 gateway: struct rtvia, family and address
        via = message_classes.value(message, "RTA_VIA", dict)
        gateway = str(via["addr"]) if via else None
    return gateway
