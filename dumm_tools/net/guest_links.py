"""The device of an interface in its running guest: find it, set its addresses and shaping.

This uses netlink through the agent: no program runs in the guest. Writes no state.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Sequence

from dumm_tools import address
from dumm_tools.agent.client import Control, LineLost
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import netlink, qdisc, rtnl
from dumm_tools.linux.netlink import Request
from dumm_tools.linux.rtnl import Link
from dumm_tools.model import Iface
from dumm_tools.net import link_requests
from dumm_tools.net.host_links import explained
from dumm_tools.running import contact

#: Errors during a rollback that must not hide the error that caused it.
UNDO_FAILURES = (DummError, OSError, LineLost)
#: Other network namespaces of a guest that are searched for a device.
NAMESPACES_MAX = 64
#: Devices whose descriptions contain the name of the parent that are looked at: a guest may have
#: thousands of devices, and give any of them that text as its alias.
_CANDIDATES_MAX = 64
#: Seconds to wait for a guest whose answer is only a part of the request.
ASK_TIMEOUT = 2.0


def find(control: Control, iface: Iface) -> Link | None:
    """The interface's device in the guest's first network namespace, by its name or, if the guest
    has renamed it, by its parent in sysfs. The guest may have given its name to another device."""
    control.enter(0)
    try:
        link = rtnl.find_link(control, iface.device)
        if link.parent == _parent(iface):
            return link
    except OSError as e:
        if e.errno != errno.ENODEV:
            raise
    return _listed(control, iface)


def _parent(iface: Iface) -> str:
    return f"uml-vector.{iface.slot}"


def _listed(control: Control, iface: Iface) -> Link | None:
    parent = _parent(iface)
    candidates = itertools.islice(rtnl.links(control, parent.encode() + b"\0"), _CANDIDATES_MAX)
    return next((link for link in candidates if link.parent == parent), None)


def search(control: Control, iface: Iface) -> Link | None:
    """The interface's device in one of the guest's other network namespaces, to which the control
    line then leads."""
    for number in range(1, NAMESPACES_MAX):
        try:
            control.enter(number)
            link = _listed(control, iface)
        except OSError as e:
            if e.errno == errno.ENOENT:
                break
            continue  # it is no longer there
        if link is not None:
            return link._replace(foreign=True)
    control.enter(0)
    return None


def away(iface: Iface) -> Conflict:
    """The error for a change that only the guest itself can make."""
    return Conflict(f"guest '{iface.guest}' has moved '{iface.name}' to another network namespace")


def need(control: Control, iface: Iface, *, anywhere: bool = False) -> Link:
    """The interface's device; Conflict if it is not in the guest's first network namespace, unless
    it may be `anywhere`; DummError if its guest has none."""
    link = find(control, iface) or search(control, iface)
    if link is not None and link.foreign and not anywhere:
        raise away(iface)
    if link is None:
        raise DummError(
            f"guest '{iface.guest}' has no device for '{iface.name}'",
            hint=f"'dumm-iface up {iface.name}' adds it",
        )
    return link


def born_as(iface: Iface) -> str:
    """The kernel's name of the device before it is set up."""
    return f"vec{iface.slot}"


def load_ipv6(control: Control, iface: Iface) -> None:
    """If IPv6 is a module, it must be loaded before addresses are added; if it is built in or
    unavailable, adding the address will tell."""
    if link_requests.needs_ipv6(iface):
        with contextlib.suppress(OSError):
            control.load_module("ipv6")


def apply_shape(control: Control, iface: Iface, index: int) -> None:
    """Shape a device as recorded; as with IPv6, the kernel reports if it cannot."""
    if iface.shape:
        with contextlib.suppress(OSError):
            control.load_module(link_requests.MODULE)
        netlink.transact(control, link_requests.shaping(iface, index))


