"""Bridges that learn where addresses are: those of switches, not of cables and hubs."""

from __future__ import annotations

import errno

from dumm_tools.errors import DummError
from dumm_tools.linux import netlink, rtnl, sysfs
from dumm_tools.model import Bridge, State
from dumm_tools.net import link_views, segment

#: Seconds for which a switch remembers an address: the kernel's default. The others remember none.
_AGEING = {"switch": 300, "hub": 0, "cable": 0}
_FILE = "bridge/ageing_time"  # in 1/100 s


def ageing(state: State, bridge: Bridge) -> int:
    """The seconds for which a bridge remembers where an address is."""
    return _AGEING[segment.kind(bridge, len(state.members_of(bridge.name)))]


def settle(state: State, *names: str | None) -> None:
    """Make existing bridges of these names what they are now, after a change of their members, of
    the host's addresses or of an uplink. Without such a change this only reads. DummError."""
    for name in names:
        bridge = state.bridges.get(name or "")
        if bridge is None:
            continue
        wanted, present = ageing(state, bridge), sysfs.number(bridge.name, _FILE)
        if present in (None, wanted * 100) or not link_views.ours(state, bridge.name):
            continue
        try:
            with netlink.host() as channel:
                netlink.transact(channel, [rtnl.set_ageing(bridge.name, wanted)])
        except OSError as e:
            if e.errno != errno.ENODEV:
                raise DummError(f"cannot change '{name}': {e.strerror}") from None
