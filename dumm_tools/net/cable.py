"""Both ends of an interface, tap and device: set up as recorded, and rolled back.

Shared by all commands that change interfaces in a guest's turn: the host's end is set up in a
transaction, the guest is told outside of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from dumm_tools import statefile
from dumm_tools.errors import Conflict, TimedOut
from dumm_tools.linux import netlink, rtnl, sysfs
from dumm_tools.linux.netlink import Channel
from dumm_tools.model import Iface, State
from dumm_tools.net import guest_links, host_links, learning, link_views, nic, segment
from dumm_tools.running import contact, guest_views, liveness, turn


@contextlib.contextmanager
def turn_of(labdir: str, guest: str) -> Iterator[None]:
    """The guest's turn, for a change that needs netlink if the guest is running; slow imports are
    done before."""
    if liveness.alive(labdir, guest):
        rtnl.load()
    with turn.taken(labdir, guest):
        yield


def reachable(labdir: str, state: State, guest: str) -> bool:
    """Whether the guest is running, so that a change takes effect immediately. Conflict while it is
    starting, stopping or paused."""
    now = liveness.guest_state(labdir, state, guest_views.get(state, guest))
    if now in ("starting", "paused", "stopping"):
        raise Conflict(f"guest '{guest}' is {now}")
    return now == "running"


def refresh_boot(labdir: str, state: State, guest: str) -> None:
    """Let a running guest that reboots itself come back in its present state."""
    contact.write_boot(labdir, state.guests[guest], nic.boot_records(state, guest))


def refresh_boots(labdir: str, state: State, guests: Collection[str]) -> None:
    """As `refresh_boot`, for those of the guests that are not stopped. Those that were running a
    moment ago may be rebooting."""
    for guest in set(guests) & state.guests.keys():
        now = liveness.guest_state(labdir, state, state.guests[guest])
        if now not in ("stopped", "crashed"):
            # Without the file it is restarting, and will read the record.
            with contextlib.suppress(FileNotFoundError):
                refresh_boot(labdir, state, guest)


def settle_host(labdir: str, state: State, iface: Iface, running: bool = True) -> bool:
    """Set up the host's end of an interface as recorded: completely if the guest is running,
    otherwise only a tap left by a crash; and update the data for a reboot of the guest. Return True
    if a device in the guest must open the tap again."""
    if not running and not link_views.ours(state, iface.tap):
        return False
    # Somebody removed the tap or took it down: the guest's device may hold a deleted one,
    # or be stuck with a packet that was not accepted (vector_send, arch/um/drivers/vector_kern.c).
    reopen = not sysfs.has_carrier(iface.tap)
    with netlink.host() as channel, contextlib.ExitStack() as undo:
        plug_host(channel, undo, state, iface)
        if running:
            refresh_boot(labdir, state, iface.guest)
        undo.pop_all()
    return reopen


@contextlib.contextmanager
def taking_back(labdir: str, before: Iface | None, after: Iface) -> Iterator[None]:
    """Tell the guest, inside this block, about the record `after`; if that fails, restore `before`,
    on the host and, if the guest answers, in the guest. Concurrent changes by others are kept."""
    try:
        yield
    except BaseException as e:
        with contextlib.suppress(*guest_links.UNDO_FAILURES):
            left = _take_back(labdir, before, after)
            # A guest that did not answer will not answer now, and an interrupt must not wait.
            if left is not None and isinstance(e, Exception) and not isinstance(e, TimedOut):
                nic.plug(labdir, left.iface, left.carrier, reopen=left.reopen)
        raise


class _Restored(NamedTuple):
    """A restored record, whether it has a carrier, and whether the device must open the tap
    again."""

    iface: Iface
    carrier: bool
    reopen: bool


def _take_back(labdir: str, before: Iface | None, after: Iface) -> _Restored | None:
    """Restore the record; return it if the guest is running."""
    with statefile.transaction(labdir) as change:
        state = change.state
        record = state.ifaces.get(after.name)
        if record is None:
            return None
        running = liveness.is_running(labdir, state, after.guest)
        if before is None:
            with netlink.host() as channel:
                host_links.remove(channel, state, [record.tap])
            del state.ifaces[record.name]
            learning.settle(state, record.bridge)
            refresh_boots(labdir, state, {record.guest})
            return None
        for key, value in vars(before).items():
            if getattr(record, key) == getattr(after, key):
                setattr(record, key, value)
        if record.bridge not in state.bridges:
            record.bridge = None
        learning.settle(state, after.bridge, record.bridge)
        change.save()
        reopen = settle_host(labdir, state, record, running)
        if not running:  # it may have just rebooted
            refresh_boots(labdir, state, {record.guest})
        return _Restored(record, segment.has_carrier(state, record), reopen) if running else None


def plug_host(channel: Channel, undo: contextlib.ExitStack, state: State, iface: Iface) -> None:
    """Set up the bridge and the tap of an interface; whatever is created is added to the
    undo list."""
    if iface.bridge is not None and host_links.ensure_bridge(
        channel, state, state.bridges[iface.bridge]
    ):
        undo.callback(host_links.discard_bridge, channel, state, iface.bridge)
    if host_links.ensure_tap(channel, state, iface):
        undo.callback(host_links.discard, channel, iface.tap)


def unplugged(state: State, ifaces: Sequence[Iface]) -> None:
    """Record that interfaces are no longer connected, except for those that other commands have
    connected elsewhere, and make sure that their taps are not on a bridge."""
    with netlink.host() as channel:
        for old in ifaces:
            record = state.ifaces.get(old.name)
            if record is not None and record.bridge == old.bridge:
                host_links.unplug(channel, state, record.tap)
                record.bridge = None
    learning.settle(state, *{i.bridge for i in ifaces})
