"""The host's side of a lab's network: create, find and remove taps and bridges.

Each link has the working set's tag as its alias. A link without it is never changed: Conflict. This
is the only domain module that creates or removes links; it knows only the records that it is given,
and writes no state.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from dumm_tools import address, proc
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import netlink, rtnl, sysctl, sysfs, tun
from dumm_tools.linux.netlink import Channel, Request
from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import guard, host_uplink, learning
from dumm_tools.net.link_views import bridge_mac, ours
from dumm_tools.statefile import need_here


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an OSError in the block into a DummError that says what failed; a TimeoutError is left
    to the caller who set the deadline."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as e:
        hint = None
        if e.filename == tun.PATH:
            hint = _tun_hint(e)
        elif e.errno in (errno.EPERM, errno.EACCES):
            hint = "only root can make links on the host; an isolated lab needs no root"
        where = f"{tun.PATH}: " if e.filename == tun.PATH else ""
        raise DummError(f"cannot {what}: {where}{e.strerror or e}", hint=hint) from None


def _tun_hint(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "load the kernel's tun driver: modprobe tun"
    return "it must be accessible to the user of the lab: chmod 0666 /dev/net/tun"


def check_free(state: State, device: str) -> None:
    """Raise Conflict if a link with this name exists that is not ours."""
    if sysfs.exists(device) and not ours(state, device):
        raise Conflict(f"'{device}' already exists and does not belong to this lab")


def _quiet(device: str) -> None:
    """Keep the host's IPv6 off a link. If /proc/sys is read-only, the lack of a link-local source
    address must suffice."""
    with contextlib.suppress(OSError):
        sysctl.set_ipv6(device, False)


def _keep_netfilter_off(state: State) -> None:
    """Frames on a segment are none of the host's IP filters' business. With br_netfilter, they
    would drop those with an odd IP header and reassemble fragments. The setting is for the whole
    network namespace, so only an isolated lab may change it."""
    if state.isolated:
        with contextlib.suppress(OSError):
            sysctl.bypass_netfilter()


def _dress(state: State, device: str, up: bool = True, **attributes: object) -> Request:
    """Tag a link, keep it quiet, bring it up or down. Without IPv6, it has no address generation
    mode."""
    wanted: list[tuple[str, object]] = [("IFLA_IFNAME", device), ("IFLA_IFALIAS", state.tag)]
    wanted += attributes.items()
    if os.path.exists(f"/proc/sys/net/ipv6/conf/{device}"):
        wanted.append(rtnl.no_address_generation())
    return rtnl.link(rtnl.RTM_SETLINK, device, wanted, up=up)


def _index(device: str) -> int:
    index = sysfs.number(device, "ifindex")
    if index is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device)
    return index


def ensure_bridge(channel: Channel, state: State, bridge: Bridge) -> bool:
    """Create a bridge with its addresses and its uplink if it does not exist; return True if it was
    created.

    Conflict if a link with this name is not ours. Rolls itself back.
    """
    need_here(state)
    name = bridge.name
    with explained(f"create '{name}'"), contextlib.ExitStack() as undo:
        made = not sysfs.exists(name)
        if made:
            proc.log(f"make bridge {name}")
            born = bridge_mac(state, name), learning.ageing(state, bridge)
            try:
                netlink.transact(channel, [rtnl.new_bridge(name, *born)])
            except FileExistsError:
                raise Conflict(f"'{name}' already exists and does not belong to this lab") from None
            undo.callback(discard_bridge, channel, state, name)
            _keep_netfilter_off(state)
        check_free(state, name)
        if made or sysfs.read(name, "ifalias") != state.tag or sysfs.is_up(name) != bridge.up:
            _quiet(name)  # until it has an address
            guard.bridge(channel, state, bridge, bridge.addresses)
            netlink.transact(channel, [_dress(state, name, bridge.up)])
            add_addresses(channel, name, bridge.addresses)
            _ensure_uplink(channel, state, bridge)
        elif bridge.addresses and guard.mend(state):
            _ensure_uplink(channel, state, bridge)
        if made:
            _plug_members(channel, state, name)
        else:
            learning.settle(state, name)
        undo.pop_all()
    return made


def _ensure_uplink(channel: Channel, state: State, bridge: Bridge) -> None:
    if bridge.uplink is not None:
        host_uplink.ensure(channel, state, bridge)


def _plug_members(channel: Channel, state: State, bridge: str) -> None:
    """Connect the existing members of a bridge that somebody had removed and that was created
    again."""
    index = _index(bridge)
    for member in state.members_of(bridge):
        if ours(state, member.tap):
            wanted = [("IFLA_IFNAME", member.tap), ("IFLA_MASTER", index)]
            plugged = rtnl.link(rtnl.RTM_SETLINK, member.tap, wanted)
            netlink.transact(channel, [plugged, rtnl.open_port(member.tap)])
            guard.tap(channel, member.tap, bridged=True)


def add_addresses(channel: Channel, device: str, addresses: list[str]) -> None:
    """Add addresses to the host's device; existing ones are left alone. OSError."""
    if not addresses:
        return
    if any(address.is_v6(a) for a in addresses):
        sysctl.set_ipv6(device, True)
    index = _index(device)
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    netlink.transact(
        channel,
        [rtnl.address(rtnl.RTM_NEWADDR, index, a, flags=flags) for a in addresses],
    )


