"""Interfaces: a guest's NIC and its tap, recorded, and live where the guest runs.

A change is checked first, then recorded, then made in the kernels; where that fails the record
and what was done are taken back. What only removes is done in the kernels first, so that a
command that was killed can be run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from dumm_tools import address, device, live, names, network, nic, reach, segment, state, wire
from dumm_tools.errors import Conflict, NotFound, TimedOut, Usage
from dumm_tools.linux import netlink, rtnl, sysfs
from dumm_tools.linux.netlink import Channel
from dumm_tools.model import Guest, Iface, State
from dumm_tools.nic import boot_records, uml_arg

__all__ = ["boot_records", "uml_arg"]


def guest_of(found: State, name: str) -> Guest:
    """The guest of that name; NotFound."""
    if name not in found.guests:
        raise NotFound(f"no guest '{name}'")
    return found.guests[name]


@contextlib.contextmanager
def transaction(root: str, guest: str) -> Iterator[state.Transaction]:
    """A transaction that will need netlink if the guest runs: what takes long is done before."""
    if live.alive(root, guest):
        rtnl.load()
    with state.transaction(root) as change:
        yield change


def reachable(root: str, found: State, guest: str) -> bool:
    """Does the guest run, so that a change takes effect at once? Conflict while it is between
    the two, or paused."""
    now = live.guest_state(root, found, guest_of(found, guest))
    if now in ("starting", "paused", "stopping"):
        raise Conflict(f"guest '{guest}' is {now}")
    return now == "running"


def refresh_boot(root: str, found: State, guest: str) -> None:
    """Let a running guest that reboots itself come back as it is now."""
    reach.write_boot(root, found.guests[guest], boot_records(found, guest))


def create(
    root: str,
    name: str,
    *,
    bridge: str | None = None,
    addresses: Sequence[str] = (),
    mac: str | None = None,
    mtu: int = 1500,
    may_exist: bool = False,
) -> None:
    """Add an interface to a guest; live if the guest runs. Usage, NotFound, Conflict."""
    guest, device = names.interface(name)
    wanted = address.interfaces(list(addresses))
    address.fits(address.mtu(mtu), wanted)
    mac = address.mac(mac) if mac else None
    with transaction(root, guest) as change:
        found = change.state
        guest_of(found, guest)
        if name in found.ifaces:
            if not may_exist:
                raise Conflict(f"interface '{name}' exists already")
            # An earlier command may have been killed between the record and the kernel.
            if reachable(root, found, guest):
                realize(root, found, found.ifaces[name])
            return
        if bridge is not None and bridge not in found.bridges:
            raise NotFound(f"no bridge '{names.bridge(bridge)}'")
        running = reachable(root, found, guest)
        tap = names.tap(name)
        if tap in found.bridges:
            raise Conflict(f"'{tap}' is a bridge already")
        for other in found.ifaces.values():
            if other.tap == tap:
                raise Conflict(f"'{name}' would get the same tap '{tap}' as '{other.name}'")
        segment.check_free(found, tap)
        taken = {i.slot for i in found.ifaces_of(guest)}
        macs = {i.mac for i in found.ifaces.values()}
        made = Iface(
            name=name,
            guest=guest,
            device=device,
            slot=next(n for n in range(len(taken) + 1) if n not in taken),
            tap=tap,
            mac=mac or address.made_mac(f"{found.id} {name}", macs),
            bridge=bridge,
            mtu=mtu,
            up=bridge is not None,
            addresses=wanted,
        )
        found.ifaces[name] = made
        change.save()
        if running:
            realize(root, found, made)


def realize(root: str, found: State, iface: Iface) -> None:
    """Make tap and device of a running guest, whatever of it there is already; up or down as
    recorded. What was made here is removed again when the guest cannot have the device."""
    # Somebody removed the tap or took it down: the guest's device may hold one that is no more,
    # or be stuck with a packet that was not taken (vector_send, arch/um/drivers/vector_kern.c).
    reopen = not sysfs.has_carrier(iface.tap)
    with netlink.host() as channel, contextlib.ExitStack() as undo:
        _plug_host(channel, undo, found, iface)
        if nic.plug(root, iface, reopen=reopen):
            undo.callback(nic.withdraw, root, iface)
        refresh_boot(root, found, iface.guest)
        undo.pop_all()


def apply(root: str, found: State, iface: Iface, running: bool) -> None:
    """Make what there is of an interface be as recorded: all of it in a running guest, and a tap
    that a crash has left."""
    if running:
        realize(root, found, iface)
    elif network.ours(found, iface.tap):
        with netlink.host() as channel, contextlib.ExitStack() as undo:
            _plug_host(channel, undo, found, iface)
            undo.pop_all()


@contextlib.contextmanager
def changing(root: str, found: State, iface: Iface, running: bool) -> Iterator[None]:
    """Change the record inside, and `apply` it; where that fails the kernels get back what was."""
    before = iface.but()
    try:
        yield
    except TimedOut:
        raise  # who does not answer would not answer to this either
    except BaseException:
        with contextlib.suppress(*device.UNDO_FAILURES):
            apply(root, found, before, running)
        raise


def _plug_host(channel: Channel, undo: contextlib.ExitStack, found: State, iface: Iface) -> None:
    """Bridge and tap of an interface, what is made here on the undo list."""
    if iface.bridge is not None and segment.ensure_bridge(
        channel, found, found.bridges[iface.bridge]
    ):
        undo.callback(segment.discard, channel, iface.bridge)
    if segment.ensure_tap(channel, found, iface):
        undo.callback(segment.discard, channel, iface.tap)


def delete(root: str, name: str, *, if_exists: bool = False) -> None:
    """Remove an interface, from a running guest too. Usage, NotFound, Conflict."""
    guest, _ = names.interface(name)
    with transaction(root, guest) as change:
        found = change.state
        if if_exists and name not in found.ifaces:
            return
        iface = network.interface(found, name)
        running = reachable(root, found, iface.guest)
        if running:
            nic.unplug(root, iface)
        with netlink.host() as channel:
            segment.remove(channel, found, [iface.tap])
        del found.ifaces[name]
        if running:
            refresh_boot(root, found, iface.guest)


def set_up(root: str, name: str, up: bool) -> None:
    """Bring the guest's device up or down, now and at each start. NotFound, Conflict."""
    guest, _ = names.interface(name)
    with transaction(root, guest) as change:
        iface = network.interface(change.state, name)
        running = reachable(root, change.state, iface.guest)
        with changing(root, change.state, iface, running):
            iface.up = up
            change.save()
            apply(root, change.state, iface, running)


