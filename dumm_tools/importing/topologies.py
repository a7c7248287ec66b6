"""Mininet's own topologies."""

from __future__ import annotations

from typing import Any

from dumm_tools.errors import Usage
from dumm_tools.importing.mininodes import Network

#: Their names, and those of their parameters.
KNOWN: dict[str, tuple[str, ...]] = {
    "SingleSwitchTopo": ("k",),
    "SingleSwitchReversedTopo": ("k",),
    "MinimalTopo": (),
    "LinearTopo": ("k", "n"),
    "TreeTopo": ("depth", "fanout"),
}


def build(network: Network, where: str, name: str, values: dict[str, Any]) -> None:
    """Add the nodes and links of a topology to a network."""

    def number(key: str, default: int) -> int:
        found = values.get(key, default)
        if not isinstance(found, int) or not 0 < found <= 1000:
            raise Usage(f"{where}: {name}: bad {key}")
        return found

    if name == "TreeTopo":
        _Tree(network, where).add(number("depth", 1), number("fanout", 2))
        return
    is_linear = name == "LinearTopo"
    switches = number("k", 2) if is_linear else 1
    hosts = number("n", 1) if is_linear else number("k", 2)
    for s in range(1, switches + 1):
        network.switch(f"s{s}", where)
        for h in range(1, hosts + 1):
            host = f"h{h}"
            if is_linear:
                host = f"h{s}" if hosts == 1 else f"h{h}s{s}"
            network.host(host, where, {})
            network.link((host, f"s{s}"), where, {})
        if s > 1:
            network.link((f"s{s}", f"s{s - 1}"), where, {})


class _Tree:
    """Mininet's TreeTopo: switches and hosts are numbered in the order in which they are made."""

    def __init__(self, network: Network, where: str) -> None:
        self._network, self._where = network, where
        self._hosts = self._switches = 0

    def add(self, depth: int, fanout: int) -> str:
        """Add a tree; return its top."""
        if depth == 0:
            self._hosts += 1
            name = f"h{self._hosts}"
            self._network.host(name, self._where, {})
            return name
        self._switches += 1
        name = f"s{self._switches}"
        self._network.switch(name, self._where)
        for _ in range(fanout):
            self._network.link((name, self.add(depth - 1, fanout)), self._where, {})
        return name
