"""The guest's side of an interface: how its kernel gets a device, and how the device is set up.

At boot by arguments and by messages that the agent sends to its own kernel; live by mconsole
(`config vecN`, `remove vecN`) and by netlink through the agent. No program runs in the guest.
Writes no state.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence

from dumm_tools import address, proc, reach, wire
from dumm_tools.agent.client import Control, LineLost
from dumm_tools.errors import DummError
from dumm_tools.linux import netlink, qdisc, route, rtattr
from dumm_tools.linux.netlink import Channel, Link, Request
from dumm_tools.model import Iface, State
from dumm_tools.segment import explained

#: The largest MTU that netlink can give a vector device: alloc_etherdev leaves max_mtu at
#: ETH_DATA_LEN. A larger one is an argument of the device (vector_kern.c, get_mtu).
MTU_BY_NETLINK = 1500
#: What an undo may meet without hiding the failure that led to it.
UNDO_FAILURES = (DummError, OSError, LineLost)
#: Seconds to wait for a guest whose answer is not all that was asked for.
ASK_TIMEOUT = 2.0
#: Packets moved at once by one system call.
DEPTH = 128


def uml_arg(iface: Iface) -> str:
    """The device as an argument of the guest's kernel, and of mconsole's `config`."""
    mtu = f",mtu={iface.mtu}" if iface.mtu > MTU_BY_NETLINK else ""
    return f"vec{iface.slot}:transport=tap,ifname={iface.tap},depth={DEPTH},gro=1{mtu}"


def boot_records(state: State, guest: str) -> list[tuple[str, int, bytes]]:
    """What the agent does at boot for the guest's interfaces: (kind, slot, payload), where kind
    'M' names a module to load and 'N' is a netlink message about vec<slot>, whose index the
    agent puts in."""
    ifaces = state.ifaces_of(guest)
    records: list[tuple[str, int, bytes]] = []
    if any(map(wire.needs_ipv6, ifaces)):
        records.append(("M", 0, b"ipv6\0"))
    if any(i.shape for i in ifaces):
        records.append(("M", 0, wire.MODULE.encode() + b"\0"))
    for iface in ifaces:
        requests = [
            _name(iface, 0),
            *_addresses(iface, 0),
            *wire.routes(iface, 0),
            *wire.shaping(iface, 0),
        ]
        records += [("N", iface.slot, r.data) for r in requests]
    return records


def _name(iface: Iface, index: int) -> Request:
    """All that a new device is told, in one message: the kernel renames, then brings up
    (do_setlink, net/core/rtnetlink.c)."""
    wanted: list[tuple[str, object]] = [
        ("IFLA_IFNAME", iface.device),
        ("IFLA_ADDRESS", iface.mac),
    ]
    if iface.mtu <= MTU_BY_NETLINK:
        wanted.append(("IFLA_MTU", iface.mtu))
    return netlink.link(netlink.RTM_SETLINK, iface.name, wanted, index=index, up=iface.up)


def _addresses(iface: Iface, index: int) -> list[Request]:
    flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
    return [netlink.address(netlink.RTM_NEWADDR, index, a, flags=flags) for a in iface.addresses]


def _find(channel: Channel, iface: Iface) -> Link | None:
    """The interface's device in its guest, by its name, or where it was renamed by what it is."""
    parent = f"uml-vector.{iface.slot}"
    try:
        link = netlink.find_link(channel, iface.device)
        if link.parent in (parent, None):
            return link
    except OSError as e:
        if e.errno != errno.ENODEV:
            raise
    for link in netlink.links(channel):
        if link.parent == parent or (link.parent is None and link.name == _born_as(iface)):
            return link
    return None


def _newborn(channel: Channel, iface: Iface) -> Link | None:
    """The device that was just made, unless the guest has been as quick as to rename it."""
    try:
        return netlink.find_link(channel, _born_as(iface))
    except OSError as e:
        if e.errno != errno.ENODEV:
            raise
    return _find(channel, iface)