def set_(root: str, name: str, *, mtu: int | None = None, mac: str | None = None) -> None:
    """Change an interface's MTU or MAC address. Usage, NotFound, Conflict."""
    if mtu is None and mac is None:
        raise Usage("nothing to set", hint="--mtu or --mac")
    mtu = address.mtu(mtu) if mtu is not None else None
    mac = address.mac(mac) if mac is not None else None
    guest, _ = names.interface(name)
    with transaction(root, guest) as change:
        iface = network.interface(change.state, name)
        if mtu is not None:
            address.fits(mtu, iface.addresses)
        running = reachable(root, change.state, iface.guest)
        # A vector device is born with an MTU as large as that; it cannot be given one. The record
        # does not say what it has: an earlier command may have been killed.
        large = running and mtu is not None and mtu > nic.MTU_BY_NETLINK
        reborn = large and nic.live_mtu(root, iface) != mtu
        with changing(root, change.state, iface, running):
            iface.mtu = mtu or iface.mtu
            iface.mac = mac or iface.mac
            change.save()
            if reborn:
                nic.unplug(root, iface)
            apply(root, change.state, iface, running)
            if running and not reborn:
                nic.change(root, iface, mtu=mtu is not None, mac=mac is not None)


def add_addresses(
    root: str, name: str, addresses: Sequence[str], *, may_exist: bool = False
) -> None:
    """Give an interface addresses: all or none. Usage, NotFound, Conflict."""
    wanted = address.interfaces(list(addresses))
    guest, _ = names.interface(name)
    with transaction(root, guest) as change:
        found = change.state
        iface = network.interface(found, name)
        new = address.new_ones(name, iface.addresses, wanted, may_exist=may_exist)
        address.fits(iface.mtu, iface.addresses + new)
        running = reachable(root, found, iface.guest)
        with contextlib.ExitStack() as undo:
            if running:
                device.add_addresses(root, iface, wanted)
                undo.callback(device.drop_addresses, root, iface, new)
            iface.addresses += new
            change.save()
            if running and iface.routes:  # one may have waited for this
                device.add_routes(root, iface, iface.routes)
            if running:
                refresh_boot(root, found, iface.guest)
            undo.pop_all()