def del_addresses(channel: Channel, device: str, addresses: list[str]) -> None:
    """Remove addresses from the host's device; missing ones are ignored. OSError."""
    for text in addresses:
        with _unless(errno.EADDRNOTAVAIL, errno.ENODEV):
            request = rtnl.address(rtnl.RTM_DELADDR, _index(device), text)
            netlink.transact(channel, [request])


def ensure_tap(channel: Channel, state: State, iface: Iface) -> bool:
    """Set up an interface's tap as recorded, on its existing bridge; return True if it was created.

    An existing tap is corrected: an earlier command may have been killed halfway, or its guest is
    running. Conflict if a link with this name is not ours. Rolls itself back.
    """
    need_here(state)
    tap, owner = iface.tap, os.geteuid()
    # All guests of a lab have the same user: the group restricts each to its own taps.
    boot = state.guests[iface.guest].boot
    group = boot.group or None if boot else None
    check_free(state, tap)
    with explained(f"create '{iface.name}'"):
        if not sysfs.exists(tap):
            try:
                with tun.created(tap, owner, group) as fd:
                    proc.log(f"make tap {tap}")
                    _dress_tap(channel, state, iface, fresh=True)
                    # From here on it outlives us: it has our tag.
                    tun.persist(fd)
            except OSError as e:
                if e.errno == errno.EBUSY and e.filename == tap:
                    raise Conflict(
                        f"'{tap}' already exists and does not belong to this lab"
                    ) from None
                raise
            return True
        if sysfs.number(tap, "owner") != owner or (
            group is not None and sysfs.number(tap, "group") != group
        ):
            tun.give(tap, owner, group)
        _dress_tap(channel, state, iface)
        return False


def _dress_tap(channel: Channel, state: State, iface: Iface, *, fresh: bool = False) -> None:
    tap = iface.tap
    # With less, the kernel disables IPv6 on a tap, and on the bridge that follows it; and it starts
    # again with a link-local address once the MTU is raised (addrconf_notify, net/ipv6).
    mtu = max(iface.mtu, address.MTU_MIN_IPV6)
    if (sysfs.number(tap, "mtu") or 0) < address.MTU_MIN_IPV6:
        wanted = [("IFLA_IFNAME", tap), ("IFLA_MTU", mtu)]
        down = rtnl.link(rtnl.RTM_SETLINK, tap, wanted[:1], up=False)
        netlink.transact(channel, [down, rtnl.link(rtnl.RTM_SETLINK, tap, wanted)])
    _quiet(tap)
    guard.settings(tap)
    # Traffic for the bridge must never reach the host, before or after: a tap that was not open
    # before it is on its bridge delivers nothing yet.
    if not iface.bridge:
        guard.tap(channel, tap, bridged=False)
    master = _index(iface.bridge) if iface.bridge else 0
    dressed = _dress(state, tap, IFLA_MTU=mtu, IFLA_MASTER=master)
    if iface.bridge:
        netlink.transact(channel, [dressed, rtnl.open_port(tap)])
        if not fresh:
            guard.tap(channel, tap, bridged=True)
    else:
        netlink.transact(channel, [dressed])
    if iface.name != tap and not _has_altname(channel, tap, iface.name):
        try:
            netlink.transact(channel, [rtnl.new_altname(tap, iface.name)])
        except FileExistsError:
            raise Conflict(
                f"'{iface.name}' already exists and does not belong to this lab"
            ) from None


