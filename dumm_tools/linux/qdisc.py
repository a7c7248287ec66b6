"""Queueing disciplines of a device: netem, and tbf below it (tc-netem(8), tc-tbf(8)).

Encoded by hand after linux/pkt_sched.h: pyroute2's classes for these take long to import.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dumm_tools.linux import netlink, rtattr
from dumm_tools.linux.netlink import Channel, Request

_RTM_NEWQDISC = 36
_RTM_DELQDISC = 37
_RTM_GETQDISC = 38
_TC_H_ROOT = 0xFFFFFFFF
_NETEM_HANDLE = 0x10000
_TBF_HANDLE = 0x20000
_TBF_PARENT = _NETEM_HANDLE | 1
_TCA_KIND = 1
_TCA_OPTIONS = 2
_LINKLAYER_ETHERNET = 1

#: struct tcmsg: family, padding, ifindex, handle, parent, info.
_TCMSG = struct.Struct("=BxxxiIII")

#: struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter.
_QOPT = struct.Struct("=IIIIII")
_NETEM_CORR = 1
_NETEM_REORDER = 3
_NETEM_CORRUPT = 4
_NETEM_LATENCY64 = 10
_NETEM_JITTER64 = 11
#: The whole, of which loss and the like are fractions.
_WHOLE = 0xFFFFFFFF

#: struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
_RATESPEC = struct.Struct("=BBHhHI")
_TBF_PARMS = 1
_TBF_RATE64 = 4
_TBF_BURST = 6


@dataclass(frozen=True, slots=True)
class Netem:
    """What netem does to packets: times in nanoseconds, the others fractions of 1; `limit`
    packets are on their way at most."""

    delay: int = 0
    jitter: int = 0
    loss: float = 0
    duplicate: float = 0
    corrupt: float = 0
    reorder: float = 0
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: `rate` bytes a second, `burst` bytes at once, `limit` bytes waiting."""

    rate: int
    burst: int = 0
    limit: int = 0


def _request(
    kind: int,
    index: int,
    handle: int,
    parent: int,
    subject: str,
    name: str = "",
    options: bytes = b"",
) -> Request:
    parts = []
    if name:
        parts.append(rtattr.attribute(_TCA_KIND, name.encode() + b"\0"))
        parts.append(rtattr.attribute(_TCA_OPTIONS, options))
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE if kind == _RTM_NEWQDISC else 0
    head = _TCMSG.pack(0, index, handle, parent, 0)
    return Request(rtattr.message(kind, flags, head, parts), subject)


def set_netem(index: int, netem: Netem, subject: str) -> Request:
    """Make netem the device's discipline, or change the one that was made so. What is not said
    the kernel would leave as it was: all of it is said."""

    def fraction(value: float) -> int:
        return round(value * _WHOLE)

    # A gap of one makes every packet one that may overtake.
    gap = 1 if netem.reorder else 0
    options = _QOPT.pack(
        0, netem.limit, fraction(netem.loss), gap, fraction(netem.duplicate), 0
    ) + b"".join(
        (
            rtattr.attribute(_NETEM_CORR, struct.pack("=III", 0, 0, 0)),
            rtattr.attribute(_NETEM_REORDER, struct.pack("=II", fraction(netem.reorder), 0)),
            rtattr.attribute(_NETEM_CORRUPT, struct.pack("=II", fraction(netem.corrupt), 0)),
            rtattr.attribute(_NETEM_LATENCY64, struct.pack("=q", netem.delay)),
            rtattr.attribute(_NETEM_JITTER64, struct.pack("=q", netem.jitter)),
        )
    )
    return _request(_RTM_NEWQDISC, index, _NETEM_HANDLE, _TC_H_ROOT, subject, "netem", options)


def set_bucket(index: int, bucket: Bucket, subject: str) -> Request:
    """Make a token bucket of what comes out of netem, or change it."""
    # With this link layer the kernel asks for no table of times (tbf_change, sch_tbf.c).
    spec = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(bucket.rate, 0xFFFFFFFF))
    parms = spec + bytes(_RATESPEC.size) + struct.pack("=III", bucket.limit, 0, 0)
    options = (
        rtattr.attribute(_TBF_PARMS, parms)
        + rtattr.attribute(_TBF_RATE64, struct.pack("=Q", bucket.rate))
        + rtattr.attribute(_TBF_BURST, struct.pack("=I", bucket.burst))
    )
    return _request(_RTM_NEWQDISC, index, _TBF_HANDLE, _TBF_PARENT, subject, "tbf", options)


def drop_bucket(index: int, subject: str) -> Request:
    """Take the token bucket away; OSError(ENOENT) where there is none."""
    return _request(_RTM_DELQDISC, index, _TBF_HANDLE, _TBF_PARENT, subject)


def drop_all(index: int, subject: str) -> Request:
    """Give the device its kernel's own discipline back; OSError(ENOENT) where it has it."""
    return _request(_RTM_DELQDISC, index, _NETEM_HANDLE, _TC_H_ROOT, subject)


def read(channel: Channel, index: int) -> tuple[Netem | None, Bucket | None]:
    """The netem and the token bucket that the device has now."""
    head = _TCMSG.pack(0, index, 0, 0, 0)
    request = Request(rtattr.message(_RTM_GETQDISC, netlink.NLM_F_DUMP, head), "qdiscs")
    netem: Netem | None = None
    bucket: Bucket | None = None
    for message in netlink.query(channel, request):
        _, found, _, _, _ = _TCMSG.unpack(rtattr.fixed(message, _TCMSG.size))
        parts = rtattr.attributes(message, _TCMSG.size)
        if found != index:  # not every kernel filters a dump
            continue
        kind = parts.get(_TCA_KIND, b"").rstrip(b"\0")
        options = parts.get(_TCA_OPTIONS, b"")
        if kind == b"netem" and len(options) >= _QOPT.size:
            netem = _netem(options)
        elif kind == b"tbf":
            bucket = _bucket(dict(rtattr.split(options)))
    return netem, bucket


def _netem(options: bytes) -> Netem:
    _, limit, loss, gap, duplicate, _ = _QOPT.unpack_from(options)
    parts = dict(rtattr.split(options[_QOPT.size :]))

    def number(kind: int, form: str) -> int:
        return int(struct.unpack_from(form, parts[kind])[0]) if kind in parts else 0

    return Netem(
        delay=number(_NETEM_LATENCY64, "=q"),
        jitter=number(_NETEM_JITTER64, "=q"),
        loss=loss / _WHOLE,
        duplicate=duplicate / _WHOLE,
        corrupt=number(_NETEM_CORRUPT, "=I") / _WHOLE,
        reorder=number(_NETEM_REORDER, "=I") / _WHOLE if gap else 0,
        limit=limit,
    )


def _bucket(parts: dict[int, bytes]) -> Bucket | None:
    if _TBF_PARMS not in parts:
        return None
    rate = _RATESPEC.unpack_from(parts[_TBF_PARMS])[-1]
    if _TBF_RATE64 in parts:
        (rate,) = struct.unpack_from("=Q", parts[_TBF_RATE64])
    (limit,) = struct.unpack_from("=I", parts[_TBF_PARMS], 2 * _RATESPEC.size)
    return Bucket(rate=rate, limit=limit)
