"""The values of the objects of a lab that `dumm-guest monitor` reports, and their changes.

The names and values of the fields are those of `list`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

from dumm_tools.model import Bridge, Iface, State
from dumm_tools.net import segment

Kind = Literal["guest", "iface", "bridge", "lab"]
Value = str | int | float | bool | None | list[str] | dict[str, str | int | float | bool | None]
Values = Mapping[str, Value]
#: Whether a link of this name is the lab's, and is up (for a bridge) or has a carrier.
IsLive = Callable[[str], bool]

#: The field that says that an object was created, or deleted.
EXISTS = "exists"


class Change(NamedTuple):
    """A value of an object that has changed; the lab itself has no name."""

    time: float
    object: Kind
    name: str | None
    field: str
    value: Value
    before: Value


class Board:
    """The values that were reported last."""

    def __init__(self) -> None:
        self._values: dict[tuple[Kind, str], Values] = {}

    def get(self, kind: Kind, name: str) -> Values:
        """The values of an object; none if it is not known."""
        return self._values.get((kind, name), {})

    def known(self) -> list[tuple[Kind, str]]:
        """All objects."""
        return list(self._values)

    def put(self, kind: Kind, name: str, values: Values | None) -> list[Change]:
        """Note the values of an object, None if it is gone; return what has changed."""
        before = self._values.get((kind, name))
        now = round(time.time(), 3)
        if values is None:
            if before is None:
                return []
            del self._values[kind, name]
            return [Change(now, kind, name or None, EXISTS, False, True)]
        self._values[kind, name] = values
        found = []
        if before is None:
            found.append(Change(now, kind, name or None, EXISTS, True, False))
            before = {}
        return found + [
            Change(now, kind, name or None, field, value, before.get(field))
            for field, value in values.items()
            if field not in before or before[field] != value
        ]


class Members:
    """The interfaces on each bridge, kept up to date without looking at all of them."""

    def __init__(self) -> None:
        self._members: dict[str, set[str]] = {}
        self._bridge_of: dict[str, str] = {}

    def of(self, bridge: str) -> set[str]:
        """The interfaces on a bridge."""
        return self._members.get(bridge, set())

    def moved(self, name: str, bridge: str | None) -> set[str]:
        """Note where an interface is; return the bridges whose members have changed."""
        before = self._bridge_of.pop(name, None)
        if bridge is not None:
            self._bridge_of[name] = bridge
        if before == bridge:
            return set()
        if before is not None:
            self._members[before].discard(name)
        if bridge is not None:
            self._members.setdefault(bridge, set()).add(name)
        return {each for each in (before, bridge) if each is not None}


def iface(state: State, found: Iface, has_carrier: IsLive) -> Values:
    """The values of an interface."""
    live = segment.has_carrier(state, found)
    return {
        "state": "up" if live and has_carrier(found.tap) else "down",
        "carrier": live,
        "bridge": found.bridge,
        "addresses": sorted(found.addresses),
        "mtu": found.mtu,
        "mac": found.mac,
        "shape": dict(found.shape) or None,
    }


def bridge(found: Bridge, members: Collection[str], is_up: IsLive) -> Values:
    """The values of a bridge with these members."""
    return {
        "state": "up" if is_up(found.name) else "down",
        "address": sorted(found.addresses),
        "members": sorted(members),
        "uplink": found.uplink,
        "kind": segment.kind(found, len(members)),
    }


def lab(state: State) -> Values:
    """The values of the lab."""
    return {"template": state.template}
