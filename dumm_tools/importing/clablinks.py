"""The links of a topology of containerlab."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import NamedTuple

from dumm_tools import address
from dumm_tools.errors import Usage
from dumm_tools.importing.topology import Nic, Segment, Topology
from dumm_tools.importing.yamltree import Value

#: Types of links between two nodes, and words for the node in brief links of other types.
_PAIRS = ("", "veth", "veth-stitch", "brief")
_SPECIAL = ("host", "mgmt-net", "macvlan")
#: Keys of links that have an equivalent, and those that make no difference here.
_KEYS = ("type", "endpoints", "endpoint", "host-interface", "mtu", "ipv4", "ipv6", "labels", "vars")
_END_KEYS = ("node", "interface", "mac", "ipv4", "ipv6", "vars")


class _End(NamedTuple):
    """An end of a link: a node and the name of the interface there."""

    node: str
    interface: str
    mac: str = ""
    addresses: tuple[str, ...] = ()


class Links:
    """Adds links to a topology. Its nodes are known before."""

    def __init__(self, lab: Topology, file: str) -> None:
        self._lab, self._file = lab, file
        self._bridges: dict[str, Segment] = {}
        self._hosts = {"host"}
        #: Nodes that are something else than machines.
        self._others = {*_SPECIAL, *self._hosts}
        self._lost: set[str] = set()

    def bridge(self, node: str, segment: Segment) -> None:
        """A node is a bridge."""
        self._bridges[node] = segment
        self._others.add(node)

    def host(self, node: str) -> None:
        """A node is the host."""
        self._hosts.add(node)
        self._others.add(node)

    def lost(self, node: str) -> None:
        """A node is not carried over."""
        self._lost.add(node)

    def _note(self, link: Value, text: str) -> None:
        self._lab.note(f"{self._file}:{link.line}", text)

    def add(self, link: Value) -> None:
        """Add a link."""
        kind = link.get("type").text
        if kind in (*_PAIRS, *_SPECIAL):
            self._report(link, _KEYS)
        for end in (*link.get("endpoints").items, link.get("endpoint")):
            self._report(end, _END_KEYS)
        if kind in _PAIRS:
            ends = self._pair(link)
            if ends is not None:
                self._connect(link, *ends)
            return
        found = _extended(link.get("endpoint"))
        host = link.get("host-interface").text
        if found is None:
            self._note(link, f"link of type '{kind}' without a node: not carried over")
        elif kind in _SPECIAL:
            self._connect(link, found, _End(kind, host))
        else:
            if kind != "dummy":
                self._note(link, f"link of type '{kind}': the interface is connected to nothing")
            self._nic(link, found, self._lab.between((found.node, kind), self._file))

    def _report(self, value: Value, known: Collection[str]) -> None:
        for key, each in value.keys.items():
            if key not in known and each.data not in (None, [], {}):
                self._note(each, f"'{key}' of a link: not carried over")

    def _pair(self, link: Value) -> tuple[_End, _End] | None:
        found = [_brief(each) or _extended(each) for each in link.get("endpoints").items]
        if len(found) != 2 or None in found:
            self._note(link, "a link without two endpoints: not carried over")
            return None
        for key in ("ipv4", "ipv6"):
            values = link.get(key).items
            if len(values) > 2 or not all(isinstance(each.data, str | None) for each in values):
                self._note(link, f"'{key}' is not two addresses: not carried over")
                continue
            for number, value in enumerate(values):
                if value.text and (end := found[number]) is not None:
                    found[number] = end._replace(addresses=(*end.addresses, value.text))
        first, second = (each for each in found if each is not None)
        return first, second

    def _connect(self, link: Value, first: _End, second: _End) -> None:
        if first.node in self._others:
            first, second = second, first
        segment = self._segment(link, first, second)
        for end in (first, second):
            self._nic(link, end, segment)

    def _segment(self, link: Value, first: _End, second: _End) -> Segment:
        """The segment that connects the ends of a link."""
        if second.node in self._bridges:
            if first.node in self._bridges:
                self._note(link, "a cable between two bridges: not carried over")
            return self._bridges[second.node]
        if second.node == "mgmt-net":
            text = "the management network is a segment without addresses of its own"
            self._note(link, text)
            return self._lab.segment("mgmt-net", self._file)
        if second.node == "macvlan":
            segment = self._lab.segment(f"to-{second.interface}", self._file)
            command = ["dumm-bridge", "uplink", segment.name, "--to", second.interface]
            text = f"a device of the host is not connected by itself: {shlex.join(command)}"
            self._note(link, text)
            return segment
        segment = self._lab.between((first.node, second.node), self._file)
        if second.node in self._hosts:
            self._note(
                link,
                f"the host's end '{second.interface}' is bridge '{segment.name}', without an "
                f"address: dumm-bridge address add {segment.name} A/P",
            )
        return segment

    def _nic(self, link: Value, end: _End, segment: Segment) -> None:
        if end.node in self._others or end.node in self._lost:
            if end.addresses or end.mac:
                self._note(link, f"addresses of '{end.node}' are not carried over")
            return
        where = f"{self._file}:{link.line}"
        if end.node not in self._lab.machines:
            raise Usage(f"{where}: there is no node '{end.node}'")
        nic = self._lab.nic(self._lab.machines[end.node], end.interface, where)
        if nic is not None:
            nic.segment = segment.name
            self._settings(link, end, nic)

    def _settings(self, link: Value, end: _End, nic: Nic) -> None:
        for text in end.addresses:
            try:
                nic.addresses.append(address.interface(text))
            except Usage as e:
                self._note(link, f"{e}: not carried over")
        try:
            nic.mac = address.mac(end.mac) if end.mac else None
        except Usage as e:
            self._note(link, f"{e}: not carried over")
        mtu = link.get("mtu").text
        if link.get("mtu").data is not None:
            if mtu.isascii() and mtu.isdecimal() and 68 <= int(mtu[:9]) <= address.MTU_MAX:
                nic.mtu = int(mtu)
            else:
                self._note(link, f"MTU {mtu!r}: not carried over")


def _brief(value: Value) -> _End | None:
    node, colon, interface = value.text.partition(":")
    return _End(node, interface) if colon and node and interface else None


def _extended(value: Value) -> _End | None:
    node, interface = value.get("node").text, value.get("interface").text
    if not node or not interface:
        return _brief(value)
    found = (value.get("ipv4").text, value.get("ipv6").text)
    return _End(node, interface, value.get("mac").text, tuple(text for text in found if text))
