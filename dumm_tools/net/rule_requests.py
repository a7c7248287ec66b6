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
