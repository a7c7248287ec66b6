"""The description of a lab in a lab file, statement by statement. Changes nothing, and asks no
kernel; what must exist on the host is looked for by `Host`.

An object that the file creates is entirely as the file says. Another one, which the file only
mentions, keeps what the file does not change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from dumm_tools import address, missing, names, routing
from dumm_tools.errors import Conflict, NotFound, Usage
from dumm_tools.guests import guest as guests
from dumm_tools.guests import startup
from dumm_tools.labs import description
from dumm_tools.labs.description import Description
from dumm_tools.model import Bridge, Guest, Iface, Record, State
from dumm_tools.net import nat, route_check, rule, shape
from dumm_tools.net.route_requests import Owned
from dumm_tools.routing import Key, Route
from dumm_tools.running import startup_file

R = TypeVar("R", bound=Record)


class Host(NamedTuple):
    """Looks on the host for what a file names, and returns it as it is recorded: kernels and
    masters, disks, files, layers, templates. NotFound, Usage, DummError."""

    image: Callable[[Literal["kernel", "master"], str], str]
    disks: Callable[[Sequence[str]], list[str]]
    layer: Callable[[str], str]
    files: Callable[[Sequence[str]], list[str]] = list
    template: Callable[[str], str] = str
    #: Is told the lab, and a bridge with a new uplink.
    uplink: Callable[[State, Bridge], object] = lambda _state, _bridge: None


class Start(NamedTuple):
    """Guests that run in the end, and what is waited for."""

    names: tuple[str, ...]
    wait: str


class Wanted:
    """The description as far as the file has been read: of what there is and what the file says or,
    with `prune`, of the latter alone."""

    def __init__(self, base: Description, host: Host, *, prune: bool = False) -> None:
        self._host, self._prune = host, prune
        state = base.state
        kept = State(state.id, state.lock_inode, state.isolated) if prune else state
        self.state = kept.but(
            guests=dict(kept.guests), ifaces=dict(kept.ifaces), bridges=dict(kept.bridges)
        )
        self.labdir = base.labdir
        self.kernel, self.master = base.kernel, base.master
        self.exists = base.exists
        self.isolated: bool | None = None
        self.scripts = {} if prune else dict(base.scripts)
        self.starts: list[Start] = []
        self._creatable: set[str] = set()
        self._creates_template = True
        self._base = base
        #: The objects that the file has created, and copies that it has changed.
        self._made: set[tuple[str, str]] = set()
        self._copied: set[tuple[str, str]] = set()
        self._of_guest = self.state.ifaces_by_guest()
        self._taps = {i.tap: i.name for i in self.state.ifaces.values()}
        self._routes: dict[str, dict[Key, Owned]] = {}

    def description(self) -> Description:
        """The description so far."""
        return Description(
            self.labdir,
            self.state,
            self.kernel,
            self.master,
            self.scripts,
            isolated=self.isolated,
            creatable=frozenset(self._creatable),
            creates_template=self._creates_template,
        )

    # ---- objects ----

    def _new(self, kind: str, name: str, noun: str, may_exist: bool) -> bool:
        """Whether an object is made here, rather than changed further. Conflict if the file has
        already created it."""
        if (kind, name) not in self._made:
            self._made.add((kind, name))
            self._copied.add((kind, name))
            return True
        if not may_exist:
            raise Conflict(f"{noun} '{name}' is created twice")
        return False

    def _own(self, kind: str, table: dict[str, R], name: str) -> R:
        """A record that may be changed."""
        if (kind, name) not in self._copied:
            self._copied.add((kind, name))
            table[name] = table[name].but()
            if kind == "iface":
                self._index(self.state.ifaces[name])
        return table[name]

    def _guest(self, name: str) -> Guest:
        if names.guest(name) not in self.state.guests:
            raise missing.guest(self.state, name)
        return self._own("guest", self.state.guests, name)

    def _bridge(self, name: str) -> Bridge:
        if names.bridge(name) not in self.state.bridges:
            raise missing.bridge(self.state, name)
        return self._own("bridge", self.state.bridges, name)

    def _iface(self, name: str) -> Iface:
        names.interface(name)
        if name not in self.state.ifaces:
            raise missing.interface(self.state, name)
        return self._own("iface", self.state.ifaces, name)

    def _index(self, iface: Iface) -> None:
        others = self._of_guest.get(iface.guest, [])
        self._of_guest[iface.guest] = [*(i for i in others if i.name != iface.name), iface]

    def _routes_of(self, guest: str) -> dict[Key, Owned]:
        """The routes of a guest, kept: reading them all for each new one takes long."""
        if guest not in self._routes:
            self._routes[guest] = route_check.by_key(self._of_guest.get(guest, []))
        return self._routes[guest]

    def _beside(self, guest: str) -> State:
        """A state with the interfaces of one guest only: looking through all takes long."""
        return State("", 0, ifaces={i.name: i for i in self._of_guest.get(guest, [])})

    # ---- the working set ----

    def init(self, kernel: str | None, master: str | None, isolated: bool | None) -> None:
        """`fs init`"""
        if isolated is not None and self.exists and isolated != self.state.isolated:
            from dumm_tools.labs import working_set

            raise working_set.other_kind(self.labdir, self.state)
        self.exists, self.isolated = True, isolated
        if kernel is not None and kernel != self.kernel:
            self.kernel = _named("kernels", self._host.image("kernel", kernel))
        if master is not None and master != self.master:
            self.master = _named("masters", self._host.image("master", master))

    def need_init(self) -> None:
        """Raise NotFound if there is no lab yet, and the file has not made one."""
        if not self.exists:
            raise NotFound(
                f"no working set in '{self.labdir}'",
                hint="begin the file with 'fs init', or name a working set with -C",
            )

    # ---- guests ----

    def create_guest(self, name: str, values: dict[str, Any], *, may_exist: bool = False) -> None:
        """`guest create`; `values` are the given settings, by their names in the record."""
        names.guest(name)
        if self._new("guest", name, "guest", may_exist):
            self.state.guests[name] = Guest(name)
            self.scripts.pop(name, None)
        self.set_guest(name, values)

    def set_guest(self, name: str, values: dict[str, Any]) -> None:
        """`guest set`"""
        record, was = self._guest(name), self._base.state.guests.get(name)
        for key, value in values.items():
            if key in ("kernel", "master") and value is not None:
                known = was is not None and getattr(was, key) == value
                value = value if known else self._host.image(key, value)  # type: ignore[arg-type]
            elif key in ("disks", "files"):
                value = self._found(key, value, was)
            setattr(record, key, value)
        guests.check_settings(record)

    def _found(self, key: str, texts: Sequence[str], was: Guest | None) -> list[str]:
        """Those that a guest has already are not looked at again."""
        texts = [os.path.join(self.labdir, text) for text in texts]
        if key == "disks":
            texts = [os.path.abspath(text) for text in texts]
        if was is not None and texts == getattr(was, key):
            return texts
        found: list[str] = getattr(self._host, key)(texts)
        return found

    def script(self, name: str, text: bytes | None) -> None:
        """`guest startup`"""
        self._guest(name)
        if text is None:
            self.scripts.pop(name, None)
        else:
            startup.check(text)
            self.scripts[name] = startup_file.whole(text)

    def start(self, chosen: Iterable[str], wait: str) -> None:
        """`guest start`"""
        for name in chosen:
            self._guest(name)
        self.starts.append(Start(tuple(chosen), wait))

    # ---- bridges ----

    def create_bridge(
        self, name: str, addresses: Sequence[str], kind: Any, *, may_exist: bool = False
    ) -> None:
        """`bridge create`"""
        names.bridge(name)
        if self._new("bridge", name, "bridge", may_exist):
            if name in self._taps:
                raise Conflict(f"'{name}' is already an interface")
            self.state.bridges[name] = Bridge(name)
        record = self._bridge(name)
        record.kind = kind or record.kind
        if addresses:
            record.addresses = address.interfaces(list(addresses))

    def set_kind(self, name: str, kind: Any) -> None:
        """`bridge set`"""
        self._bridge(name).kind = kind

    def bridge_up(self, name: str, up: bool) -> None:
        """`bridge up` and `down`"""
        self._bridge(name).up = up

    def uplink(
        self, name: str, uplink: str | None, host_access: bool, *, if_exists: bool = False
    ) -> None:
        """`bridge uplink`"""
        if if_exists and name not in self.state.bridges:
            return
        record = self._bridge(name)
        if uplink == "nat":
            nat.check_gateway(record)
        record.uplink, record.host_access = uplink, host_access
        was = self._base.state.bridges.get(name)
        if uplink is not None and (was is None or was.uplink != uplink):
            isolated = self._base.state.isolated if self.isolated is None else self.isolated
            self._host.uplink(self._base.state.but(isolated=isolated), record)

    def connect(self, bridge: str | None, name: str, *, if_exists: bool = False) -> None:
        """`bridge connect` and `disconnect`"""
        if if_exists and name not in self.state.ifaces:
            return
        if bridge is not None:
            self._bridge(bridge)
        self._iface(name).bridge = bridge

    def bridge_addresses(self, name: str, texts: Sequence[str], *, may_exist: bool) -> None:
        """`bridge address add`"""
        record, new = self._bridge(name), address.interfaces(list(texts))
        record.addresses = record.addresses + address.new_ones(
            name, record.addresses, new, may_exist=may_exist
        )

    # ---- interfaces ----

    def create_iface(
        self,
        name: str,
        *,
        bridge: str | None,
        addresses: Sequence[str],
        mac: str | None,
        mtu: int | None,
        may_exist: bool = False,
    ) -> None:
        """`iface create`"""
        guest, device = names.interface(name)
        if guest not in self.state.guests:
            raise missing.guest(self.state, guest)
        if self._new("iface", name, "interface", may_exist):
            tap = names.tap(name)
            if tap in self.state.bridges:
                raise Conflict(f"'{tap}' is already a bridge")
            if self._taps.setdefault(tap, name) != name:
                raise Conflict(f"'{name}' would get the same tap '{tap}' as '{self._taps[tap]}'")
            self.state.ifaces[name] = Iface(name, guest, device, slot=0, tap=tap, mac="")
            self._index(self.state.ifaces[name])
            self._routes.pop(guest, None)
        record = self._iface(name)
        if bridge is not None:
            self._bridge(bridge)
            record.bridge = bridge
        if addresses:
            record.addresses = address.interfaces(list(addresses))
        self.set_iface(name, mac=mac, mtu=mtu)

    def set_iface(self, name: str, *, mac: str | None, mtu: int | None) -> None:
        """`iface set`"""
        record = self._iface(name)
        if mac is not None:
            record.mac = address.mac(mac)
            if description.is_made(self._base.state, record):
                record.mac = ""
        if mtu is not None:
            record.mtu = address.mtu(mtu)
        address.fits(record.mtu, record.addresses)

    def iface_up(self, name: str, up: bool) -> None:
        """`iface up` and `down`"""
        self._iface(name).up = up

    def iface_addresses(self, name: str, texts: Sequence[str], *, may_exist: bool) -> None:
        """`iface address add`"""
        record, new = self._iface(name), address.interfaces(list(texts))
        new = address.new_ones(name, record.addresses, new, may_exist=may_exist)
        address.fits(record.mtu, record.addresses + new)
        record.addresses = record.addresses + new

    def shape(self, name: str, values: dict[str, float], *, clear: bool) -> None:
        """`iface shape`"""
        if not values and not clear:
            raise Usage("nothing to set", hint="--delay, --loss, --rate..., or --clear")
        record = self._iface(name)
        record.shape = shape.checked({**({} if clear else record.shape), **values})

    def route(self, name: str, route: Route, *, may_exist: bool) -> None:
        """`iface route add`"""
        record = self._iface(name)
        route = route._replace(
            hops=tuple(
                h._replace(device=None) if h.device == record.device else h for h in route.hops
            )
        )
        beside, known = self._beside(record.guest), self._routes_of(record.guest)
        route_check.check_hops(beside, record, route)
        new, old = Owned(name, route), known.get(route.key)
        if new == old:
            if may_exist:
                return
            raise Conflict(f"'{name}' already has the route '{route_check.text(route)}'")
        if old is not None and may_exist:  # in its place
            del known[route.key]
            other, gone = self._iface(old.owner), routing.record(old.route)
            other.routes = [each for each in other.routes if each != gone]
        route_check.check_free(beside, record, route, known)
        record.routes = [*record.routes, routing.record(route)]
        known[route.key] = new

    def rule(self, guest: str, given: dict[str, Any], *, may_exist: bool) -> None:
        """`iface rule add`"""
        record = self._guest(guest)
        new, there = rule.planned(record, given)
        if not there:
            record.rules = [*record.rules, routing.rule_record(new)]
        elif not may_exist:
            raise Conflict(f"'{guest}' already has the rule '{rule.text(new)}'")

    # ---- layers ----

    def overlay(self, name: str, directory: str, *, create: bool, may_exist: bool) -> None:
        """`fs overlay add`"""
        record = self._guest(name)
        was = self._base.state.guests.get(name)
        layer = os.path.realpath(os.path.join(self.labdir, directory))
        if may_exist and layer in record.overlays:
            return
        if create:
            self._creatable.add(layer)
        if (was is None or layer not in was.overlays) and (not create or os.path.lexists(layer)):
            layer = self._host.layer(layer)
        record.overlays = [layer, *(each for each in record.overlays if each != layer)]

    def template(self, name: str, *, create: bool, fresh: bool = False) -> None:
        """`fs template load`"""
        names.pack(name, "template name")
        if not create and name != self._base.state.template:
            self._host.template(name)
        self.state.template, self._creates_template = name, create
        self.state.fresh = ".fresh-0" if fresh else None  # a copy that is yet to be made

    def check(self, *, empty: bool = False) -> None:
        """Raise NotFound or Conflict for what does not fit together in the end; Usage if the file
        is empty, perhaps since the program that should have written it failed, and nothing would be
        left of the lab."""
        if empty and self._prune:
            raise Usage(
                "an empty file with --prune would delete the whole lab",
                hint="to do that, let the file say 'fs init'",
            )
        self.need_init()
        for bridge in self.state.bridges.values():
            if bridge.uplink == "nat" and not nat.networks(bridge):
                raise Conflict(f"'{bridge.name}' needs an IPv4 address for its uplink")


def _named(kind: Literal["kernels", "masters"], spec: str) -> str:
    """A kernel or master as the working set has it once its link leads there."""
    return description.named(kind, os.path.realpath(spec)) if "/" in spec else spec
