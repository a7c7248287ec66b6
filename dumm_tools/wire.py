"""What a guest's device is told once it is up: its routes and its shaping, as netlink requests
and as values for people. Looks at records only.
"""

from __future__ import annotations

from dumm_tools import address
from dumm_tools.linux import netlink, qdisc, route
from dumm_tools.linux.netlink import Request
from dumm_tools.model import Iface

#: Octets in front of a packet: an Ethernet header, with a VLAN tag.
_ETHERNET = 18
#: What waits for a slow link before more is dropped: so many seconds' worth, ...
_QUEUE_SECONDS = 0.2
#: ... but at least so many packets; below a congestion window's worth TCP would not get going.
_QUEUE_PACKETS = 32
#: What a link sends at once after a pause: so many seconds' worth, for kernels whose timers are
#: late, and at least one packet.
_BURST_SECONDS = 0.004
#: Packets a second that a delay is to hold, where no rate says less; a UML sends no more.
_PACKETS = 250_000
#: Packets that netem holds at least.
_LIMIT = 1000
#: What shaping needs of a kernel.
MODULES = ("sch_netem", "sch_tbf")


def needs_ipv6(iface: Iface) -> bool:
    """Does it have an IPv6 address or route?"""
    return any(map(address.is_v6, iface.addresses)) or any(
        address.is_v6(r["dest"]) for r in iface.routes
    )


def routes(iface: Iface, index: int, *, v6_only: bool = False) -> list[Request]:
    """The routes of a device that is up. One whose gateway it cannot reach by its addresses
    sleeps until it can."""
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    return [
        route.route(route.RTM_NEWROUTE, index, r["dest"], r.get("via"), flags=flags)
        for r in iface.routes
        if is_usable(iface, r) and (not v6_only or address.is_v6(r["dest"]))
    ]


def is_usable(iface: Iface, recorded: dict[str, str]) -> bool:
    """Can the kernel take this route?"""
    via = recorded.get("via")
    return iface.up and (via is None or address.is_near(via, iface.addresses))


def _bucket(iface: Iface) -> qdisc.Bucket | None:
    rate = round(iface.shape.get("rate", 0) / 8)
    if not rate:
        return None
    packet = iface.mtu + _ETHERNET
    return qdisc.Bucket(
        rate=rate,
        burst=max(2 * packet, round(rate * _BURST_SECONDS)),
        limit=min(max(_QUEUE_PACKETS * packet, round(rate * _QUEUE_SECONDS)), 1 << 30),
    )


def _netem(iface: Iface) -> qdisc.Netem:
    shape = iface.shape
    longest = (shape.get("delay", 0) + shape.get("jitter", 0)) / 1000
    return qdisc.Netem(
        delay=round(shape.get("delay", 0) * 1e6),
        jitter=round(shape.get("jitter", 0) * 1e6),
        **{k: shape.get(k, 0) / 100 for k in ("loss", "duplicate", "corrupt", "reorder")},
        limit=_LIMIT + round(min(longest, 60) * _PACKETS),
    )


def shaping(iface: Iface, index: int) -> list[Request]:
    """What gives a device its shape; nothing for one that has none."""
    if not iface.shape:
        return []
    requests = [qdisc.set_netem(index, _netem(iface), iface.name)]
    bucket = _bucket(iface)
    if bucket:
        requests.append(qdisc.set_bucket(index, bucket, iface.name))
    return requests


def modules(iface: Iface) -> list[str]:
    """The modules without which a kernel cannot shape so."""
    if not iface.shape:
        return []
    return list(MODULES if "rate" in iface.shape else MODULES[:1])


def shape_of(netem: qdisc.Netem | None, bucket: qdisc.Bucket | None) -> dict[str, float]:
    """What a device has, in the units of the records."""
    found: dict[str, float] = {}
    if netem:
        found = {"delay": netem.delay / 1e6, "jitter": netem.jitter / 1e6}
        for key in ("loss", "duplicate", "corrupt", "reorder"):
            found[key] = getattr(netem, key) * 100
    if bucket:
        found["rate"] = bucket.rate * 8
    return {key: short(value) for key, value in found.items() if value}


def short(value: float) -> float:
    """A value as it was said: the kernel's fractions are off by 1e-8, and 20.0 is 20."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded
