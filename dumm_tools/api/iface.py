"""An interface of a guest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from dumm_tools import names
from dumm_tools.api import views, words
from dumm_tools.api.bridge import Bridge
from dumm_tools.api.capture import Capture
from dumm_tools.api.channel import Channel
from dumm_tools.api.part import Part
from dumm_tools.api.routing import Kind
from dumm_tools.api.views import IfaceView
from dumm_tools.api.words import Path


class Iface(Part):
    """An interface of a guest, from `Guest.iface` or `Lab.iface`; it need not exist. NotFound, from
    all methods but `create`, if it does not. Changes take effect at once in a guest that runs."""

    tool = "iface"

    def __init__(self, channel: Channel, name: str) -> None:
        names.interface(name)
        super().__init__(channel, name)

    def create(
        self,
        *,
        bridge: str | Bridge | None = None,
        addresses: str | Sequence[str] = (),
        mac: str | None = None,
        mtu: int | None = None,
        may_exist: bool = False,
    ) -> Self:
        """Add the interface to its guest; return this object.

        `bridge` is the segment that it is connected to, `addresses` are A/P, `mtu` is in bytes
        (default: 1500). Usage, NotFound for guest and bridge, Conflict if it exists, unless
        `may_exist`.

        >>> alice.iface("eth7").create(bridge=lan, addresses=["10.7.0.1/24"]).show().bridge
        'lan0'
        >>> alice.iface("eth7").delete()
        """
        options = words.options(
            bridge=words.name_of(bridge) if bridge is not None else None,
            address=words.several(addresses),
            mac=mac,
            mtu=mtu,
            may_exist=may_exist,
        )
        self._verb_of("create", options)
        return self

    def delete(self, *, if_exists: bool = False) -> None:
        """Delete the interface. NotFound if it does not exist, unless `if_exists`."""
        self._verb_of("delete", words.options(if_exists=if_exists))

    def show(self) -> IfaceView:
        """All fields of the interface."""
        return views.of(IfaceView, self._verb("show", "--format", "json").stdout)[0]

    def up(self) -> None:
        """Bring the device up in its guest, now and at each start."""
        self._verb("up")

    def down(self) -> None:
        """Take the device down in its guest, now and at each start."""
        self._verb("down")

    def set(self, *, mtu: int | None = None, mac: str | None = None) -> None:
        """Change its MTU in bytes or its MAC address. Usage."""
        self._verb_of("set", words.options(mtu=mtu, mac=mac))

    def address_add(self, *addresses: str, may_exist: bool = False) -> None:
        """Add addresses, A/P. Usage, Conflict."""
        self._verb_of("address add", words.options(may_exist=may_exist), *addresses)

    def address_del(self, *addresses: str, if_exists: bool = False) -> None:
        """Remove addresses, A/P. NotFound, unless `if_exists`."""
        self._verb_of("address del", words.options(if_exists=if_exists), *addresses)

    def addresses(self, *, live: bool = False) -> list[str]:
        """The addresses that are configured, or with `live` those that the running guest has."""
        found = self._verb_of("address list", ["-q", *words.options(live=live)])
        return found.stdout.decode().split()

    def route_add(
        self,
        dest: str,
        *,
        via: str | Sequence[str] = (),
        metric: int | None = None,
        table: str | int | None = None,
        src: str | None = None,
        onlink: bool = False,
        kind: Kind = "unicast",
        may_exist: bool = False,
    ) -> None:
        """Add a route through this interface: to a network A/P, an address or "default", via a
        gateway or several (GW,dev=DEVICE,weight=N). Usage, Conflict.

        >>> alice.iface("eth0").route_add("10.9.0.0/16", via="10.0.0.2")
        >>> [route.dest for route in alice.routes()]
        ['10.9.0.0/16']
        >>> alice.iface("eth0").route_del("10.9.0.0/16")
        """
        options = words.options(
            via=words.several(via),
            metric=metric,
            table=table,
            src=src,
            onlink=onlink,
            may_exist=may_exist,
        )
        self._verb_of("route add", options + _kind(kind), dest)

    def route_del(
        self,
        dest: str,
        *,
        via: str | Sequence[str] = (),
        metric: int | None = None,
        table: str | int | None = None,
        kind: Kind = "unicast",
        if_exists: bool = False,
    ) -> None:
        """Remove a route; the arguments must distinguish it from others. NotFound, unless
        `if_exists`."""
        options = words.options(
            via=words.several(via), metric=metric, table=table, if_exists=if_exists
        )
        self._verb_of("route del", options + _kind(kind), dest)

    def shape(
        self,
        *,
        delay: str | float | None = None,
        jitter: str | float | None = None,
        loss: str | float | None = None,
        rate: str | int | None = None,
        duplicate: str | float | None = None,
        corrupt: str | float | None = None,
        reorder: str | float | None = None,
        clear: bool = False,
    ) -> None:
        """Impair what the guest sends on this interface. Values that are not given stay, 0 removes
        one, `clear` removes all others.

        Numbers are milliseconds (`delay`, `jitter`), percent (`loss`, `duplicate`, `corrupt`,
        `reorder`) and bit/s (`rate`); texts may have units, such as "1.5s", "0.5%" or "10mbit".
        Usage.

        >>> alice.iface("eth0").shape(delay=5, rate="10mbit")
        >>> alice.iface("eth0").show().shape == {"delay": 5, "rate": 10_000_000}
        True
        >>> alice.iface("eth0").shape(clear=True)
        """
        options = words.options(
            delay=delay,
            jitter=jitter,
            loss=loss,
            rate=rate,
            duplicate=duplicate,
            corrupt=corrupt,
            reorder=reorder,
            clear=clear,
        )
        self._verb_of("shape", options)

    def connect(self, bridge: str | Bridge) -> None:
        """Connect the interface to a bridge; from another one it moves. NotFound."""
        self._channel.call(["bridge", "connect", words.name_of(bridge), self.name])

    def disconnect(self, *, if_exists: bool = False) -> None:
        """Disconnect the interface, as if its cable were pulled. Conflict if it is not connected,
        unless `if_exists`."""
        options = words.options(if_exists=if_exists)
        self._channel.call(["bridge", "disconnect", *options, self.name])

    def capture(self, *expression: str, path: Path | None = None) -> Capture:
        """Capture the packets on this interface that match an expression (pcap-filter(7)), until
        the context ends. `path` is the file to write (default: a temporary one). Usage; Conflict if
        the interface is not plugged in, DummError for a bad expression, both when the context is
        entered.

        >>> with alice.iface("eth0").capture("icmp") as cap:
        ...     alice.run(["ping", "-c1", "10.0.0.2"], check=True).returncode
        0
        >>> len(cap.packets())
        2
        """
        return Capture(self._channel, "iface", [self.name], expression, path)


def _kind(kind: Kind) -> list[str]:
    return [] if kind == "unicast" else [f"--{kind}"]
