"""The queueing discipline netem of a device (tc-netem(8)).

Encoded by hand after linux/pkt_sched.h: pyroute2's classes for it take long to import.
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
_HANDLE = 0x10000
_TCA_KIND = 1
_TCA_OPTIONS = 2

#: struct tcmsg: family, padding, ifindex, handle, parent, info.
_TCMSG = struct.Struct("=BxxxiIII")

#: struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter.
_QOPT = struct.Struct("=IIIIII")
_NETEM_CORR = 1
_NETEM_REORDER = 3
_NETEM_CORRUPT = 4
_NETEM_RATE = 6
_NETEM_RATE64 = 8
_NETEM_LATENCY64 = 10
_NETEM_JITTER64 = 11
#: The whole, of which loss and the like are fractions.
_WHOLE = 0xFFFFFFFF

#: struct tc_netem_rate: rate (bytes a second), packet_overhead, cell_size, cell_overhead.
_RATE = struct.Struct("=IiIi")


@dataclass(frozen=True, slots=True)
class Netem:
    """What netem does to packets: times in nanoseconds, `rate` in bytes a second (0: any), the
    others fractions of 1; `limit` packets are on their way at most."""

    delay: int = 0
    jitter: int = 0
    loss: float = 0
    duplicate: float = 0
    corrupt: float = 0
    reorder: float = 0
    rate: int = 0
    limit: int = 1000


def _request(kind: int, index: int, subject: str, parts: list[bytes]) -> Request:
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE if kind == _RTM_NEWQDISC else 0
    head = _TCMSG.pack(0, index, _HANDLE, _TC_H_ROOT, 0)
    return Request(rtattr.message(kind, flags, head, parts), subject)


def netem(index: int, wanted: Netem, subject: str) -> Request:
    """Make netem the device's discipline, or change the one that was made so. What is not said
    the kernel would leave as it was: all of it is said."""

    def fraction(value: float) -> int:
        return round(value * _WHOLE)

    # A gap of one makes every packet one that may overtake.
    gap = 1 if wanted.reorder else 0
    options = [
        _QOPT.pack(0, wanted.limit, fraction(wanted.loss), gap, fraction(wanted.duplicate), 0),
        rtattr.attribute(_NETEM_CORR, struct.pack("=III", 0, 0, 0)),
        rtattr.attribute(_NETEM_REORDER, struct.pack("=II", fraction(wanted.reorder), 0)),
        rtattr.attribute(_NETEM_CORRUPT, struct.pack("=II", fraction(wanted.corrupt), 0)),
        rtattr.attribute(_NETEM_RATE, _RATE.pack(min(wanted.rate, _WHOLE), 0, 0, 0)),
        rtattr.attribute(_NETEM_LATENCY64, struct.pack("=q", wanted.delay)),
        rtattr.attribute(_NETEM_JITTER64, struct.pack("=q", wanted.jitter)),
    ]
    if wanted.rate > _WHOLE:
        options.append(rtattr.attribute(_NETEM_RATE64, struct.pack("=Q", wanted.rate)))
    parts = [
        rtattr.attribute(_TCA_KIND, b"netem\0"),
        rtattr.attribute(_TCA_OPTIONS, b"".join(options)),
    ]
    return _request(_RTM_NEWQDISC, index, subject, parts)


def remove(index: int, subject: str) -> Request:
    """Give the device its kernel's own discipline back; OSError(ENOENT) where it has it."""
    return _request(_RTM_DELQDISC, index, subject, [])


def read(channel: Channel, index: int) -> Netem | None:
    """The netem that the device has now."""
    head = _TCMSG.pack(0, index, 0, 0, 0)
    request = Request(rtattr.message(_RTM_GETQDISC, netlink.NLM_F_DUMP, head), "qdiscs")
    for message in netlink.query(channel, request):
        with netlink.decoding("qdisc"):
            _, found, _, _, _ = _TCMSG.unpack(rtattr.fixed(message, _TCMSG.size))
            parts = rtattr.attributes(message, _TCMSG.size)
            # Not every kernel filters a dump by index.
            if found == index and parts.get(_TCA_KIND) == b"netem\0":
                return _netem(parts.get(_TCA_OPTIONS, b""))
    return None


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
        rate=number(_NETEM_RATE64, "=Q") or number(_NETEM_RATE, "=I"),
        limit=limit,
    )
