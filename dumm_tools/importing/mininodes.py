"""Hosts, switches and links as Mininet makes them, and what becomes of them here.

A switch is a segment, and switches with a link between them are one segment: a bridge has no cables
to others.
"""

from __future__ import annotations

import re
from typing import Any

from dumm_tools import address
from dumm_tools.errors import Usage
from dumm_tools.importing import script
from dumm_tools.importing.topology import Machine, Nic, Topology
from dumm_tools.model import Record

_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(us|ms|s|usec|msec|sec)?(?:ec)?s?")
#: The address of a host that has none.
NONE = "0.0.0.0"
_DIGITS = re.compile(r"([0-9]+)")


class _Host(Record):
    """A host and the options that apply to its first interface."""

    machine: Machine
    ip: str | None = None
    mac: str | None = None
    gateway: str | None = None
    where: str = ""
    ports: int = 0


class Network:
    """Collects nodes and links; `finish` makes a topology of them."""

    def __init__(self, title: str, base: str = "10.0.0.0/8") -> None:
        self.lab = Topology()
        self.lab.title.append(title)
        self.base = base
        self.sets_macs = False
        #: Whether addresses are given in the order of names, as for topologies, or of calls.
        self.by_name = False
        self.hosts: dict[str, _Host] = {}
        self._union: dict[str, str] = {}
        self._links: list[tuple[tuple[str, str], str, dict[str, Any]]] = []

    @property
    def switches(self) -> list[str]:
        """The names of the switches."""
        return list(self._union)

    def has(self, name: str) -> bool:
        """Whether there is a host or a switch of this name."""
        return name in self.hosts or name in self._union

    def host(self, name: str, where: str, options: dict[str, Any]) -> None:
        """Add a host; `options` are those of Mininet's addHost()."""
        self._check_new(name, where)
        host = _Host(self.lab.machine(name, where), where=where)
        self.hosts[name] = host
        self.set(name, options, where)
        if options.get("routes"):
            host.machine.script = script.sysctls({"net.ipv4.ip_forward": "1"})

    def set(self, name: str, options: dict[str, Any], where: str) -> None:
        """Change the options of a host."""
        host = self.hosts[name]
        host.ip = _text(options, "ip") or host.ip
        host.mac = _text(options, "mac") or host.mac
        route = _text(options, "defaultRoute")
        if route:
            found = re.fullmatch(r"(?:via\s+)?([0-9a-fA-F.:]+)(?:\s+dev\s+\S+)?", route.strip())
            if found:
                host.gateway = found[1]
            else:
                self.lab.note(where, f"default route {route!r}: not carried over")

    def switch(self, name: str, where: str) -> None:
        """Add a switch."""
        self._check_new(name, where)
        self._union[name] = name
        self.lab.segment(name, where)

    def _check_new(self, name: str, where: str) -> None:
        if self.has(name):
            raise Usage(f"{where}: there are two nodes '{name}'")

    def link(self, ends: tuple[str, str], where: str, options: dict[str, Any]) -> None:
        """Add a link; `options` are those of Mininet's addLink()."""
        for end in ends:
            if not self.has(end):
                raise Usage(f"{where}: there is no node '{end}'")
        self._links.append((ends, where, options))
        first, second = (self._root(end) for end in ends)
        if first is not None and second is not None:
            if first != second:
                self._union[max(first, second, key=natural)] = min(first, second, key=natural)
            text = f"switches '{ends[0]}' and '{ends[1]}' are one segment"
            lost = "without the link's properties" if _is_shaped(options) else ""
            self.lab.note(where, f"{text} {lost}".strip())

    def _root(self, name: str) -> str | None:
        if name not in self._union:
            return None
        while self._union[name] != name:
            self._union[name] = self._union[self._union[name]]
            name = self._union[name]
        return name

    def finish(self) -> Topology:
        """The topology."""
        for ends, where, options in self._links:
            self._connect(ends, where, options)
        for name in self._union:
            if self._root(name) != name:
                del self.lab.segments[name]
        order = sorted(self.hosts, key=natural) if self.by_name else list(self.hosts)
        for number, name in enumerate(order, 1):
            self._configure(self.hosts[name], number)
        return self.lab

    def _connect(self, ends: tuple[str, str], where: str, options: dict[str, Any]) -> None:
        roots = [self._root(end) for end in ends]
        known = next((root for root in roots if root is not None), None)
        segment = self.lab.between(ends, where) if known is None else self.lab.segments[known]
        for number, end in enumerate(ends, 1):
            if end in self.hosts:
                nic = self._nic(end, where, number, options)
                if nic is not None:
                    nic.segment = segment.name
                    nic.shape = self._shape(where, options)
            elif _text(options.get(f"params{number}"), "ip"):
                self.lab.note(where, f"the address of switch '{end}' is not carried over")
        if None in roots and known is not None and _is_shaped(options):
            host = ends[roots.index(None)]
            text = f"the link's properties apply to what '{host}' sends, not to what it receives"
            self.lab.note(where, text)

    def _nic(self, name: str, where: str, number: int, options: dict[str, Any]) -> Nic | None:
        host = self.hosts[name]
        port = options.get(f"port{number}")
        own = _text(options, f"intfName{number}") or ""
        if isinstance(port, int) and not isinstance(port, bool) and 0 <= port < 1000:
            device = f"eth{port}"
        else:
            device = f"eth{host.ports}"
            if port is not None:
                self.lab.note(where, f"port {str(port)[:50]!r} of '{name}': not carried over")
        if own:
            device = own.removeprefix(f"{name}-")
        host.ports += 1
        nic = self.lab.nic(host.machine, device, where)
        values = options.get(f"params{number}")
        if nic is not None and (mac := _text(options, f"addr{number}")):
            self._mac(nic, mac, where)
        if nic is not None and isinstance(values, dict):
            if ip := _text(values, "ip"):
                self._address(nic, ip, where)
            if mac := _text(values, "mac"):
                self._mac(nic, mac, where)
        return nic

    def _configure(self, host: _Host, number: int) -> None:
        """Give a host's first interface the host's address, and the host its route."""
        if host.machine.nics:
            nic = host.machine.nics[min(host.machine.nics, key=natural)]
            mac = host.mac
            if mac is None and self.sets_macs:
                mac = ":".join(f"{number:012x}"[at : at + 2] for at in range(0, 12, 2))
            if mac is not None:
                self._mac(nic, mac, host.where)
            if not nic.addresses and host.ip != NONE:
                self._address(nic, host.ip or nth(self.base, number), host.where)
        if host.gateway is None:
            return
        try:
            gateway = address.host(host.gateway)
        except Usage as e:
            self.lab.note(host.where, f"{e}: not carried over")
            return
        for nic in host.machine.nics.values():
            if address.is_near(gateway, nic.addresses):
                nic.routes = [("default", gateway)]
                return
        text = f"default route by {gateway}: no interface has an address there"
        self.lab.note(host.where, text)

    def _address(self, nic: Nic, text: str, where: str) -> None:
        try:
            nic.addresses = [address.interface(text if "/" in text else f"{text}/8")]
        except Usage as e:
            self.lab.note(where, f"{e}: not carried over")

    def _mac(self, nic: Nic, text: str, where: str) -> None:
        try:
            nic.mac = address.mac(text)
        except Usage as e:
            self.lab.note(where, f"{e}: not carried over")

    def _shape(self, where: str, options: dict[str, Any]) -> list[str]:
        words: list[str] = []
        for key, option in (("delay", "--delay"), ("jitter", "--jitter")):
            if options.get(key) not in (None, "", 0, "0"):
                if (time := milliseconds(options[key])) is None:
                    self.lab.note(where, f"{key} {str(options[key])[:50]!r}: not carried over")
                else:
                    words += [option, time]
        for key, most, form in (("loss", 100, "--loss {:g}"), ("bw", 1e6, "--rate {:g}mbit")):
            value = options.get(key)
            if 0 < (number := _number(value)) <= most:
                words += form.format(number).split()
            elif value not in (None, "", 0, "0"):
                self.lab.note(where, f"{key} {str(value)[:50]!r}: not carried over")
        if options.get("max_queue_size"):
            self.lab.note(where, "max_queue_size is not carried over")
        return words


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key for sorting: h2 comes before h10."""
    parts = _DIGITS.split(name)
    return [(0, int(p[:18])) if p.isdecimal() and p.isascii() else (1, p) for p in parts]


def nth(base: str, number: int) -> str:
    """The address of the host with this number in a network."""
    import ipaddress

    try:
        network = ipaddress.ip_network(base, strict=False)
        return f"{network.network_address + number}/{network.prefixlen}"
    except ValueError:
        raise Usage(f"bad network {base!r} for addresses") from None


def milliseconds(value: object) -> str | None:
    """A time of tc(8) as a time of ours: without a unit, microseconds."""
    found = _TIME.fullmatch(str(value).strip())
    if not found:
        return None
    unit = {"m": "ms", "s": "s"}.get((found[2] or "u")[0], "us")
    return f"{found[1]}{unit}"


def _is_shaped(options: dict[str, Any]) -> bool:
    keys = ("bw", "delay", "jitter", "loss", "max_queue_size")
    return any(options.get(key) not in (None, "", 0) for key in keys)


def _number(value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        return 0.0
    return number if 0 < number < 1e6 else 0.0


def _text(options: object, key: str) -> str | None:
    value = options.get(key) if isinstance(options, dict) else None
    return value if isinstance(value, str) and value else None
