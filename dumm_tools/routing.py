"""Routes and rules: their records in state.json (dumm-state(5)), and the words for their parts.

Imported only where there are routes or rules.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from dumm_tools.errors import Usage

UNICAST = "unicast"
#: Kinds of routes that end here: the kernel drops the packets, or (throw) looks no further in this
#: table.
REJECTS = ("blackhole", "unreachable", "prohibit", "throw")
#: A rule looks in a table, or drops the packets.
LOOKUP = "lookup"
ACTIONS = ("blackhole", "unreachable", "prohibit")
#: linux/rtnetlink.h
TABLES = {"default": 253, "main": 254, "local": 255}
MAIN, LOCAL = TABLES["main"], TABLES["local"]
#: The metric of IPv6 routes that are given none (IP6_RT_PRIO_USER, linux/ipv6_route.h).
METRIC_IPV6 = 1024
#: rtnh_hops has 8 bits.
WEIGHT_MAX = 256
NUMBER_MAX = (1 << 32) - 1
FAMILIES = ("inet", "inet6")
#: Names of devices (dev_valid_name, net/core/dev.c), without odd characters.
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_HOST = re.compile(r"[0-9a-fA-F.:]+")
_NETWORK = re.compile(r"([0-9a-fA-F.:]+)/([0-9]{1,3})")


class Hop(NamedTuple):
    """A gateway and the device that leads to it. Without a gateway, the destination is on the
    segment; without a device, it is the interface that the route is recorded with."""

    via: str | None
    device: str | None = None
    weight: int = 1


#: A destination, a metric and a table.
Key = tuple[str, int, int]


class Route(NamedTuple):
    """A route as recorded. It has no hops if it ends here."""

    dest: str
    hops: tuple[Hop, ...] = (Hop(None),)
    kind: str = UNICAST
    metric: int | None = None
    table: int = MAIN
    src: str | None = None
    onlink: bool = False

    @property
    def is_v6(self) -> bool:
        """Whether it is a route of IPv6."""
        return ":" in self.dest

    @property
    def gateways(self) -> list[str]:
        """The addresses of its gateways."""
        return [hop.via for hop in self.hops if hop.via is not None]

    @property
    def key(self) -> Key:
        """A kernel has one route with this destination, metric and table."""
        return self.dest, self.metric or (METRIC_IPV6 if self.is_v6 else 0), self.table


class Rule(NamedTuple):
    """A rule as recorded: which packets, and what happens to them."""

    family: str
    priority: int
    source: str | None = None
    dest: str | None = None
    iif: str | None = None
    oif: str | None = None
    fwmark: int | None = None
    fwmask: int | None = None
    table: int | None = None
    kind: str = LOOKUP


def route(record: dict[str, Any]) -> Route:
    """Decode a recorded route; ValueError."""
    rest = dict(record)
    dest, kind = _network(rest.pop("dest", None)), rest.pop("kind", UNICAST)
    hops: tuple[Hop, ...] = ()
    if kind == UNICAST:
        hops = tuple(_hop(h) for h in _objects(rest.pop("hops", [{"via": rest.pop("via", None)}])))
    _need(kind in REJECTS or hops)
    found = Route(
        dest,
        hops,
        kind,
        _number(rest.pop("metric", None)),
        _number(rest.pop("table", MAIN), 1) or MAIN,
        _host(rest.pop("src", None)),
        rest.pop("onlink", False),
    )
    _need(not rest and isinstance(found.onlink, bool))
    # IPv4 can have gateways of IPv6, but not the reverse.
    _need(not found.is_v6 or all(":" in via for via in found.gateways))
    _need(found.src is None or (":" in found.src) == found.is_v6)
    return found


def record(route_: Route) -> dict[str, Any]:
    """The record of a route: only what is not the default."""
    found: dict[str, Any] = {"dest": route_.dest}
    first = route_.hops[0] if route_.hops else None
    if first is not None and route_.hops == (Hop(first.via),):
        found |= {"via": first.via} if first.via else {}
    elif route_.hops:
        default = Hop(None)._asdict()
        found["hops"] = [
            {k: v for k, v in hop._asdict().items() if v != default[k]} for hop in route_.hops
        ]
    for key, usual in Route._field_defaults.items():
        if key != "hops" and getattr(route_, key) != usual:
            found[key] = getattr(route_, key)
    return found


def rule(record_: dict[str, Any]) -> Rule:
    """Decode a recorded rule; ValueError."""
    rest = dict(record_)
    found = Rule(
        rest.pop("family", None),
        _number(rest.pop("priority", None), 1) or 0,
        _optional_network(rest.pop("from", None)),
        _optional_network(rest.pop("to", None)),
        _device(rest.pop("iif", None)),
        _device(rest.pop("oif", None)),
        _number(rest.pop("fwmark", None)),
        _number(rest.pop("fwmask", None)),
        _number(rest.pop("table", None), 1),
        rest.pop("kind", LOOKUP),
    )
    _need(not rest and found.family in FAMILIES and found.priority)
    _need((found.table is not None) == (found.kind == LOOKUP))
    _need(found.kind in (LOOKUP, *ACTIONS))
    family = {"inet6" if ":" in text else "inet" for text in (found.source, found.dest) if text}
    _need(family <= {found.family})
    return found


def rule_record(rule_: Rule) -> dict[str, Any]:
    """The record of a rule."""
    names = {"source": "from", "dest": "to"}
    return {
        names.get(key, key): value
        for key, value in rule_._asdict().items()
        if value is not None and (key, value) != ("kind", LOOKUP)
    }


def _need(condition: object) -> None:
    if not condition:
        raise ValueError


def _objects(value: Any) -> list[dict[str, Any]]:
    _need(isinstance(value, list) and all(isinstance(v, dict) for v in value))
    return list(value)


def _hop(value: dict[str, Any]) -> Hop:
    _need(value.keys() <= {*Hop._fields})
    weight = _number(value.get("weight", 1), 1, WEIGHT_MAX)
    return Hop(_host(value.get("via")), _device(value.get("device")), weight or 1)


def _number(value: Any, least: int = 0, most: int = NUMBER_MAX) -> int | None:
    _need(value is None or (type(value) is int and least <= value <= most))
    return None if value is None else int(value)


def _host(value: Any) -> str | None:
    _need(value is None or (isinstance(value, str) and _HOST.fullmatch(value)))
    return None if value is None else str(value)


def _device(value: Any) -> str | None:
    _need(value is None or (isinstance(value, str) and _DEVICE.fullmatch(value)))
    return None if value is None else str(value)


def _network(value: Any) -> str:
    found = _NETWORK.fullmatch(value) if isinstance(value, str) else None
    if not found or int(found[2]) > (128 if ":" in found[1] else 32):
        raise ValueError
    return str(value)


def _optional_network(value: Any) -> str | None:
    return None if value is None else _network(value)


def table(text: str) -> int:
    """The number of a table as a user writes it; Usage."""
    if text in TABLES:
        return TABLES[text]
    return number(text, "table", 1)


def table_name(number_: int) -> str:
    """A table as users write it."""
    return next((name for name, n in TABLES.items() if n == number_), str(number_))


def number(text: str, what: str, least: int = 0, most: int = NUMBER_MAX) -> int:
    """A number as a user writes it; Usage."""
    hexadecimal = text[:2].lower() == "0x"
    digits = text[2:] if hexadecimal else text
    allowed = "0123456789abcdefABCDEF" if hexadecimal else "0123456789"
    if digits and set(digits) <= {*allowed} and len(digits) <= 10:
        found = int(digits, 16 if hexadecimal else 10)
        if least <= found <= most:
            return found
    raise Usage(f"bad {what} {text!r}", hint=f"{least} to {most}")


def device(text: str) -> str:
    """The name of a device in a guest; Usage."""
    if not _DEVICE.fullmatch(text):
        raise Usage(f"bad device name {text!r}")
    return text
