"""Mininet's scripts in Python, and MiniEdit's files.

A script is not run: `evaluation` works out what it would build, as far as it consists of constants,
loops and calls of addHost(), addSwitch() and addLink().
"""

from __future__ import annotations

import ast
import os
from collections.abc import Collection
from typing import Any

from dumm_tools.errors import Usage
from dumm_tools.importing import evaluation, miniedit, source, topologies
from dumm_tools.importing.mininodes import Network, natural
from dumm_tools.importing.pyvalues import UNKNOWN, Builtin, Class, Function, Object, Scope
from dumm_tools.importing.topology import Topology

_SIZE_MAX = 256 << 10
_BUILDS = {"addHost", "addNode", "addSwitch", "addLink", "setIP", "setMAC"}
#: Options that are carried over, or reported elsewhere, or make no difference here.
_HOST = {"name", "cls", "ip", "mac", "defaultRoute", "isSwitch", "isHost"}
_SHAPE = {
    "bw",
    "delay",
    "jitter",
    "loss",
    "max_queue_size",
    "use_htb",
    "use_hfsc",
    "use_tbf",
    "fast",
}
_ENDS = {
    f"{key}{n}" for key in ("node", "port", "intfName", "addr", "params", "cls") for n in (1, 2)
}
_LINK = {"cls", *_SHAPE, *_ENDS}
_NETS = ("Mininet", "TreeNet", "Containernet")
#: Methods of networks and nodes that change nothing that is carried over.
_CHANGES = ("cmd", "cmdPrint", "sendCmd", "pexec", "popen", "addNAT", "setIP", "setMAC")


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
        self.file = file
        try:
            self.tree = ast.parse(text)
        except SyntaxError as e:
            raise Usage(f"{file}:{e.lineno or 1}: not Python: {e.msg}") from None
        except (ValueError, RecursionError, MemoryError):
            raise Usage(f"{file}: not Python") from None
        self.networks: list[_Network] = []
        self.notes: list[tuple[str, str]] = []
        self._routers: dict[ast.ClassDef, bool] = {}
        self._losses: dict[ast.stmt, str] = {}  # as text; empty: nothing is lost
        self.evaluator = evaluation.Evaluator(
            self._attribute, self._make, self._not_understood, self._skipped, file
        )

    def where(self, node: ast.AST) -> str:
        return f"{self.file}:{getattr(node, 'lineno', 1)}"

    def _note(self, node: ast.AST, text: str) -> None:
        self.notes.append((self.where(node), text))

    def _not_understood(self, node: ast.AST) -> None:
        self._note(node, f"not understood: {_shown(node)}")

    def _skipped(self, node: ast.stmt) -> bool:
        if node not in self._losses:  # a loop may come here often, and its body be long
            calls = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
            taken = " (taken as true)" if isinstance(node, ast.If) else ""
            self._losses[node] = f"{_shown(node)}{taken}" if calls & _BUILDS else ""
        if self._losses[node]:
            self._note(node, f"not understood: {self._losses[node]}")
        return bool(self._losses[node])

    def read(self) -> Topology:
        scope: Scope = {"__name__": "__main__", "True": True, "False": False, "None": None}
        scope |= {name: self._mininet(name) for name in _NETS}
        scope |= {name: self._mininet(name) for name in topologies.KNOWN}
        scope["Topo"] = Class(ast.ClassDef("Topo", [], [], [], []), {}, ())
        try:
            self.evaluator.run(self.tree.body, scope)
            found = [each for each in self.networks if not each.is_topology]
            found = [each for each in found if each.network.hosts or each.network.switches]
            if not found:
                found = self._topologies(scope)
        except RecursionError:
            raise Usage(f"{self.file}: nested too deeply") from None
        if not found:
            raise Usage(f"{self.file}: no network was found: no call of addHost() or addSwitch()")
        if len(found) > 1:
            self.notes.append((self.file, f"it builds {len(found)} networks: the first is taken"))
        network = found[0].network
        lab = network.finish()
        for where, text in self.notes:
            lab.note(where, text)
        return lab

    def _topologies(self, scope: Scope) -> list[_Network]:
        """Build what `mn --custom` would: a topology in `topos`, or else of each class."""
        topos = scope.get("topos")
        if isinstance(topos, dict) and topos:
            for each in topos.values():
                if isinstance(each, Function):
                    self.evaluator.call(each, [], {})
                elif isinstance(each, Class):
                    self._instance(self.tree, each, [], {})
        else:
            for each in list(scope.values()):
                if isinstance(each, Class) and each.methods and _is_topology(each):
                    self._instance(self.tree, each, [], {})
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
                topologies.build(made.network, self.where(node), name, numbers)
                return made
            topology = values[0] if values else named.get("topo")
            if name == "TreeNet":
                topology = self._mininet("TreeTopo").function(node, [], named)
            if isinstance(topology, _Network):
                made = topology
                made.is_topology = False
            else:
                made = self._new(is_topology=False)
                if topology is UNKNOWN and ("topo" in named or values):
                    self._not_understood(node)
            base = named.get("ipBase")
            made.network.base = base if isinstance(base, str) else made.network.base
            made.network.sets_macs = named.get("autoSetMacs") is True
            return made

        return Builtin(call)

    def _make(self, node: ast.Call, made: Class, values: list[Any], named: dict[str, Any]) -> Any:
        return self._instance(node, made, values, named) if _is_topology(made) else UNKNOWN

    def _instance(
        self, node: ast.AST, made: Class, values: list[Any], named: dict[str, Any]
    ) -> _Network:
        network = self._new(is_topology=True, bases=tuple(_ancestry(made)))
        if not self._run(network, "__init__", values, named):
            self._run(network, "build", values, named)
        return network

    def _run(
        self, network: _Network, name: str, values: list[Any], named: dict[str, Any], skip: int = 0
    ) -> bool:
        """Call a method of a topology, as its class or the first of the others defines it."""
        for each in network.classes[skip:]:
            if name in each.methods:
                function = each.methods[name]._replace(first=network)
                self.evaluator.call(function, values, named)
                return True
        return False

    # ---- methods ----

    def _attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, _Network):
            return self._of_network(owner, name)
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
                self._run(values[0], "build", values[1:], named)
            return None

        return Builtin(call)

    def _of_network(self, owner: _Network, name: str) -> Any:
        network = owner.network
        for each in owner.classes:
            if name in each.methods:
                return each.methods[name]._replace(first=owner)

        def call(node: ast.Call, values: list[Any], named: dict[str, Any]) -> Any:
            if name in ("addHost", "addNode", "addSwitch", "addDocker"):
                return self._add_node(node, owner, name, values, named)
            if name == "addLink":
                self._add_link(node, owner, values, named)
            elif name in ("hosts", "switches"):
                self.evaluator.cost(len(network.hosts) + len(network.switches))
                return sorted(network.hosts if name == "hosts" else network.switches, key=natural)
            elif name in ("get", "getNodeByName"):
                return self._node(network, values[0] if values else UNKNOWN)
            elif name == "addController":
                self._note(node, "controllers: switches learn by themselves")
            elif name in _CHANGES:
                self._note(node, f"not carried over: {_shown(node)}")
            return UNKNOWN

        if name.startswith("["):
            return self._node(network, name[1:-1])
        if not owner.is_topology and name in ("hosts", "switches"):
            names = network.hosts if name == "hosts" else network.switches
            self.evaluator.cost(16 * len(names))
            return [self._node(network, each) for each in names]
        return Builtin(call)

    def _node(self, network: Network, name: Any) -> Any:
        if isinstance(name, str) and (name in network.hosts or name in network.switches):
            return _Node(network, name)
        return UNKNOWN

    def _of_node(self, owner: _Node, name: str) -> Any:
        if name == "name":
            return owner.name

        def call(node: ast.Call, values: list[Any], named: dict[str, Any]) -> Any:
            key = {"setIP": "ip", "setMAC": "mac", "setDefaultRoute": "defaultRoute"}.get(name)
            plain = len(values) == 1 and isinstance(values[0], str) and not named
            if key is not None and plain and owner.name in owner.network.hosts:
                owner.network.set(owner.name, {key: values[0]}, self.where(node))
            elif key is not None or name in _CHANGES:
                self._note(node, f"not carried over: {_shown(node)}")
            return UNKNOWN

        return Builtin(call)

    def _add_node(
        self, node: ast.Call, owner: _Network, how: str, values: list[Any], named: dict[str, Any]
    ) -> Any:
        name = values[0] if values else named.get("name")
        if not isinstance(name, str):
            self._not_understood(node)
            return UNKNOWN
        where = self.where(node)
        if how == "addSwitch" or named.get("isSwitch") is True:
            owner.network.switch(name, where)
        else:
            made = named.get("cls")
            routes = isinstance(made, Class) and self._is_router(made.node)
            if "cls" in named and not routes and made is not None:
                said = [ast.unparse(k.value) for k in node.keywords if k.arg == "cls"]
                shown = f"class '{said[0]}'" if said else "the class"
                self._note(node, f"{shown} of '{name}' is not carried over")
            self._report(node, named, _HOST, f"'{name}'")
            owner.network.host(name, where, {**named, "routes": routes})
        return name if owner.is_topology else _Node(owner.network, name)

    def _is_router(self, node: ast.ClassDef) -> bool:
        if node not in self._routers:
            self._routers[node] = "ip_forward" in ast.unparse(node)
        return self._routers[node]

    def _add_link(
        self, node: ast.Call, owner: _Network, values: list[Any], named: dict[str, Any]
    ) -> None:
        ends = [each.name if isinstance(each, _Node) else each for each in values[:2]]
        for number, end in enumerate(ends):
            ends[number] = end if isinstance(end, str) else UNKNOWN
        ends += [named.get(f"node{n}", UNKNOWN) for n in range(len(ends) + 1, 3)]
        for number, port in enumerate(values[2:4], 1):
            named.setdefault(f"port{number}", port)
        if not all(isinstance(end, str) for end in ends):
            self._not_understood(node)
            return
        self._report(node, named, _LINK, "a link")
        for key in ("params1", "params2"):
            if isinstance(named.get(key), dict):
                self._report(node, named[key], ("ip", "mac"), f"{key} of a link")
        known = {key: value for key, value in named.items() if value is not UNKNOWN}
        owner.network.link((ends[0], ends[1]), self.where(node), known)

    def _report(
        self, node: ast.AST, options: dict[str, Any], known: Collection[str], owner: str
    ) -> None:
        """Say which options are lost."""
        for key, value in options.items():
            if key not in known and value is not None:
                self._note(node, f"'{key}' of {owner} is not carried over")
            elif key != "cls" and value is UNKNOWN:
                self._note(node, f"not understood: '{key}' of {owner}")


def _is_topology(made: Class) -> bool:
    """Whether a class is derived from one of Mininet's topologies."""
    return any(each.node.name == "Topo" and not each.bases for each in _ancestry(made))


def _ancestry(made: Class) -> list[Class]:
    """A class and those that it is derived from, each once."""
    found: list[Class] = []

    def add(each: Class) -> None:
        if each not in found:
            found.append(each)
            for base in each.bases:
                if isinstance(base, Class):
                    add(base)

    add(made)
    return found


def _shown(node: ast.AST) -> str:
    text = ast.unparse(node).partition("\n")[0]
    return text if len(text) <= 100 else f"{text[:100]}..."


def read(path: str) -> Topology:
    """Read a script, or a file of MiniEdit. NotFound, Usage, DummError."""
    text, file = source.read(path), os.path.basename(path)
    if text.lstrip().startswith("{"):
        return miniedit.read(text, file)
    if len(text) > _SIZE_MAX:
        raise Usage(f"'{path}' is larger than {_SIZE_MAX >> 10} KiB")
    return _Reader(text, file).read()
