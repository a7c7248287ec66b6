"""Mininet's scripts in Python, and MiniEdit's files.

A script is not run: `evaluation` works out what it would build, as far as it consists of constants,
loops and calls of addHost(), addSwitch() and addLink().
"""

from __future__ import annotations

import ast
import os
from typing import Any

from dumm_tools.errors import Usage
from dumm_tools.importing import evaluation, miniedit, source, topologies
from dumm_tools.importing.mincalls import Calls
from dumm_tools.importing.mininodes import Network, natural
from dumm_tools.importing.pyparts import BREAK, RETURN, Parts
from dumm_tools.importing.pysource import Source
from dumm_tools.importing.pyvalues import (
    UNKNOWN,
    Builtin,
    Class,
    Function,
    Object,
    Parent,
    Scope,
)
from dumm_tools.importing.topology import Topology

_SIZE_MAX = 256 << 10
_ADDS = ("addHost", "addNode", "addSwitch", "addDocker")
_NETS = ("Mininet", "TreeNet", "Containernet")
_LINKS = ("Link", "TCLink", "TCULink", "OVSLink", "Intf", "TCIntf", "OVSIntf")
#: Methods that say what a lab is, and classes: parts of a script that use them matter.
_MATTER = (
    *(*_ADDS, "addLink", "addNAT", "setIP", "setMAC", "setDefaultRoute", "setHostRoute"),
    *("cmd", "cmdPrint", "sendCmd", "pexec", "configLinkStatus", "delLink", "delNode"),
    *(*_NETS, *_LINKS, *topologies.KNOWN),
)
#: Methods of networks and nodes that make no difference here; others are reported.
_HARMLESS = {
    *("__init__", "start", "stop", "build", "buildFromTopo", "run", "interact", "monitor"),
    *("ping", "pingAll", "pingAllFull", "pingFull", "pingPair", "pingPairFull", "iperf"),
    *("runCpuLimitTest", "startTerms", "stopXterms", "waitConnected", "configHosts", "staticArp"),
    *("hosts", "switches", "nodes", "links", "items", "keys", "values", "get", "getNodeByName"),
    *("isSwitch", "iterLinks", "linksBetween", "linkInfo", "nodeInfo", "port", "sorted"),
    *("IP", "MAC", "intf", "intfs", "intfList", "intfNames", "intfIsUp", "defaultIntf"),
    *("connected", "connectionsTo", "waitOutput", "waiting", "waitExited", "readline", "read"),
    *("newPort", "terminate", "cleanup", "sendInt", "updateIP", "updateMAC", "waitListening"),
}


class _Network(Object):
    """A network, or a topology that is being built."""

    def __init__(self, network: Network, *, is_topology: bool, bases: tuple[Class, ...]) -> None:
        super().__init__()
        self.network, self.is_topology, self.classes = network, is_topology, bases


