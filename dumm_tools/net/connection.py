"""Cables: interfaces that are connected to bridges, moved, and disconnected, while guests run."""

from __future__ import annotations

from collections.abc import Callable

from dumm_tools import names, statefile, waiting
from dumm_tools.errors import Conflict, Usage
from dumm_tools.linux import netlink, rtnl
from dumm_tools.model import State
from dumm_tools.net import cable, carrier, host_links, learning, link_views, nic, segment
from dumm_tools.running import liveness, turn

Report = Callable[[str], None]


def connect(labdir: str, name: str, interface: str, *, warn: Report = lambda _: None) -> None:
    """Connect an interface to a bridge; if it is on another bridge, it moves. Nothing else is
    changed. Addresses that another member has, too, and other guests that are not told of a carrier
    are reported to `warn`. Usage, NotFound, Conflict."""
    try:
        guest, _ = names.interface(interface)
    except Usage:
        _check_order(labdir, name, interface)
        raise
    if liveness.alive(labdir, guest):
        rtnl.load()
    news = _move(labdir, name, interface) or _connect(labdir, name, interface)
    carrier.spread(labdir, news, warn)


def _check_order(labdir: str, name: str, interface: str) -> None:
    """Raise Usage if the bridge and the interface are the wrong way round."""
    if name in statefile.load(labdir).ifaces:
        raise Usage(
            f"'{name}' is an interface, not a bridge",
            hint=f"the bridge comes first: dumm-bridge connect {interface} {name}",
        )


def _connect(labdir: str, name: str, interface: str) -> carrier.News:
    guest, _ = names.interface(interface)
    with turn.taken(labdir, guest):
        with statefile.transaction(labdir) as change:
            state = change.state
            bridge = link_views.bridge(state, name)
            member = link_views.interface(state, interface)
            running = cable.reachable(labdir, state, guest)
            before = member.but()
            news = carrier.moved(state, member, name)
            change.save()
            with netlink.host() as channel:
                host_links.ensure_bridge(channel, state, bridge)
            reopen = cable.settle_host(labdir, state, member, running)
            learning.settle(state, news.left)
        if running:
            with cable.taking_back(labdir, before, member):
                nic.plug(labdir, member, bridge.up, reopen=reopen, switch=False)
    return news


def _move(labdir: str, name: str, interface: str) -> carrier.News | None:
    """Move an interface from one bridge to another. The guest may be paused or stuck: it is only
    told if the carrier changes. None if the interface is already in place: it may be from a
    `create` that was killed before the guest had its device."""
    with statefile.transaction(labdir) as change:
        state = change.state
        bridge = link_views.bridge(state, name)
        member = link_views.interface(state, interface)
        if member.bridge is None or not link_views.ours(state, member.tap):
            return None
        if member.bridge == name and liveness.is_running(labdir, state, member.guest):
            return None
        news = carrier.moved(state, member, name)
        change.save()
        with netlink.host() as channel:
            host_links.ensure_bridge(channel, state, bridge)
        cable.settle_host(labdir, state, member, running=False)
        learning.settle(state, news.left)
    return news


def disconnect(
    labdir: str, interface: str, *, if_exists: bool = False, warn: Report = lambda _: None
) -> None:
    """Disconnect an interface from its bridge, whatever its guest says, which then loses the
    carrier; and so does the other end of a cable. Another guest that is not told is reported to
    `warn`. Usage, NotFound, Conflict."""
    guest, _ = names.interface(interface)
    if liveness.alive(labdir, guest):
        rtnl.load()
    with waiting.unbroken():
        with statefile.transaction(labdir) as change:
            state = change.state
            known = state.ifaces.get(interface)
            if if_exists and (known is None or known.bridge is None):
                return
            member = link_views.interface(state, interface).but()
            if member.bridge is None:
                raise Conflict(f"'{interface}' is not connected")
            far = segment.far_ends(state, member)
            ends = [member, *far]

            def record(state: State, _done: object) -> None:
                cable.unplugged(state, [member])
                segment.cut(state, member.bridge, far)

            with netlink.host() as channel:
                host_links.unplug(channel, state, member.tap)
            told = carrier.listeners(labdir, state, ends)
            if not told:
                record(state, ())
                cable.refresh_boots(labdir, state, {i.guest for i in ends})
        if told:
            failures = carrier.announce(labdir, ends, False, record, about=guest.__eq__)
            carrier.conclude(failures, guest, far, warn)