def add_addresses(labdir: str, iface: Iface, addresses: list[str]) -> None:
    """Add addresses to the device in the running guest: all or none."""
    with (
        contact.control(labdir, iface.guest) as control,
        explained(f"add an address to '{iface.name}'"),
        contextlib.ExitStack() as undo,
    ):
        index = need(control, iface).ifindex
        if any(map(address.is_v6, addresses)):
            with contextlib.suppress(OSError):
                control.load_module("ipv6")
        flags = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
        for text in addresses:
            request = rtnl.address(rtnl.RTM_NEWADDR, index, text, flags=flags)
            netlink.transact(control, [request])
            undo.callback(_drop_address, control, index, text)
        undo.pop_all()


def _drop_address(control: Control, index: int, text: str) -> None:
    """Roll back one address."""
    with contextlib.suppress(*UNDO_FAILURES):
        netlink.transact(control, [rtnl.address(rtnl.RTM_DELADDR, index, text)])


def del_addresses(
    labdir: str, iface: Iface, addresses: list[str], left: Sequence[str] = ()
) -> None:
    """Remove addresses from the device in the running guest; missing ones are ignored. `left` must
    be kept: the kernel drops all addresses of a network with its first (promote_secondaries in
    Documentation/networking/ip-sysctl.rst)."""
    with (
        contact.control(labdir, iface.guest) as control,
        explained(f"remove an address from '{iface.name}'"),
    ):
        link = need(control, iface, anywhere=True)
        if link.foreign:
            return  # the kernel removed them when it was moved there
        index = link.ifindex
        for text in addresses:
            try:
                netlink.transact(control, [rtnl.address(rtnl.RTM_DELADDR, index, text)])
            except OSError as e:
                if e.errno != errno.EADDRNOTAVAIL:
                    raise
        stay = iface.but(addresses=[a for a in left if not address.is_v6(a)])
        netlink.transact(control, link_requests.addresses(stay, index))


def drop_addresses(labdir: str, iface: Iface, addresses: list[str]) -> None:
    """Roll back an `add_addresses`."""
    with contextlib.suppress(*UNDO_FAILURES):
        del_addresses(labdir, iface, addresses)


def live_addresses(labdir: str, iface: Iface) -> list[str]:
    """The addresses currently set on the device in the running guest."""
    with (
        contact.control(labdir, iface.guest) as control,
        explained(f"list the addresses of '{iface.name}'"),
    ):
        index = need(control, iface, anywhere=True).ifindex
        return [a.address for a in rtnl.addresses(control, index)]


def tolerant(control: Control, request: Request, *numbers: int) -> None:
    """Send a request that may have been carried out already."""
    try:
        netlink.transact(control, [request])
    except OSError as e:
        if e.errno not in numbers:
            raise


def change_shape(labdir: str, iface: Iface) -> None:
    """Shape the device in the running guest as recorded, whatever its previous shaping."""
    with (
        contact.control(labdir, iface.guest) as control,
        explained(f"shape '{iface.name}' in its guest"),
    ):
        index = need(control, iface).ifindex
        if iface.shape:
            apply_shape(control, iface, index)
        else:
            request = qdisc.remove(index, iface.name)
            tolerant(control, request, errno.ENOENT, errno.EINVAL)


def restore_shape(labdir: str, iface: Iface) -> None:
    """Roll back a `change_shape`."""
    with contextlib.suppress(*UNDO_FAILURES):
        change_shape(labdir, iface)


def live_link(labdir: str, iface: Iface, seconds: float = ASK_TIMEOUT) -> Link:
    """The device in the running guest."""
    with (
        contact.control(labdir, iface.guest, seconds) as control,
        explained(f"ask for '{iface.name}'"),
    ):
        return need(control, iface, anywhere=True)


def live_shape(labdir: str, iface: Iface, seconds: float = ASK_TIMEOUT) -> dict[str, float]:
    """The shaping of the device in the running guest."""
    with (
        contact.control(labdir, iface.guest, seconds) as control,
        explained(f"ask for the shape of '{iface.name}'"),
    ):
        index = need(control, iface, anywhere=True).ifindex
        return link_requests.shape_of(qdisc.read(control, index))
