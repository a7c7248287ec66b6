"""The queueing discipline netem of a device (tc-netem(8))."""

from __future__ import annotations

from typing import Any, NamedTuple

from dumm_tools.linux import message_classes, netlink
from dumm_tools.linux.netlink import Channel, Request

_RTM_NEWQDISC = 36
_RTM_DELQDISC = 37
_RTM_GETQDISC = 38
_TC_H_ROOT = 0xFFFFFFFF
_HANDLE = 0x10000
#: The kernel's representation of a probability of 1.
_WHOLE = 0xFFFFFFFF


class Netem(NamedTuple):
    """The settings of netem: times are in nanoseconds, `rate` is in bytes per second (0: no limit),
    the others are fractions of 1. At most `limit` packets are in the queue."""

    delay: int = 0
    jitter: int = 0
    loss: float = 0
    duplicate: float = 0
    corrupt: float = 0
    reorder: float = 0
    rate: int = 0
    limit: int = 1000


def netem(index: int, wanted: Netem, subject: str) -> Request:
    """Make netem the device's queueing discipline, or change its settings. The kernel would keep
    the settings that a message omits, so it has them all."""

    def fraction(value: float) -> int:
        return round(value * _WHOLE)

    more = [
        ("TCA_NETEM_CORR", {"delay_corr": 0, "loss_corr": 0, "dup_corr": 0}),
        ("TCA_NETEM_REORDER", {"prob_reorder": fraction(wanted.reorder), "corr_reorder": 0}),
        ("TCA_NETEM_CORRUPT", {"prob_corrupt": fraction(wanted.corrupt), "corr_corrupt": 0}),
        ("TCA_NETEM_RATE", {"rate": min(wanted.rate, _WHOLE)}),
        ("TCA_NETEM_LATENCY64", wanted.delay),
        ("TCA_NETEM_JITTER64", wanted.jitter),
    ]
    if wanted.rate > _WHOLE:
        more.append(("TCA_NETEM_RATE64", wanted.rate))
    options = {
        "delay": 0,
        "limit": wanted.limit,
        "loss": fraction(wanted.loss),
        # With a gap of 1 every packet may overtake others.
        "gap": 1 if wanted.reorder else 0,
        "duplicate": fraction(wanted.duplicate),
        "jitter": 0,
        "attrs": more,
    }
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    attributes = [("TCA_KIND", "netem"), ("TCA_OPTIONS", options)]
    return _request(_RTM_NEWQDISC, index, subject, flags, attributes)


def remove(index: int, subject: str) -> Request:
    """Restore the kernel's default discipline; OSError(ENOENT) if the device has it already."""
    return _request(_RTM_DELQDISC, index, subject)


def _request(
    kind: int, index: int, subject: str, flags: int = 0, attributes: message_classes.Attributes = ()
) -> Request:
    fields = {"index": index, "handle": _HANDLE, "parent": _TC_H_ROOT}
    return Request(
        message_classes.encode(message_classes.qdisc(), kind, flags, fields, attributes), subject
    )


def read(channel: Channel, index: int) -> Netem | None:
    """The current netem of a device."""
    data = message_classes.encode(
        message_classes.qdisc(), _RTM_GETQDISC, netlink.NLM_F_DUMP, {"index": index}
    )
    for answer in netlink.query(channel, Request(data, "qdiscs")):
        message = message_classes.decode(message_classes.qdisc(), answer, "qdisc")
        # Some kernels do not filter a dump by index.
        if message["index"] == index and message_classes.text(message, "TCA_KIND") == "netem":
            with netlink.decoding("qdisc"):
                return _netem(message_classes.value(message, "TCA_OPTIONS", dict))
    return None


def _netem(options: Any) -> Netem:
    def number(attribute: str) -> int:
        return message_classes.value(options, attribute, int) or 0

    def field(attribute: str, name: str) -> int:
        found = message_classes.value(options, attribute, dict)
        return int(found[name]) if found else 0

    return Netem(
        delay=number("TCA_NETEM_LATENCY64"),
        jitter=number("TCA_NETEM_JITTER64"),
        loss=options["loss"] / _WHOLE,
        duplicate=options["duplicate"] / _WHOLE,
        corrupt=field("TCA_NETEM_CORRUPT", "prob_corrupt") / _WHOLE,
        reorder=field("TCA_NETEM_REORDER", "prob_reorder") / _WHOLE if options["gap"] else 0,
        rate=number("TCA_NETEM_RATE64") or field("TCA_NETEM_RATE", "rate"),
        limit=options["limit"],
    )