def _has_altname(channel: Channel, device: str, name: str) -> bool:
    with _unless(errno.ENODEV):
        return name in rtnl.find_link(channel, device).altnames
    return False


def unplug(channel: Channel, state: State, tap: str) -> None:
    """Remove a tap from its bridge, if it exists and is ours."""
    if ours(state, tap) and sysfs.master(tap) is not None:
        wanted = [("IFLA_IFNAME", tap), ("IFLA_MASTER", 0)]
        with explained(f"unplug '{tap}'"), _unless(errno.ENODEV):
            guard.tap(channel, tap, bridged=False)  # first: then its frames go to the host
            netlink.transact(channel, [rtnl.link(rtnl.RTM_SETLINK, tap, wanted)])


def remove(channel: Channel, state: State, devices: list[str]) -> None:
    """Remove those of the devices that exist and are ours, in a single step.

    The kernel waits some 20 ms for each link that is removed individually, but only once for a
    whole group (rtnl_group_dellink, net/core/rtnetlink.c).
    """
    present = [d for d in devices if ours(state, d)]
    if present:
        proc.log(f"remove {' '.join(present)}")
        _remove_present(channel, state, present)
    guard.forget(state, devices)


def _remove_present(channel: Channel, state: State, present: list[str]) -> None:
    with explained(f"remove '{present[0]}'" + (" and others" if len(present) > 1 else "")):
        for port in {p for d in present for p in sysfs.ports(d)} - {*present}:
            if ours(state, port):  # it is kept, without a bridge
                guard.tap(channel, port, bridged=False)
        if len(present) == 1:
            _remove(channel, present[0])
            return
        group = _unused_group()
        for device in present:
            # It does not matter if one has disappeared meanwhile.
            with _unless(errno.ENODEV):
                wanted = [("IFLA_IFNAME", device), ("IFLA_GROUP", group)]
                request = rtnl.link(rtnl.RTM_SETLINK, device, wanted)
                netlink.transact(channel, [request])
        with _unless(errno.ENODEV):
            request = rtnl.link(rtnl.RTM_DELLINK, present[0], [("IFLA_GROUP", group)])
            netlink.transact(channel, [request])


def _unused_group() -> int:
    """A number that no link has as its group; users take small ones."""
    used = {sysfs.number(d, "netdev_group") for d in sysfs.devices()}
    while True:
        group = int.from_bytes(os.urandom(4), "big") >> 2 | 1 << 30
        if group not in used:
            return group


@contextlib.contextmanager
def _unless(*numbers: int) -> Iterator[None]:
    """Treat an OSError with one of these errnos as success."""
    try:
        yield
    except OSError as e:
        if e.errno not in numbers:
            raise


def _remove(channel: Channel, device: str) -> None:
    with _unless(errno.ENODEV):
        request = rtnl.link(rtnl.RTM_DELLINK, device, [("IFLA_IFNAME", device)])
        netlink.transact(channel, [request])


def discard_bridge(channel: Channel, state: State, name: str) -> None:
    """Undo the creation of a bridge, and its settings elsewhere."""
    discard(channel, name)
    guard.forget(state, [name])


def discard(channel: Channel, device: str) -> None:
    """Undo: errors are ignored in favour of the one that caused the rollback."""
    with contextlib.suppress(OSError):
        _remove(channel, device)