def plug(root: str, iface: Iface, *, reopen: bool = False) -> bool:
    """Give the running guest the device, set up as recorded, if it lacks it; True when it did.

    One that is there is only brought up or down: name, MTU, MAC and addresses are the guest's
    to change. The tap is there; with `reopen` a device that is up opens it anew. A device that
    cannot be set up is taken away again.
    """
    with (
        reach.control(root, iface.guest) as control,
        explained(f"set up '{iface.name}' in its guest"),
    ):
        link = _find(control, iface)
        if link is not None and link.name != _born_as(iface):
            if link.up and reopen:
                down = netlink.link(netlink.RTM_SETLINK, iface.name, index=link.ifindex, up=False)
                netlink.transact(control, [down])
                link = link._replace(up=False)
            if link.up != iface.up:
                _load_ipv6(control, iface)
                netlink.transact(control, _turn(iface, link.ifindex))
            return False
        if link is None:
            proc.log(f"plug {iface.name} into the running guest")
            reach.mconsole(root, iface.guest, f"config {uml_arg(iface)}")
        try:
            link = link or _newborn(control, iface)
            if link is None:
                # vector_config says nothing when vector_eth_configure fails.
                raise DummError(f"guest '{iface.guest}' made no device {_born_as(iface)}")
            _load_ipv6(control, iface)
            index = link.ifindex
            # The name comes last: who finds the first name knows that this was not done.
            netlink.transact(control, _addresses(iface, index))
            _shape(control, iface, index)
            netlink.transact(control, [_name(iface, index)])
            netlink.transact(control, wire.routes(iface, index))
        except BaseException:
            with contextlib.suppress(*UNDO_FAILURES):
                _unplug(root, control, iface)
            raise
    return True


def _born_as(iface: Iface) -> str:
    """What the kernel calls the device before it is set up."""
    return f"vec{iface.slot}"


def _turn(iface: Iface, index: int) -> list[Request]:
    """Bring a device up or down as recorded. Going down costs it its IPv6 addresses, and all its
    routes."""
    flag = netlink.link(netlink.RTM_SETLINK, iface.name, index=index, up=iface.up)
    lost = [r for r in _addresses(iface, index) if address.is_v6(r.subject)]
    return [flag, *lost, *wire.routes(iface, index)] if iface.up else [flag]


def _load_ipv6(control: Control, iface: Iface) -> None:
    """Where IPv6 is a module it must be there before an address; where it is built in, or is
    not to be had, the address itself tells."""
    if wire.needs_ipv6(iface):
        with contextlib.suppress(OSError):
            control.load_module("ipv6")


def _shape(control: Control, iface: Iface, index: int) -> None:
    """Shape a device as recorded; as for IPv6, the kernel says when it cannot."""
    if iface.shape:
        with contextlib.suppress(OSError):
            control.load_module(wire.MODULE)
        netlink.transact(control, wire.shaping(iface, index))


def change(root: str, iface: Iface, *, mtu: bool, mac: bool) -> None:
    """Give the device in the running guest its recorded MTU, which netlink can give, or MAC, or
    both."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"set up '{iface.name}' in its guest"),
    ):
        link = _need(control, iface)
        if mtu:
            netlink.transact(control, [_set(iface, link, IFLA_MTU=iface.mtu)])
        if not mac:
            return
        # A vector device that is up keeps its MAC (eth_mac_addr, net/ethernet/eth.c).
        down = netlink.link(netlink.RTM_SETLINK, iface.name, index=link.ifindex, up=False)
        try:
            netlink.transact(control, [down])
            netlink.transact(control, [_set(iface, link, IFLA_ADDRESS=iface.mac)])
        except OSError:
            if mtu:
                with contextlib.suppress(*UNDO_FAILURES):
                    netlink.transact(control, [_set(iface, link, IFLA_MTU=link.mtu)])
            raise
        finally:
            _load_ipv6(control, iface)
            netlink.transact(control, _turn(iface, link.ifindex))


def live_mtu(root: str, iface: Iface) -> int | None:
    """The MTU that the device has in the running guest; None where there is no device."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"ask for the MTU of '{iface.name}'"),
    ):
        link = _find(control, iface)
        return link.mtu if link is not None else None


def _set(iface: Iface, link: Link, **attributes: object) -> Request:
    wanted = list(attributes.items())
    return netlink.link(netlink.RTM_SETLINK, iface.name, wanted, index=link.ifindex)


def withdraw(root: str, iface: Iface) -> None:
    """Undo a `plug`."""
    with contextlib.suppress(*UNDO_FAILURES):
        unplug(root, iface)


def unplug(root: str, iface: Iface) -> None:
    """Take the device from the running guest; one that is not there is fine."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"remove '{iface.name}' from its guest"),
    ):
        _unplug(root, control, iface)


def _unplug(root: str, control: Control, iface: Iface) -> None:
    link = _find(control, iface)
    if link is not None and link.up:
        down = netlink.link(netlink.RTM_SETLINK, iface.name, index=link.ifindex, up=False)
        netlink.transact(control, [down])
    try:
        reach.mconsole(root, iface.guest, f"remove {_born_as(iface)}")
    except DummError as e:
        # "Device doesn't exist" (mconsole_kern.c, mconsole_remove)
        if link is None and "exist" in str(e):
            return
        if link is not None and link.up:
            with contextlib.suppress(*UNDO_FAILURES):
                netlink.transact(control, _turn(iface, link.ifindex))
        raise


def add_addresses(root: str, iface: Iface, addresses: list[str]) -> None:
    """Give the device in the running guest addresses: all or none."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"add an address to '{iface.name}'"),
        contextlib.ExitStack() as undo,
    ):
        index = _need(control, iface).ifindex
        if any(map(address.is_v6, addresses)):
            with contextlib.suppress(OSError):
                control.load_module("ipv6")
        flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
        for text in addresses:
            request = netlink.address(netlink.RTM_NEWADDR, index, text, flags=flags)
            netlink.transact(control, [request])
            undo.callback(_drop_address, control, index, text)
        undo.pop_all()