def del_addresses(
    root: str, name: str, addresses: Sequence[str], *, if_exists: bool = False
) -> None:
    """Take addresses from an interface. Usage, NotFound, Conflict."""
    unwanted = address.interfaces(list(addresses))
    guest, _ = names.interface(name)
    with transaction(root, guest) as change:
        found = change.state
        iface = network.interface(found, name)
        left = address.without(name, iface.addresses, unwanted, if_exists=if_exists)
        running = reachable(root, found, iface.guest)
        if running:
            after = iface.but(addresses=left)
            lost = [r for r in iface.routes if not wire.is_usable(after, r)]
            if lost:
                device.del_routes(root, iface, lost)
            device.del_addresses(root, iface, unwanted, left)
            if iface.routes:  # with the last address the kernel drops them all
                device.add_routes(root, after, after.routes)
        iface.addresses = left
        if running:
            refresh_boot(root, found, iface.guest)


def addresses_of(root: str, name: str, *, ask_guest: bool = False) -> list[str]:
    """The addresses recorded for an interface, or those that it has in its running guest.
    NotFound, Conflict."""
    found = state.load(root)
    iface = network.interface(found, name)
    if not ask_guest:
        return sorted(iface.addresses)
    live.need_running(root, found, found.guests[iface.guest])
    return sorted(device.live_addresses(root, iface))


def prepare(found: State, guest: str) -> list[str]:
    """Make the taps of a guest that is about to start, and the lab's bridges where they are
    missing (as after a reboot of the host); return the arguments for its kernel.

    Taps that a crash left are taken over. Undoes itself. Conflict, DummError.
    """
    ifaces = found.ifaces_of(guest)
    needed = {i.bridge for i in ifaces}
    if not ifaces and all(sysfs.exists(b) for b in found.bridges):
        return []
    with netlink.host() as channel, contextlib.ExitStack() as undo:
        for name, bridge in found.bridges.items():
            if name not in needed and not sysfs.exists(name):
                # Not this guest's: should it fail, the guest starts all the same.
                with contextlib.suppress(*device.UNDO_FAILURES):
                    segment.ensure_bridge(channel, found, bridge)
        for iface in ifaces:
            _plug_host(channel, undo, found, iface)
        undo.pop_all()
    return [uml_arg(i) for i in ifaces]


def release(found: State, *guests: str) -> None:
    """Remove the taps of guests that have ended; one step for all of them."""
    taps = [i.tap for g in guests for i in found.ifaces_of(g) if sysfs.exists(i.tap)]
    if taps:
        with netlink.host() as channel:
            segment.remove(channel, found, taps)


def delete_of_guest(found: State, guest: str) -> None:
    """Forget the interfaces of a guest that does not run, and remove what is left of them. The
    caller saves the state."""
    release(found, guest)
    for iface in found.ifaces_of(guest):
        del found.ifaces[iface.name]
