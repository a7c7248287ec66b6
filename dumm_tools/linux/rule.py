"""Rules of a kernel, which choose among its tables of routes, by netlink (linux/fib_rules.h)."""

from __future__ import annotations

import errno
import socket
from typing import Any, NamedTuple

from dumm_tools.linux import message_classes, netlink
from dumm_tools.linux.netlink import Channel, Request

RTM_NEWRULE = 32
RTM_DELRULE = 33
_RTM_GETRULE = 34
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_RT_TABLE_COMPAT = 252
#: FR_ACT_TO_TBL and the like.
_ACTIONS = {"lookup": 1, "goto": 2, "nop": 3, "blackhole": 6, "unreachable": 7, "prohibit": 8}
_KINDS = {number: kind for kind, number in _ACTIONS.items()}
_ANY_MARK = 0xFFFFFFFF

#: Maximum number of rules in a list: a guest may claim a million.
RULES_MAX = 100_000


class Rule(NamedTuple):
    """A rule: which packets, by source, destination, device and mark, and what happens to them."""

    family: str
    priority: int
    source: str | None = None
    dest: str | None = None
    iif: str | None = None
    oif: str | None = None
    fwmark: int | None = None
    fwmask: int | None = None
    table: int | None = None
    kind: str = "lookup"


def rule(message: int, wanted: Rule, *, flags: int = 0) -> Request:
    """A message about a rule."""
    table = wanted.table or 0
    fields = {
        "family": _FAMILIES[wanted.family],
        "table": table if table < 256 else _RT_TABLE_COMPAT,
        "action": _ACTIONS[wanted.kind],
    }
    attributes: list[tuple[str, Any]] = [("FRA_PRIORITY", wanted.priority)]
    for text, field, name in (
        (wanted.source, "src_len", "FRA_SRC"),
        (wanted.dest, "dst_len", "FRA_DST"),
    ):
        network, _, prefix = (text or "").partition("/")
        if int(prefix or 0):
            fields[field] = int(prefix)
            attributes.append((name, network))
    mask = wanted.fwmask
    if wanted.fwmark == 0 and mask is None:
        mask = _ANY_MARK  # the kernel's default for this mark is a mask of 0, which matches all
    for value, name in (
        (wanted.iif, "FRA_IIFNAME"),
        (wanted.oif, "FRA_OIFNAME"),
        (wanted.fwmark, "FRA_FWMARK"),
        (mask, "FRA_FWMASK"),
        (wanted.table, "FRA_TABLE"),
    ):
        if value is not None:
            attributes.append((name, value))
    subject = f"rule {wanted.priority}"
    return Request(
        message_classes.encode(message_classes.rule(), message, flags, fields, attributes), subject
    )


def rules(channel: Channel) -> list[Rule]:
    """All rules of IPv4 and IPv6, including the kernel's own. OSError(EMSGSIZE) if there are too
    many."""
    data = message_classes.encode(
        message_classes.rule(), _RTM_GETRULE, netlink.NLM_F_DUMP, {"family": 0}
    )
    found: list[Rule] = []
    for message in netlink.query(channel, Request(data, "rules")):
        found += _rules(message_classes.decode(message_classes.rule(), message, "rule"))
        if len(found) > RULES_MAX:
            raise OSError(errno.EMSGSIZE, f"there are more than {RULES_MAX}", "rules")
    return found


def _rules(message: Any) -> list[Rule]:
    with netlink.decoding("rule"):
        family = {number: name for name, number in _FAMILIES.items()}.get(message["family"])
        kind = _KINDS.get(message["action"])
        if family is None or kind is None:
            return []
        mark = message_classes.value(message, "FRA_FWMARK", int)
        mask = message_classes.value(message, "FRA_FWMASK", int)
        if mask:
            mark = mark or 0  # the kernel omits it
        if not mark and not mask:
            mark = mask = None
        elif mask == _ANY_MARK:
            mask = None
        table = message_classes.value(message, "FRA_TABLE", int) or message["table"]
        return [
            Rule(
                family,
                message_classes.value(message, "FRA_PRIORITY", int) or 0,
                _network(message, "FRA_SRC", message["src_len"]),
                _network(message, "FRA_DST", message["dst_len"]),
                message_classes.text(message, "FRA_IIFNAME"),
                message_classes.text(message, "FRA_OIFNAME"),
                mark,
                mask,
                table if kind == "lookup" else None,
                kind,
            )
        ]


def _network(message: Any, name: str, prefix: int) -> str | None:
    network = message_classes.value(message, name, str)
    return f"{network}/{prefix}" if network else None
