"""The guest's side of an interface: creating the device in its kernel, and setting it up.

At boot, this is done by kernel arguments and by messages that the agent sends to its own kernel; in
a running guest by mconsole (`config vecN`, `remove vecN`) and by netlink through the agent. No
program runs in the guest. Writes no state.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping, Sequence

from dumm_tools import address, proc
from dumm_tools.agent import protocol
from dumm_tools.agent.client import ANSWER_TIMEOUT, Control
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import netlink, rtnl
from dumm_tools.linux.netlink import Request
from dumm_tools.linux.rtnl import Link
from dumm_tools.model import Iface, State
from dumm_tools.net import (
    guest_links,
    guest_routes,
    link_requests,
    route_requests,
    rule_requests,
    segment,
)
from dumm_tools.net.host_links import explained
from dumm_tools.running import contact

#: The largest MTU that netlink can give a vector device: alloc_etherdev leaves max_mtu at
#: ETH_DATA_LEN. A larger one is an argument of the device (vector_kern.c, get_mtu).
MTU_BY_NETLINK = 1500
#: Packets moved by a single system call.
DEPTH = 128


def uml_arg(iface: Iface) -> str:
    """The device as an argument of the guest's kernel, and of mconsole's `config`."""
    mtu = f",mtu={iface.mtu}" if iface.mtu > MTU_BY_NETLINK else ""
    return f"vec{iface.slot}:transport=tap,ifname={iface.tap},depth={DEPTH},gro=1{mtu}"


def boot_records(state: State, guest: str) -> list[tuple[bytes, int, bytes]]:
    """The boot instructions for the guest's network: (kind, slot, payload). A BOOT_NIC creates
    vec<slot>; a BOOT_NETLINK is a message about it, in which the agent inserts the index. Routes
    come last: they may depend on several interfaces."""
    ifaces = state.ifaces_of(guest)
    rules = rule_requests.of(state.guests[guest])
    records = [(protocol.BOOT_NIC, i.slot, uml_arg(i).encode() + b"\0") for i in ifaces]
    if any(map(link_requests.needs_ipv6, ifaces)) or any(map(rule_requests.needs_ipv6, rules)):
        records.append((protocol.BOOT_MODULE, 0, b"ipv6\0"))
    if any(i.shape for i in ifaces):
        records.append((protocol.BOOT_MODULE, 0, link_requests.MODULE.encode() + b"\0"))
    for iface in ifaces:
        requests = [
            _name(iface, 0, segment.has_carrier(state, iface)),
            *link_requests.addresses(iface, 0),
            *link_requests.shaping(iface, 0),
        ]
        records += [(protocol.BOOT_NETLINK, iface.slot, r.data) for r in requests]
    records += [(protocol.BOOT_ROUTE, *payload) for payload in route_requests.at_boot(ifaces)]
    records += [(protocol.BOOT_ROUTE, 0, rule_requests.new(each).data) for each in rules]
    return records


def _name(iface: Iface, index: int, carrier: bool) -> Request:
    """All settings of a new device in one message: the kernel first renames it, then brings it up
    (do_setlink, net/core/rtnetlink.c)."""
    wanted: list[tuple[str, object]] = [
        ("IFLA_IFNAME", iface.device),
        ("IFLA_ADDRESS", iface.mac),
    ]
    if iface.mtu <= MTU_BY_NETLINK:
        wanted.append(("IFLA_MTU", iface.mtu))
    wanted += rtnl.carrier(carrier)
    return rtnl.link(rtnl.RTM_SETLINK, iface.name, wanted, index=index, up=iface.up)


def _newborn(control: Control, iface: Iface) -> Link | None:
    """The newly created device, unless the guest has already renamed it."""
    try:
        return rtnl.find_link(control, guest_links.born_as(iface))
    except OSError as e:
        if e.errno != errno.ENODEV:
            raise
    return guest_links.find(control, iface)


def plug(
    labdir: str, iface: Iface, carrier: bool, *, reopen: bool = False, switch: bool = True
) -> None:
    """Add the device to the running guest, set up as recorded, unless it has it.

    An existing device only gets its carrier and, with `switch`, is brought up or down: name, MTU,
    MAC and addresses are the guest's to change. The tap exists; with `reopen`, a device that is up
    opens it again. A device that cannot be set up is removed again.
    """
    with (
        contact.control(labdir, iface.guest) as control,
        explained(f"set up '{iface.name}' in its guest"),
    ):
        link = guest_links.find(control, iface) or _configure(labdir, control, iface)
        if link is not None and (link.foreign or link.name != guest_links.born_as(iface)):
            up = iface.up if switch else None
            if link.up and reopen:
                netlink.transact(control, [_down(iface, link)])
                up = iface.up if switch else True
                link = link._replace(up=False)
            _adjust(labdir, control, iface, link, carrier, up)
            return
        try:
            link = link or _newborn(control, iface)
            if link is None:
                # vector_config says nothing when vector_eth_configure fails.
                raise DummError(
                    f"guest '{iface.guest}' did not create the device {guest_links.born_as(iface)}"
                )
            guest_links.load_ipv6(control, iface)
            index = link.ifindex
            # The name comes last: a device with its first name is known to be incomplete.
            netlink.transact(control, link_requests.addresses(iface, index))
            guest_links.apply_shape(control, iface, index)
            netlink.transact(control, [_name(iface, index, carrier)])
            netlink.transact(control, guest_routes.through(labdir, control, iface, index))
        except BaseException:
            with contextlib.suppress(*guest_links.UNDO_FAILURES):
                _unplug(labdir, control, iface)
            raise


def _configure(labdir: str, control: Control, iface: Iface) -> Link | None:
    """Have the guest's kernel create a device; if it has it in another network namespace, return
    that one."""
    proc.log(f"plug {iface.name} into the running guest")
    try:
        contact.mconsole(labdir, iface.guest, f"config {uml_arg(iface)}", control.left())
    except DummError as e:
        if "already configured" not in str(e):
            raise
        link = guest_links.find(control, iface) or guest_links.search(control, iface)
        if link is None:
            raise _hidden(iface) from None
        return link
    return None


def _hidden(iface: Iface) -> Conflict:
    return Conflict(
        f"guest '{iface.guest}' has '{iface.name}' in a network namespace that cannot be found",
        hint="only those of processes, and those in /run/netns, are searched",
    )


def _adjust(
    labdir: str,
    control: Control,
    iface: Iface,
    link: Link,
    carrier: bool,
    up: bool | None = None,
) -> None:
    """Set the carrier of a device, and bring it up or down, unless `up` is None.

    A bond that monitors its ports does not see this carrier, only whether they are up
    (bond_check_dev_link, drivers/net/bonding): without it, a port is down. Addresses and routes are
    then the bond's.
    """
    bonded = link.port_of == "bond"
    if bonded:
        up = iface.up and carrier
    attributes = rtnl.carrier(carrier)
    flag = rtnl.link(rtnl.RTM_SETLINK, iface.name, attributes, index=link.ifindex, up=up)
    if up and not link.up and not link.foreign and not bonded:
        _restore(labdir, control, iface, flag, link.ifindex)
    else:
        netlink.transact(control, [flag])


def _restore(labdir: str, control: Control, iface: Iface, flag: Request, index: int) -> None:
    """Bring a device up by the message `flag`, and restore what it lost when it went down: its IPv6
    addresses, and all its routes. Routes are left out if the guest has moved the address that they
    need, such as to a bridge that the device is a port of."""
    lost = [r for r in link_requests.addresses(iface, index) if address.is_v6(r.subject)]
    routes = guest_routes.through(labdir, control, iface, index)
    if lost or routes:
        guest_links.load_ipv6(control, iface)
    netlink.transact(control, [flag, *lost])
    try:
        netlink.transact(control, routes)
    except OSError as e:
        if e.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            raise


def _down(iface: Iface, link: Link) -> Request:
    return rtnl.link(rtnl.RTM_SETLINK, iface.name, index=link.ifindex, up=False)


def change(labdir: str, iface: Iface, carrier: bool, *, mtu: bool, mac: bool) -> None:
    """Set the recorded MTU (if netlink can), or MAC, or both, on the device in the running
    guest."""
    with (
        contact.control(labdir, iface.guest) as control,
        explained(f"set up '{iface.name}' in its guest"),
    ):
        link = guest_links.need(control, iface)
        if mtu:
            netlink.transact(control, [_set(iface, link, IFLA_MTU=iface.mtu)])
        if not mac:
            return
        # A vector device that is up keeps its MAC (eth_mac_addr, net/ethernet/eth.c).
        try:
            netlink.transact(control, [_down(iface, link)])
            netlink.transact(control, [_set(iface, link, IFLA_ADDRESS=iface.mac)])
        except OSError:
            if mtu:
                with contextlib.suppress(*guest_links.UNDO_FAILURES):
                    netlink.transact(control, [_set(iface, link, IFLA_MTU=link.mtu)])
            raise
        finally:
            _adjust(labdir, control, iface, link._replace(up=False), carrier, iface.up)


def live_mtu(labdir: str, iface: Iface) -> int | None:
    """The current MTU of the device in the running guest; None if there is no device."""
    with (
        contact.control(labdir, iface.guest) as control,
        explained(f"ask for the MTU of '{iface.name}'"),
    ):
        link = guest_links.find(control, iface) or guest_links.search(control, iface)
        if link is not None and link.foreign:
            raise guest_links.away(iface)
        return link.mtu if link is not None else None


def _set(iface: Iface, link: Link, **attributes: object) -> Request:
    wanted = list(attributes.items())
    return rtnl.link(rtnl.RTM_SETLINK, iface.name, wanted, index=link.ifindex)


def set_carriers(
    labdir: str, ifaces: Sequence[Iface], wanted: Mapping[str, bool], timeout: float
) -> None:
    """Set the carriers of devices of a running guest, by the names of their interfaces; missing
    devices are ignored."""
    with (
        contact.control(labdir, ifaces[0].guest, timeout) as control,
        explained(f"set the carrier of '{ifaces[0].name}' in its guest"),
    ):
        for iface in ifaces:
            link = guest_links.find(control, iface) or guest_links.search(control, iface)
            if link is not None and (link.foreign or link.name != guest_links.born_as(iface)):
                _adjust(labdir, control, iface, link, wanted[iface.name])


def unplug(labdir: str, iface: Iface, timeout: float = ANSWER_TIMEOUT) -> None:
    """Remove the device from the running guest; a missing one is ignored."""
    with (
        contact.control(labdir, iface.guest, timeout) as control,
        explained(f"remove '{iface.name}' from its guest"),
    ):
        _unplug(labdir, control, iface)


def _unplug(labdir: str, control: Control, iface: Iface) -> None:
    link = guest_links.find(control, iface)
    if link is None:
        try:
            _remove(labdir, control, iface)
        except DummError as e:
            if "open" not in str(e):  # vector_remove, arch/um/drivers/vector_kern.c
                raise
            # It is up, in another network namespace.
            link = guest_links.search(control, iface)
            if link is None:
                raise _hidden(iface) from None
    if link is None:
        return
    if link.up:
        netlink.transact(control, [_down(iface, link)])
    try:
        _remove(labdir, control, iface)
    except DummError:
        if link.up:
            with contextlib.suppress(*guest_links.UNDO_FAILURES):
                up = rtnl.link(rtnl.RTM_SETLINK, iface.name, index=link.ifindex, up=True)
                if link.foreign:
                    netlink.transact(control, [up])
                else:
                    _restore(labdir, control, iface, up, link.ifindex)
        raise


def _remove(labdir: str, control: Control, iface: Iface) -> None:
    """Have the guest's kernel remove the device; a missing one is ignored."""
    command = f"remove {guest_links.born_as(iface)}"
    try:
        contact.mconsole(labdir, iface.guest, command, control.left())
    except DummError as e:
        if "exist" not in str(e):  # mconsole_remove, arch/um/drivers/mconsole_kern.c
            raise
