"""`create --may-exist`: an existing interface or bridge becomes what is asked for.

A value that is given becomes the whole value, others are left alone. Everything is checked first;
the steps that were done are undone if a later one fails. Nothing is written if nothing differs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dumm_tools import address, names, statefile
from dumm_tools.errors import DummError
from dumm_tools.model import BridgeKind, Iface
from dumm_tools.net import bridge as bridges
from dumm_tools.net import cable, connection, iface, link_views
from dumm_tools.running import guest_views, liveness

Report = Callable[[str], None]


class _Step(NamedTuple):
    """A change, and its reverse."""

    do: Callable[[], object]
    undo: Callable[[], object]


def interface(
    labdir: str,
    name: str,
    *,
    bridge: str | None = None,
    addresses: Sequence[str] = (),
    mac: str | None = None,
    mtu: int | None = None,
    warn: Report = lambda _: None,
) -> None:
    """Add an interface to a guest, or change the existing one as far as it differs; immediately if
    the guest is running. Usage, NotFound, Conflict."""
    guest, _ = names.interface(name)
    state = statefile.load(labdir)
    record = state.ifaces.get(name)
    if record is not None:
        if bridge is not None:
            link_views.bridge(state, bridge)
        wanted = address.interfaces(list(addresses))
        mac = address.mac(mac) if mac else None
        mtu = address.mtu(mtu) if mtu is not None else None
        address.fits(mtu or record.mtu, wanted or record.addresses)
        if not list(_steps(labdir, record, bridge, wanted, mac, mtu, warn)):
            now = liveness.guest_state(labdir, state, guest_views.get(state, guest))
            if now in ("paused", "starting", "stopping"):
                return  # it is complete, or the command that makes it still runs
        elif wanted or mac is not None or mtu is not None:
            cable.reachable(labdir, state, guest)
    made = iface.create(
        labdir,
        name,
        bridge=bridge,
        addresses=addresses,
        mac=mac,
        mtu=mtu,
        may_exist=True,
        warn=warn,
    )
    if not made:
        record = link_views.interface(statefile.load(labdir), name)
        wanted = address.interfaces(list(addresses))
        _take(_steps(labdir, record, bridge, wanted, mac, mtu, warn))


def _steps(
    labdir: str,
    record: Iface,
    bridge: str | None,
    wanted: list[str],
    mac: str | None,
    mtu: int | None,
    warn: Report,
) -> Iterator[_Step]:
    """The changes of an existing interface, so that it is never without an address."""
    name, before = record.name, record.bridge

    def connected(to: str | None) -> Callable[[], object]:
        if to is None:
            return lambda: connection.disconnect(labdir, name, warn=warn)
        return lambda: connection.connect(labdir, to, name, warn=warn)

    if bridge not in (None, before):
        yield _Step(connected(bridge), connected(before))
    card = None
    if (mac or record.mac, mtu or record.mtu) != (record.mac, record.mtu):
        card = _Step(
            lambda: iface.set_(labdir, name, mac=mac, mtu=mtu, warn=warn),
            lambda: iface.set_(labdir, name, mac=record.mac, mtu=record.mtu),
        )
    # With a small MTU, IPv6 addresses have to go first.
    late = mtu is not None and mtu < address.MTU_MIN_IPV6
    if card is not None and not late:
        yield card
    if wanted:
        yield from _addresses(
            record.addresses,
            wanted,
            lambda new: iface.add_addresses(labdir, name, new, may_exist=True, warn=warn),
            lambda old: iface.del_addresses(labdir, name, old, if_exists=True),
        )
    if card is not None and late:
        yield card


def bridge(
    labdir: str,
    name: str,
    *,
    addresses: Sequence[str] = (),
    kind: BridgeKind | None = None,
    warn: Report = lambda _: None,
) -> None:
    """Create a bridge, or change the existing one as far as it differs. Usage, Conflict."""
    wanted = address.interfaces(list(addresses))
    bridges.create(labdir, name, addresses=addresses, kind=kind, may_exist=True, warn=warn)
    record = link_views.bridge(statefile.load(labdir), name)
    if wanted:
        _take(
            _addresses(
                record.addresses,
                wanted,
                lambda new: bridges.add_addresses(labdir, name, new, may_exist=True, warn=warn),
                lambda old: bridges.del_addresses(labdir, name, old, if_exists=True),
            )
        )


def _addresses(
    present: list[str],
    wanted: list[str],
    add: Callable[[list[str]], object],
    remove: Callable[[list[str]], object],
) -> Iterator[_Step]:
    """Addresses are added before others go, except where a device can only have one of the two."""
    new = [text for text in wanted if text not in present]
    old = [text for text in present if text not in wanted]
    taken = set(map(address.only_once, new))
    clashing = [text for text in old if address.only_once(text) in taken]
    rest = [text for text in old if text not in clashing]
    if clashing:
        yield _Step(lambda: remove(clashing), lambda: add(clashing))
    if new:
        yield _Step(lambda: add(new), lambda: remove(new))
    if rest:
        yield _Step(lambda: remove(rest), lambda: add(rest))


def _take(steps: Iterator[_Step]) -> None:
    with contextlib.ExitStack() as undo:
        for step in steps:
            step.do()
            undo.callback(_quietly, step.undo)
        undo.pop_all()


def _quietly(undo: Callable[[], object]) -> None:
    with contextlib.suppress(DummError, OSError):
        undo()
