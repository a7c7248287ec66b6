"""Addresses that two members of a segment have in common. They are allowed, since a test may want
them (anycast, VRRP without VRRP), but rarely meant: commands that create one print a warning."""

from __future__ import annotations

from collections.abc import Sequence

from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import link_views

#: The name of a segment's member in a warning, and its addresses.
_Member = tuple[str, list[str]]


def of_interface(
    state: State, iface: Iface, addresses: Sequence[str] | None = None, *, mac: bool = True
) -> list[str]:
    """Warnings about an interface's addresses, or those given, and about its MAC address."""
    if iface.bridge is None:
        return []
    bridge = state.bridges[iface.bridge]
    others = [i for i in state.members_of(bridge.name) if i.name != iface.name]
    known = [*((f"'{i.name}'", i.addresses) for i in others), ("the host", bridge.addresses)]
    chosen = iface.addresses if addresses is None else addresses
    found = _shared(f"'{iface.name}'", chosen, known, bridge.name)
    if mac:
        macs = [(f"'{i.name}'", [i.mac]) for i in others]
        macs.append(("the host", [link_views.bridge_mac(state, bridge.name)]))
        found += _shared(f"'{iface.name}'", [iface.mac], macs, bridge.name)
    return found


def of_host(state: State, bridge: Bridge, addresses: Sequence[str]) -> list[str]:
    """Warnings about addresses of the host on a bridge."""
    known = [(f"'{i.name}'", i.addresses) for i in state.members_of(bridge.name)]
    found = _shared("the host", addresses, known, bridge.name)
    for other in state.bridges.values():
        if other.name != bridge.name:
            for text in _common(addresses, other.addresses):
                found.append(f"the host has {text} on '{other.name}', too")
    return found


def _shared(owner: str, own: Sequence[str], known: Sequence[_Member], bridge: str) -> list[str]:
    return [
        f"{owner} and {other} both have {text} on '{bridge}'"
        for other, theirs in known
        for text in _common(own, theirs)
    ]


def _common(own: Sequence[str], others: Sequence[str]) -> list[str]:
    """Addresses in both, without their prefix lengths."""
    there = {text.partition("/")[0] for text in others}
    return [host for host in dict.fromkeys(t.partition("/")[0] for t in own) if host in there]
