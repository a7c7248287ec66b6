"""The configuration of a guest's device: addresses and shaping, as netlink requests and as
values for display. Based on records only."""

from __future__ import annotations

from dumm_tools import address
from dumm_tools.linux import netlink, qdisc, rtnl
from dumm_tools.linux.netlink import Request
from dumm_tools.model import Iface
from dumm_tools.net import route_requests

#: Bytes before a packet: an Ethernet header with a VLAN tag.
_ETHERNET = 18
#: Length of the queue of a slow link: this many seconds' worth of full-size packets, ...
_QUEUE_SECONDS = 0.2
#: ... but at least this many packets; with less than a congestion window TCP would not get going.
_QUEUE_PACKETS = 32
#: Size of the packets held during a delay if a rate is set: many packets are this small.
_SMALL = 128
#: Packets that netem holds, unless a rate implies fewer: at least this many, ...
_LIMIT_MIN = 1000
#: ... this many per second of delay, since a UML does not send more, ...
_PACKETS = 250_000
#: ... and at most this many: a guest of 64 MiB has no memory for more.
_LIMIT_MAX = 10_000
#: The kernel module needed for shaping.
MODULE = "sch_netem"


def needs_ipv6(iface: Iface) -> bool:
    """Whether it has an IPv6 address, or a route to or via one."""
    return any(map(address.is_v6, iface.addresses)) or any(
        route_requests.needs_ipv6(each.route) for each in route_requests.owned([iface])
    )


def addresses(iface: Iface, index: int) -> list[Request]:
    """The addresses of a device, whether or not it already has them."""
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    return [rtnl.address(rtnl.RTM_NEWADDR, index, a, flags=flags) for a in iface.addresses]


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
    """The requests for a device's shaping; empty for a device without any."""
    return [qdisc.netem(index, _netem(iface), iface.name)] if iface.shape else []


def shape_of(netem: qdisc.Netem | None) -> dict[str, float]:
    """The shaping that a device has, in the units of the records."""
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
    """A value as the user gave it: the kernel's fractions are off by 1e-8, and 20.0 is 20."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded
