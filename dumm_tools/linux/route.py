"""Routes of a kernel, by netlink: the main table, unicast (rtnetlink(7), linux/rtnetlink.h)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from dumm_tools.linux import message_classes, netlink
from dumm_tools.linux.netlink import Channel, Request

RTM_NEWROUTE = 24
RTM_DELROUTE = 25
_RTM_GETROUTE = 26
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RTN_UNICAST = 1
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_RT_SCOPE_NOWHERE = 255
_RTM_F_CLONED = 0x200

#: Maximum number of next hops in a list of routes: a guest may claim a million.
ROUTES_MAX = 100_000


class Route(NamedTuple):
    """A route: its destination (A/P), gateway and device."""

    dest: str
    via: str | None
    ifindex: int


def route(kind: int, index: int, dest: str, via: str | None, *, flags: int = 0) -> Request:
    """A message about the route to `dest` (A/P) through the device `index`, which is its first
    attribute."""
    network, _, prefix = dest.partition("/")
    family = socket.AF_INET6 if ":" in network else socket.AF_INET
    if kind == RTM_DELROUTE:
        protocol, scope, unicast = 0, _RT_SCOPE_NOWHERE, 0  # any of them
    else:
        near = via is None and family == socket.AF_INET
        protocol, unicast = _RTPROT_STATIC, _RTN_UNICAST
        scope = _RT_SCOPE_LINK if near else _RT_SCOPE_UNIVERSE
    fields = {
        "family": family,
        "dst_len": int(prefix),
        "table": _RT_TABLE_MAIN,
        "proto": protocol,
        "scope": scope,
        "type": unicast,
    }
    attributes: list[tuple[str, object]] = [("RTA_OIF", index)]
    if int(prefix):
        attributes.append(("RTA_DST", network))
    if via is not None:
        attributes.append(("RTA_GATEWAY", via))
    subject = f"{dest} via {via}" if via else dest
    return Request(
        message_classes.encode(message_classes.route(), kind, flags, fields, attributes), subject
    )


def routes(channel: Channel) -> list[Route]:
    """The unicast routes of the main table; a route with several next hops is listed once for each.
    OSError(EMSGSIZE) if there are too many."""
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
        if table != _RT_TABLE_MAIN or message["type"] != _RTN_UNICAST:
            return []
        if message["flags"] & _RTM_F_CLONED:
            return []
        if message["family"] not in (socket.AF_INET, socket.AF_INET6):
            return []
        anywhere = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"
        network = message_classes.value(message, "RTA_DST", str) or anywhere
        dest = f"{network}/{message['dst_len']}"
        return [Route(dest, via, index) for via, index in _ways(message)]


def _ways(message: Any) -> Iterator[tuple[str | None, int]]:
    """The gateway and the device of each next hop of a route."""
    index = message_classes.value(message, "RTA_OIF", int)
    if index is not None:
        yield _gateway(message), index
    for hop in message_classes.value(message, "RTA_MULTIPATH", list) or ():
        yield _gateway(hop), hop["oif"]


def _gateway(message: Any) -> str | None:
    gateway = message_classes.value(message, "RTA_GATEWAY", str)
    if gateway is None:  # IPv4 by an IPv6 gateway: struct rtvia, family and address
        via = message_classes.value(message, "RTA_VIA", dict)
        gateway = str(via["addr"]) if via else None
    return gateway