def _drop_address(control: Control, index: int, text: str) -> None:
    """Undo."""
    with contextlib.suppress(*UNDO_FAILURES):
        netlink.transact(control, [netlink.address(netlink.RTM_DELADDR, index, text)])


def del_addresses(root: str, iface: Iface, addresses: list[str], left: Sequence[str] = ()) -> None:
    """Take addresses from the device in the running guest; one it does not have is fine. `left`
    are to stay: of a network the kernel drops all with the first (promote_secondaries in
    Documentation/networking/ip-sysctl.rst)."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"remove an address from '{iface.name}'"),
    ):
        index = _need(control, iface).ifindex
        for text in addresses:
            try:
                netlink.transact(control, [netlink.address(netlink.RTM_DELADDR, index, text)])
            except OSError as e:
                if e.errno != errno.EADDRNOTAVAIL:
                    raise
        stay = iface.but(addresses=[a for a in left if not address.is_v6(a)])
        netlink.transact(control, _addresses(stay, index))


def drop_addresses(root: str, iface: Iface, addresses: list[str]) -> None:
    """Undo an `add_addresses`."""
    with contextlib.suppress(*UNDO_FAILURES):
        del_addresses(root, iface, addresses)


def live_addresses(root: str, iface: Iface) -> list[str]:
    """The addresses that the device has in the running guest."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"list the addresses of '{iface.name}'"),
    ):
        return [a.address for a in netlink.addresses(control, _need(control, iface).ifindex)]


def add_routes(root: str, iface: Iface, routes: list[dict[str, str]]) -> None:
    """Give the running guest routes out of the device, those that it can have now."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"add a route to '{iface.name}'"),
    ):
        link = _need(control, iface)
        if not link.up:
            return
        _load_ipv6(control, iface)
        netlink.transact(control, wire.routes(iface, link.ifindex, routes))


def del_routes(root: str, iface: Iface, routes: list[dict[str, str]]) -> None:
    """Take routes from the running guest; one that it does not have is fine."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"remove a route from '{iface.name}'"),
    ):
        index = _need(control, iface).ifindex
        for each in routes:
            request = route.route(route.RTM_DELROUTE, index, each["dest"], each.get("via"))
            _tolerant(control, request, errno.ESRCH, errno.ENODEV, errno.EAFNOSUPPORT)


def _tolerant(control: Control, request: Request, *numbers: int) -> None:
    """Send a request that may have been done already."""
    try:
        netlink.transact(control, [request])
    except OSError as e:
        if e.errno not in numbers:
            raise


def live_routes(root: str, guest: str) -> list[tuple[str, route.Route]]:
    """The routes of the running guest, with the names of their devices."""
    with reach.control(root, guest) as control, explained(f"list the routes of '{guest}'"):
        by_index = {link.ifindex: link.name for link in netlink.links(control)}
        return [(by_index.get(r.ifindex, "?"), r) for r in route.routes(control)]


def change_shape(root: str, iface: Iface) -> None:
    """Shape the device in the running guest as recorded, whatever it was like."""
    with (
        reach.control(root, iface.guest) as control,
        explained(f"shape '{iface.name}' in its guest"),
    ):
        index = _need(control, iface).ifindex
        if iface.shape:
            _shape(control, iface, index)
        else:
            request = qdisc.remove(index, iface.name)
            _tolerant(control, request, errno.ENOENT, errno.EINVAL)


def restore_shape(root: str, iface: Iface) -> None:
    """Undo a `change_shape`."""
    with contextlib.suppress(*UNDO_FAILURES):
        change_shape(root, iface)


def live_shape(root: str, iface: Iface) -> dict[str, float]:
    """What the device in the running guest has of shaping; quick to import."""
    with (
        reach.control(root, iface.guest, ASK_TIMEOUT) as control,
        explained(f"ask for the shape of '{iface.name}'"),
    ):
        try:
            index = rtattr.index_of(control, iface.device)
        except OSError as e:
            if e.errno != errno.ENODEV:
                raise
            index = _need(control, iface).ifindex  # renamed by its guest
        return wire.shape_of(qdisc.read(control, index))


def _need(control: Control, iface: Iface) -> Link:
    link = _find(control, iface)
    if link is None:
        raise DummError(
            f"guest '{iface.guest}' has no device for '{iface.name}'",
            hint=f"'dumm-iface up {iface.name}' plugs it in",
        )
    return link
