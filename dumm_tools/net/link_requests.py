"""What a guest's device is told: its addresses, routes and shaping, as netlink requests
and as values for people. Looks at records only.
"""

from __future__ import annotations

from collections.abc import Sequence

from dumm_tools import address
from dumm_tools.linux import netlink, qdisc, route, rtnl
from dumm_tools.linux.netlink import Request
from dumm_tools.model import Iface

#: Octets in front of a packet: an Ethernet header, with a VLAN tag.
_ETHERNET = 18
#: What waits for a slow link before more is dropped: so many seconds' worth of full packets, ...
_QUEUE_SECONDS = 0.2
#: ... but at least so many packets; below a congestion window's worth TCP would not get going.
_QUEUE_PACKETS = 32
#: Octets of the packets that fill the time of a delay, where a rate is set: as small as many are.
_SMALL = 128
#: Packets that netem holds: at least, where no rate says less, ...
_LIMIT_MIN = 1000
#: ... in each second of a delay where no rate says less: a UML sends no more, ...
_PACKETS = 250_000
#: ... and at most: more, a guest of 64 MiB has no memory for.
_LIMIT_MAX = 10_000
#: What shaping needs of a kernel.
MODULE = "sch_netem"


def needs_ipv6(iface: Iface) -> bool:
    """Does it have an IPv6 address or route?"""
    return any(map(address.is_v6, iface.addresses)) or any(
        address.is_v6(r["dest"]) for r in iface.routes
    )


def addresses(iface: Iface, index: int) -> list[Request]:
    """The addresses of a device, whether it has them already or not."""
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    return [rtnl.address(rtnl.RTM_NEWADDR, index, a, flags=flags) for a in iface.addresses]


def routes(
    iface: Iface, index: int, chosen: Sequence[dict[str, str]] | None = None
) -> list[Request]:
    """The routes of a device that is up, or those chosen of them. One whose gateway it cannot
    reach by its addresses sleeps until it can."""
    wanted = iface.routes if chosen is None else chosen
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    return [
        route.route(route.RTM_NEWROUTE, index, r["dest"], r.get("via"), flags=flags)
        for r in sorted(wanted, key=lambda r: "via" in r)  # what leads to a gateway first
        if is_usable(iface, r)
    ]


def is_usable(iface: Iface, recorded: dict[str, str]) -> bool:
    """Can the kernel take this route?"""
    via = recorded.get("via")
    return iface.up and (via is None or address.is_near(via, near(iface)))


def near(iface: Iface) -> list[str]:
    """The networks that are on the interface's own segment: by its addresses, and by routes that
    have no gateway."""
    return iface.addresses + [r["dest"] for r in iface.routes if "via" not in r]


def _netem(iface: Iface) -> qdisc.Netem:
    shape = iface.shape
    rate = round(shape.get("rate", 0) / 8)
    longest = (shape.get("delay", 0) + shape.get("jitter", 0)) / 1000
    if rate:
        packet = iface.mtu + _ETHERNET
        queue = max(_QUEUE_PACKETS, round(rate * _QUEUE_SECONDS / packet))
        underway = longest * min(_PACKETS, rate / _SMALL)
    else:
        queue, underway = _LIMIT_MIN, longest * _PACKETS
    return qdisc.Netem(
        delay=round(shape.get("delay", 0) * 1e6),
        jitter=round(shape.get("jitter", 0) * 1e6),
        **{k: shape.get(k, 0) / 100 for k in ("loss", "duplicate", "corrupt", "reorder")},
        rate=rate,
        limit=min(queue + round(underway), _LIMIT_MAX),
    )


def shaping(iface: Iface, index: int) -> list[Request]:
    """What gives a device its shape; nothing for one that has none."""
    return [qdisc.netem(index, _netem(iface), iface.name)] if iface.shape else []


def shape_of(netem: qdisc.Netem | None) -> dict[str, float]:
    """What a device has, in the units of the records."""
    if netem is None:
        return {}
    found = {
        "corrupt": netem.corrupt * 100,
        "delay": netem.delay / 1e6,
        "duplicate": netem.duplicate * 100,
        "jitter": netem.jitter / 1e6,
        "loss": netem.loss * 100,
        "rate": netem.rate * 8,
        "reorder": netem.reorder * 100,
    }
    return {key: short(value) for key, value in found.items() if value}


def short(value: float) -> float:
    """A value as it was said: the kernel's fractions are off by 1e-8, and 20.0 is 20."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded
