"""Networks drawn with Mininet's MiniEdit: JSON files, usually named *.mn."""

from __future__ import annotations

import json
from typing import Any

from dumm_tools.errors import Usage
from dumm_tools.importing.mininodes import NONE, Network, nth
from dumm_tools.importing.topology import Topology

#: Keys that have an equivalent, and those that make no difference here.
_TOP = ("application", "version", "hosts", "switches", "controllers", "links")
_HOST = ("hostname", "nodeNum", "ip", "defaultRoute", "sched")
_SWITCH = (
    *("hostname", "nodeNum", "switchType", "controllers", "dpid", "dpctl", "netflow", "sflow"),
    *("switchProtocols", "openFlowVersions"),
)
_LINK = ("bw", "delay", "jitter", "loss", "max_queue_size")


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        try:
            self.top: Any = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise Usage(f"{file}: not JSON: {e}") from None
        if not isinstance(self.top, dict) or "hosts" not in self.top:
            raise Usage(f"{file}: not a network of MiniEdit: no 'hosts'")
        base = _dict(self.top, "application").get("ipBase")
        self.base = base if isinstance(base, str) and base else "10.0.0.0/8"
        self.network = Network(f"Imported from MiniEdit's network '{file}'", self.base)
        self._report("", self.top, _TOP)
        if base and not isinstance(base, str):
            self.note("'ipBase' is not a text: not carried over")

    def note(self, text: str) -> None:
        self.network.lab.note(self.file, text)

    def read(self) -> Topology:
        for row in self._rows("hosts"):
            self._host(row)
        for row in self._rows("switches"):
            name, options = self._name(row, "s")
            kind = options.get("switchType")
            if kind == "legacyRouter":
                self.network.host(name, self.file, {"ip": NONE, "routes": True})
            else:
                self.network.switch(name, self.file)
            self._report(f" of '{name}'", options, _SWITCH)
        for row in self._rows("controllers"):
            name = _dict(row, "opts").get("hostname", "c0")
            self.note(f"controller '{str(name)[:50]}': switches learn by themselves")
        for number, row in enumerate(self._rows("links"), 1):
            self._link(number, row)
        return self.network.finish()

    def _rows(self, key: str) -> list[dict[str, Any]]:
        rows = self.top.get(key, [])
        if isinstance(rows, dict):  # the controllers of old files
            rows = list(rows.values())
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Usage(f"{self.file}: '{key}' is not a list of objects")
        return rows

    def _name(self, row: dict[str, Any], letter: str) -> tuple[str, dict[str, Any]]:
        options = _dict(row, "opts")
        name = options.get("hostname") or f"{letter}{row.get('number', '')}"
        if not isinstance(name, str):
            raise Usage(f"{self.file}: {str(name)[:50]!r} is not the name of a node")
        return name, options

    def _host(self, row: dict[str, Any]) -> None:
        name, options = self._name(row, "h")
        values = {key: options.get(key) for key in ("ip", "defaultRoute")}
        for key, value in values.items():
            if value and not isinstance(value, str):
                self.note(f"'{key}' of '{name}' is not a text: not carried over")
                values[key] = None
        number = options.get("nodeNum", row.get("number"))
        if not values["ip"] and str(number).isdecimal():
            values["ip"] = nth(self.base, int(str(number)[:9]))
        self.network.host(name, self.file, values)
        self._report(f" of '{name}'", options, _HOST)

    def _report(self, owner: str, options: dict[str, Any], known: tuple[str, ...]) -> None:
        for key, value in options.items():
            if key not in known and value:
                self.note(f"'{key[:50]}'{owner} is not carried over")

    def _link(self, number: int, row: dict[str, Any]) -> None:
        ends = (row.get("src"), row.get("dest"))
        if not isinstance(ends[0], str) or not isinstance(ends[1], str):
            raise Usage(f"{self.file}: link {number} lacks an end")
        options = _dict(row, "opts")
        for key, value in options.items():
            if key not in _LINK and value:
                self.note(f"link {number}: '{key[:50]}' is not carried over")
        self.network.link((ends[0], ends[1]), f"{self.file}: link {number}", options)


def _dict(row: dict[str, Any], key: str) -> dict[str, Any]:
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def read(text: str, file: str) -> Topology:
    """Read a network. Usage."""
    return _Reader(text, file).read()
