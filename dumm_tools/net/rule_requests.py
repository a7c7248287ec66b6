"""The rules of a guest, as netlink requests. Based on records only."""

from __future__ import annotations

from dumm_tools import routing
from dumm_tools.linux import netlink, rule
from dumm_tools.linux.netlink import Request
from dumm_tools.model import Guest
from dumm_tools.routing import Rule


def of(guest: Guest) -> list[Rule]:
    """The recorded rules of a guest."""
    return [routing.rule(r) for r in guest.rules]


def needs_ipv6(wanted: Rule) -> bool:
    """Whether the guest's kernel needs IPv6 for it."""
    return wanted.family == "inet6"


def new(wanted: Rule) -> Request:
    """The request for a rule; OSError(EEXIST) if it is there."""
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
    return rule.rule(rule.RTM_NEWRULE, rule.Rule(*wanted), flags=flags)


def gone(wanted: Rule) -> Request:
    """The request that removes a rule."""
    return rule.rule(rule.RTM_DELRULE, rule.Rule(*wanted))


def replacing(rules: list[Rule], old: Rule) -> list[Request]:
    """The requests that remove one of a guest's rules. The kernel takes the first rule that has the
    given parts, and perhaps others (fib_rules.c, rule_find): so among rules of the same priority
    all are removed, those with most parts first, and the others come back in their order."""
    alike = [r for r in rules if (r.family, r.priority) == (old.family, old.priority)]
    alike.sort(key=lambda r: sum(part is not None for part in r), reverse=True)
    back = [r for r in rules if r in alike and r != old]
    return [gone(r) for r in alike] + [new(r) for r in back]
