"""The answers of `list` and `show`, as tuples with the fields of `--format json`. FIELDS in the
manual pages of the commands describes them. None is an absent value."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, TypeVar


class GuestView(NamedTuple):
    """A guest. `state` is stopped, starting, running, paused, stopping or crashed; `memory` and
    `memory_used` are bytes, `uptime` and `cpu_seconds` seconds. `guests()` leaves out the last
    three."""

    name: str
    state: str
    pid: int | None
    kernel: str | None
    master: str | None
    rootfs: str | None
    memory: int
    init: str | None
    args: list[str]
    ifaces: list[str]
    disks: list[str]
    files: list[str]
    startup: str | None
    overlays: list[str]
    uptime: float | None = None
    cpu_seconds: float | None = None
    memory_used: int | None = None


class IfaceView(NamedTuple):
    """An interface. `state` is up or down; `shape` and `actual` have milliseconds, percent and
    bit/s. `ifaces()` leaves out what follows `tx_bytes`."""

    name: str
    guest: str
    device: str
    tap: str
    bridge: str | None
    mac: str
    mtu: int
    state: str
    carrier: bool
    addresses: list[str]
    shape: dict[str, float] | None
    rx_bytes: int | None
    tx_bytes: int | None
    rx_packets: int | None = None
    tx_packets: int | None = None
    rx_dropped: int | None = None
    tx_dropped: int | None = None
    actual: dict[str, float] | None = None
    live_mac: str | None = None
    live_mtu: int | None = None


class BridgeView(NamedTuple):
    """A bridge. `state` is up or down; `kind` is cable, hub or switch, `kind_set` auto, hub or
    switch; `uplink` is "nat" or "to:" and a device of the host."""

    name: str
    state: str
    address: list[str]
    members: list[str]
    uplink: str | None
    host_access: bool
    kind: str
    kind_set: str


class RouteView(NamedTuple):
    """A route of a guest; one with several gateways is listed once for each."""

    dest: str
    via: str | None
    iface: str | None
    guest: str
    device: str | None
    family: str
    metric: int | None
    table: str
    kind: str
    src: str | None
    weight: int | None
    onlink: bool


class TemplateView(NamedTuple):
    """A template, whether it is loaded, and the guests that it has files for; `fresh`: whether
    guests write to a copy of it."""

    name: str
    loaded: bool
    guests: list[str]
    fresh: bool


class Change(NamedTuple):
    """A path that a guest has added (A), modified (M) or deleted (D)."""

    path: str
    kind: str


T = TypeVar("T", GuestView, IfaceView, BridgeView, RouteView, TemplateView, Change)


def of(kind: type[T], data: bytes) -> list[T]:
    """The objects in the output of `--format json`."""
    rows: list[dict[str, Any]] = json.loads(data)
    return [kind._make(row.get(name) for name in kind._fields) for row in rows]