class _Node(Object):
    def __init__(self, network: Network, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.file, self.source = file, Source(text, file)
        self.networks: list[_Network] = []
        self._parts = Parts(self.source.tree, _MATTER)
        self._calls = Calls(self.source)
        self.evaluator = evaluation.Evaluator(self, file)

    def read(self) -> Topology:
        scope: Scope = {"__name__": "__main__", "True": True, "False": False, "None": None}
        scope |= {name: self._mininet(name) for name in _NETS}
        scope |= {name: self._mininet(name) for name in topologies.KNOWN}
        scope |= {name: Builtin(self._reported) for name in _LINKS}
        scope["Topo"] = Class(ast.ClassDef("Topo", [], [], [], []), {}, ())
        try:
            self.evaluator.run(self.source.tree.body, scope)
            found = [each for each in self.networks if not each.is_topology]
            found = [each for each in found if each.network.hosts or each.network.switches]
            if not found:
                found = self._topologies(scope)
        except RecursionError:
            raise Usage(f"{self.file}: nested too deeply") from None
        if not found:
            raise Usage(f"{self.file}: no network was found: no call of addHost() or addSwitch()")
        lab = found[0].network.finish()
        for where, text in self.source.notes:
            lab.note(where, text)
        if len(found) > 1:
            lab.note(self.file, f"it builds {len(found)} networks: the first is taken")
        return lab

    def _topologies(self, scope: Scope) -> list[_Network]:
        """Build what `mn --custom` would: a topology in `topos`, or else of each class."""
        topos = scope.get("topos")
        if isinstance(topos, dict) and topos:
            for each in topos.values():
                if isinstance(each, Function):
                    self.evaluator.call(each, [], {})
                elif isinstance(each, Class):
                    self._instance(each, [], {})
        else:
            for each in list(scope.values()):
                if isinstance(each, Class) and each.methods and self._is_topology(each):
                    self._instance(each, [], {})
        built = [each for each in self.networks if each.is_topology]
        return [each for each in built if each.network.hosts or each.network.switches]

    # ---- objects ----

    def _new(self, *, is_topology: bool, bases: tuple[Class, ...] = ()) -> _Network:
        title = f"Imported from Mininet's script '{self.file}'"
        made = _Network(Network(title), is_topology=is_topology, bases=bases)
        made.network.by_name = is_topology
        self.networks.append(made)
        return made

    def _mininet(self, name: str) -> Builtin:
        """A class of Mininet."""

        def call(node: ast.Call, values: list[Any], named: dict[str, Any]) -> Any:
            if name in topologies.KNOWN:
                made = self._new(is_topology=True)
                numbers = dict(zip(topologies.KNOWN[name], values, strict=False)) | named
                topologies.build(made.network, self.source.where(node), name, numbers)
                self.evaluator.cost(64 * (len(made.network.hosts) + len(made.network.switches)))
                return made
            if name == "TreeNet":
                topology = self._mininet("TreeTopo").function(node, [], named)
                named = {key: named[key] for key in named.keys() - topologies.KNOWN["TreeTopo"]}
            options = self._calls.network(node, values, named)
            if name != "TreeNet":
                topology = options.get("topo")
            if isinstance(topology, _Network):
                made = topology
                made.is_topology = False
            else:
                made = self._new(is_topology=False)
                if topology is not None:
                    self.source.not_understood(node)
            base = options.get("ipBase")
            made.network.base = base if isinstance(base, str) else made.network.base
            made.network.sets_macs = options.get("autoSetMacs") is True
            return made

        return Builtin(call)

    def make(self, node: ast.Call, made: Class, values: list[Any], named: dict[str, Any]) -> Any:
        """World.make"""
        if self._is_topology(made):
            return self._instance(made, values, named)
        if self._parts.matters(made.node):
            self.source.not_understood(node)
        return UNKNOWN

    def _instance(self, made: Class, values: list[Any], named: dict[str, Any]) -> _Network:
        network = self._new(is_topology=True, bases=tuple(self._ancestry(made)))
        first = self._inherited(network, "__init__", -1) or self._inherited(network, "build", -1)
        if first is not None:
            self.evaluator.call(first, values, named)
        return network

    def _inherited(self, network: _Network, name: str, rank: int) -> Function | None:
        """The method that an object has from the first of its classes after one that has it."""
        self.evaluator.cost(len(network.classes))
        for number, each in enumerate(network.classes[rank + 1 :], rank + 1):
            if name in each.methods:
                return each.methods[name]._replace(first=network, rank=number)
        return None

    def _is_topology(self, made: Class) -> bool:
        """Whether a class is derived from one of Mininet's topologies."""
        return any(e.node.name == "Topo" and not e.bases for e in self._ancestry(made))

    def _ancestry(self, made: Class) -> list[Class]:
        """A class and those that it is derived from, each once."""
        found: dict[ast.ClassDef, Class] = {}

        def add(each: Class) -> None:
            self.evaluator.cost(16)
            if each.node not in found:
                found[each.node] = each
                for base in each.bases:
                    if isinstance(base, Class):
                        add(base)

        add(made)
        return list(found.values())

    # ---- what is not understood ----

    def lost(self, node: ast.AST) -> None:
        """World.lost"""
        self.source.not_understood(node)

    def skipped(self, node: ast.stmt | ast.expr, scope: Scope) -> bool:
        """World.skipped"""
        is_condition = isinstance(node, ast.If)
        if self._parts.matters(node):
            self.source.not_understood(node, " (taken as true)" if is_condition else "")
            return True
        changed = self._parts.changed(node)
        self.evaluator.cost(len(changed))
        for name in changed:
            leaves = name == RETURN or (name == BREAK and is_condition)
            if leaves or scope.get(name, UNKNOWN) is not UNKNOWN:
                self.source.not_understood(node, " (left out)")
                break
        return False

    def strange(self, node: ast.Call) -> None:
        """World.strange"""
        passed = [*node.args, *(word.value for word in node.keywords)]
        passed = [p for p in passed if isinstance(p, ast.Attribute | ast.Name | ast.Lambda)]
        name = f".{node.func.attr}" if isinstance(node.func, ast.Attribute) else ""
        if name in self._parts.names or any(map(self._parts.matters, passed)):
            self.source.not_understood(node)

    def _reported(self, node: ast.Call, _values: list[Any], _named: dict[str, Any]) -> Any:
        self.source.not_carried(node)
        return UNKNOWN

    # ---- methods ----

    def attribute(self, owner: Any, name: str) -> Any:
        """World.attribute"""
        if isinstance(owner, _Network):
            return self._of_network(owner, name)
        if isinstance(owner, Parent) and isinstance(owner.first, _Network):
            return self._of_network(owner.first, name, owner.rank)
        if isinstance(owner, _Node):
            return self._of_node(owner, name)
        if isinstance(owner, Class):
            return self._of_class(owner, name)
        return UNKNOWN

    def _of_class(self, owner: Class, name: str) -> Any:
        """A method of a class that is called with the object: Topo.__init__(self)."""
        if name in owner.methods:
            return owner.methods[name]

        def call(_node: ast.Call, values: list[Any], named: dict[str, Any]) -> Any:
            if name == "__init__" and values and isinstance(values[0], _Network):
                self._build(values[0], values[1:], named)
            return None

        return Builtin(call)

    def _build(self, network: _Network, values: list[Any], named: dict[str, Any]) -> None:
        """Do what Mininet's own Topo.__init__() does."""
        if (build := self._inherited(network, "build", -1)) is not None:
            self.evaluator.call(build, values, named)

    def _of_network(self, owner: _Network, name: str, rank: int = -1) -> Any:
        network = owner.network
        if (method := self._inherited(owner, name, rank)) is not None:
            return method

        def call(node: ast.Call, values: list[Any], named: dict[str, Any]) -> Any:
            if name in _ADDS:
                added = self._calls.node(node, network, name, values, named)
                if added is None:
                    return UNKNOWN
                return added if owner.is_topology else _Node(network, added)
            if name == "addLink":
                self._calls.link(node, network, values, named)
            elif name == "__init__" and rank >= 0:
                self._build(owner, values, named)
            elif name in ("hosts", "switches"):
                self.evaluator.cost(len(network.hosts) + len(network.switches))
                return sorted(network.hosts if name == "hosts" else network.switches, key=natural)
            elif name in ("get", "getNodeByName"):
                found = [self._node(network, each) for each in values]
                return found[0] if len(found) == 1 else found
            elif name == "addController":
                self.source.note(node, "controllers: switches learn by themselves")
            elif name not in _HARMLESS:
                self.source.not_carried(node)
            return UNKNOWN

        if name.startswith("["):
            return self._node(network, name[1:-1])
        if not owner.is_topology and name in ("hosts", "switches"):
            names = network.hosts if name == "hosts" else network.switches
            self.evaluator.cost(16 * len(names))
            return [self._node(network, each) for each in names]
        return Builtin(call)

    def _node(self, network: Network, name: Any) -> Any:
        if isinstance(name, str) and network.has(name):
            return _Node(network, name)
        return UNKNOWN

    def _of_node(self, owner: _Node, name: str) -> Any:
        if name == "name":
            return owner.name

        def call(node: ast.Call, values: list[Any], named: dict[str, Any]) -> Any:
            key = {"setIP": "ip", "setMAC": "mac", "setDefaultRoute": "defaultRoute"}.get(name)
            plain = len(values) == 1 and isinstance(values[0], str) and not named
            if key is not None and plain and owner.name in owner.network.hosts:
                owner.network.set(owner.name, {key: values[0]}, self.source.where(node))
            elif name not in _HARMLESS:
                self.source.not_carried(node)
            return UNKNOWN

        return Builtin(call)


def read(path: str) -> Topology:
    """Read a script, or a file of MiniEdit. NotFound, Usage, DummError."""
    text, file = source.read(path), os.path.basename(path)
    if text.lstrip().startswith("{"):
        return miniedit.read(text, file)
    if len(text) > _SIZE_MAX:
        raise Usage(f"'{path}' is larger than {_SIZE_MAX >> 10} KiB")
    return _Reader(text, file).read()
