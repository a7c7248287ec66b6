"""Topologies of containerlab (https://containerlab.dev): a YAML file."""

from __future__ import annotations

import os
import posixpath
import shlex
from collections.abc import Callable, Collection, Mapping

from dumm_tools.errors import NotFound, Usage
from dumm_tools.importing import script, source, variables, yamltree
from dumm_tools.importing.clablinks import Links
from dumm_tools.importing.sizes import memory
from dumm_tools.importing.source import Directory, Outside
from dumm_tools.importing.topology import Machine, Topology
from dumm_tools.importing.yamltree import Value

#: Kinds of nodes that are containers with programs for Linux.
_LINUX = ("linux", "frr", "")
_BRIDGES = ("bridge", "ovs-bridge")
#: Keys of nodes that are carried over, and those that make no difference here.
_CARRIED = (
    *("kind", "group", "image", "binds", "env", "env-files", "exec", "cmd", "entrypoint"),
    *("memory", "sysctls"),
)
_IGNORED = (
    *("mgmt-ipv4", "mgmt-ipv6", "type", "labels", "position", "image-pull-policy", "runtime"),
    *("restart-policy", "auto-remove", "privileged", "cap-add", "security-opts", "cgroupns-mode"),
    *("cgroup-parent", "pid-mode", "certificate", "credentials", "link-apply-mode", "extras"),
    *("enforce-startup-config", "suppress-startup-config", "config", "aliases"),
)
#: Those of nodes that are bridges, or the host, which need nothing else.
_OF_BRIDGES = ("kind", "group", *_IGNORED)
#: Keys of the file and of the topology.
_TOP = ("name", "prefix", "topology", "mgmt", "debug")
_TOPOLOGY = ("defaults", "kinds", "groups", "nodes", "links")
#: Longest command: exec(2) accepts no longer word, and shlex takes quadratic time for one.
_COMMAND_MAX = 128 << 10
#: Work for a file, as that for so many characters.
_FILE = 512
_LISTS, _MAPS = ("binds", "exec", "env-files"), ("env", "sysctls")
#: The settings of containers that differ from those of a kernel.
_SYSCTLS = {"net.ipv4.ip_forward": "1"}
_REASONS = {
    "ports": "published ports have no equivalent; guests are reached from the host",
    "cpu": "guests have no such limits",
    "cpu-set": "guests have no such limits",
    "stages": "guests start side by side, not in order",
    "startup-delay": "guests start side by side, not in order",
}


class _Reader:
    def __init__(
        self, path: str, environment: Mapping[str, str], is_mapped: Callable[[str], bool]
    ) -> None:
        self.file = os.path.basename(path)
        self.directory = Directory(os.path.dirname(path) or ".")
        self.lab = Topology()
        self._environment, self._is_mapped = environment, is_mapped
        self._top = self._parse(source.read(path, yamltree.SIZE_MAX))
        self._topology = self._top.get("topology")
        self._lengths: dict[int, int] = {}
        self._words_of: dict[str, list[str]] = {}
        self.name = self._top.get("name").text or "lab"

    def _parse(self, text: str) -> Value:
        start = text.find("{{")
        if start >= 0 and text.find("}}", start) >= 0:
            line = text.count("\n", 0, start) + 1
            raise Usage(
                f"{self.file}:{line}: this is a template of Go, which is not expanded here",
                hint="expand it first; gomplate does it",
            )

        def unset(line: int, name: str) -> None:
            self.lab.note(f"{self.file}:{line}", f"variable '{name}' is not set: left as it is")

        try:
            expanded = variables.expand(text, self._environment, unset, yamltree.SIZE_MAX)
        except Usage as e:
            raise Usage(f"'{self.file}' is {e}") from None
        return yamltree.parse(expanded, self.file)

    def where(self, value: Value) -> str:
        return f"{self.file}:{value.line}"

    def read(self) -> Topology:
        self.lab.title.append(f"Imported from containerlab's topology '{self.name}'")
        self._report(self._top, _TOP)
        self._report(self._topology, _TOPOLOGY)
        nodes = self._topology.get("nodes")
        if not nodes.keys:
            raise Usage(f"{self.where(nodes)}: no topology.nodes")
        links = Links(self.lab, self.file)
        for name, node in nodes.keys.items():
            self._node(name, node, links)
        for link in self._topology.get("links").items:
            links.add(link)
        return self.lab

    def _levels(self, node: Value) -> list[Value]:
        """The settings of a node, the most specific first: its own, its group's, its kind's, the
        defaults."""
        defaults, kinds = self._topology.get("defaults"), self._topology.get("kinds")
        groups = self._topology.get("groups")
        name = node.get("group").text or defaults.get("group").text
        group = groups.get(name)
        kind = node.get("kind").text or group.get("kind").text or defaults.get("kind").text
        shared = [group, kinds.get(kind), defaults]
        for level in shared:
            key = id(level.data)  # it lives as long as the file's values
            if key not in self._lengths:
                self._lengths[key] = yamltree.length(level)
            self.lab.spend(self._lengths[key], self.where(node))
        return [node, *shared]

    def _node(self, name: str, node: Value, links: Links) -> None:
        levels = self._levels(node)
        first = _first(levels)
        kind = first("kind").text
        if kind in _BRIDGES:
            links.bridge(name, self.lab.segment(name, self.where(node)))
            self._report(node, _OF_BRIDGES)
            return
        if kind == "host":
            links.host(name)
            self._report(node, _OF_BRIDGES)
            return
        image = first("image").text
        if kind not in _LINUX and not self._is_mapped(image):
            text = f"node '{name}' is of kind '{kind}', which is not Linux: not carried over"
            self.lab.note(self.where(node), text)
            links.lost(name)
            return
        machine = self.lab.machine(name, self.where(node))
        machine.image, machine.serves = image, True
        if (size := first("memory")).text:
            machine.memory = memory(size.text, lambda text: self.lab.note(self.where(size), text))
        self._files(machine, levels)
        self._scripts(machine, levels)
        for level in levels:
            self._report(level, (*_CARRIED, *_IGNORED))

    def _report(self, level: Value, known: Collection[str]) -> None:
        """Note what is lost: keys that are not known, and values of another form than they have."""
        for key, value in level.keys.items():
            if key not in known and value.data not in (None, [], {}):
                reason = _REASONS.get(key, "not carried over")
                self.lab.note(self.where(value), f"'{key}': {reason}")
            elif key in _CARRIED and (form := _wrong_form(key, value)):
                self.lab.note(self.where(value), f"'{key}' is not {form}: not carried over")

    def _expand(self, text: str, node: str) -> str:
        """Replace containerlab's own variables."""
        directory = os.path.join(self.directory.path, f"clab-{self.name}")
        for name, value in (
            ("__clabNodeName__", node),
            ("__clabNodeDir__", os.path.join(directory, node)),
            ("__clabDir__", directory),
            ("__clabLabName__", f"clab-{self.name}"),
        ):
            text = text.replace(name, value)
        self.lab.spend(len(text), self.file)
        return text

    # ---- files ----

    def _files(self, machine: Machine, levels: list[Value]) -> None:
        binds: dict[str, Value] = {}
        for value in _all(levels, "binds"):
            said, colon, rest = self._expand(value.text, machine.said).partition(":")
            place, _, options = rest.partition(":")
            if not said or not colon or not place.startswith("/"):
                self.lab.note(self.where(value), f"bad bind {value.text!r}: not carried over")
                continue
            binds.pop(posixpath.normpath(place), None)  # a more specific one
            text = f"{said}:{posixpath.normpath(place)}:{options}"
            binds[posixpath.normpath(place)] = Value(text, value.line)
        for place, value in binds.items():
            said, _, rest = value.text.partition(":")
            writable = "ro" not in rest.rpartition(":")[2].split(",")
            if path := self._path(said, value):
                try:
                    machine.give(path, place)
                except Usage as e:
                    self.lab.note(self.where(value), f"{e}: not carried over")
                    continue
                if os.path.isdir(path) and writable:
                    text = f"'{said}' is copied to '{place}' at each start, not shared"
                    self.lab.note(self.where(value), f"{text} with the host")

    def _path(self, said: str, value: Value) -> str | None:
        """The path of a file of the lab; None, and a note, if it is not there."""
        self.lab.spend(_FILE, self.where(value))
        try:
            path = self.directory.place(said)
        except Outside as e:
            self.lab.note(self.where(value), f"{e}: not carried over")
            return None
        if path is None:
            self.lab.note(self.where(value), f"no file '{said}': not carried over")
        elif not os.path.isdir(path) and not os.path.isfile(path):
            self.lab.note(self.where(value), f"'{said}' is a special file: not carried over")
            return None
        return path

    # ---- scripts ----

    def _scripts(self, machine: Machine, levels: list[Value]) -> None:
        settings = {**_SYSCTLS, **_merged(levels, "sysctls")}
        environment = {**self._env_files(levels), **_merged(levels, "env")}
        good = {name: v for name, v in environment.items() if name.isidentifier()}
        for name in environment.keys() - good.keys():
            self.lab.note(machine.where, f"environment variable {name!r}: not carried over")
        machine.script = [*script.sysctls(settings), *script.exports(good)]
        first = _first(levels)
        command = self._words(machine, first("entrypoint")) + self._words(machine, first("cmd"))
        machine.command = command
        for value in _all(levels, "exec"):
            if words := self._words(machine, value):
                machine.commands.append(script.command(words))

    def _words(self, machine: Machine, value: Value) -> list[str]:
        """The words of a command; it is run without a shell."""
        if value.text not in self._words_of:  # many machines may have the same
            try:
                if len(value.text) > _COMMAND_MAX:
                    raise ValueError("it is too long")
                self._words_of[value.text] = shlex.split(value.text)
            except ValueError as e:
                text = f"command {value.text[:200]!r}: {str(e).lower()}: not carried over"
                self.lab.note(self.where(value), text)
                self._words_of[value.text] = []
        words = self._words_of[value.text]
        self.lab.spend(16 * len(words), self.where(value))
        return self._expand("\0".join(words), machine.said).split("\0") if words else []

    def _env_files(self, levels: list[Value]) -> dict[str, str]:
        found: dict[str, str] = {}
        for value in _all(levels, "env-files"):
            if (path := self._path(value.text, value)) is None:
                continue
            text = source.read(path)
            self.lab.spend(len(text), self.where(value))
            for number, line in enumerate(text.splitlines(), 1):
                name, equals, text = line.strip().partition("=")
                if name.startswith("#") or not name:
                    continue
                if equals:
                    found[name.strip()] = text.strip().strip("\"'")
                else:
                    self.lab.note(f"{value.text}:{number}", f"'{name}' has no value: not set")
        return found


def _wrong_form(key: str, value: Value) -> str | None:
    """The form that the value of a key should have, if it has another."""
    if key in _MAPS:
        inner = list(value.keys.values())
        is_right = isinstance(value.data, dict | None)
        form = "a list of keys with values"
    else:
        inner = value.items if key in _LISTS else [value]
        is_right = True
        form = "a list of texts" if key in _LISTS else "a text"
    is_right = is_right and all(isinstance(each.data, str | None) for each in inner)
    return None if is_right else form


def _first(levels: list[Value]) -> Callable[[str], Value]:
    """The value for a key at the most specific level that has one."""

    def first(key: str) -> Value:
        found = [level.get(key) for level in levels]
        return next((value for value in found if value.data is not None), found[0])

    return first


def _all(levels: list[Value], key: str) -> list[Value]:
    """The values of lists at all levels, the most specific last, without repetitions."""
    found = [value for level in reversed(levels) for value in level.get(key).items]
    return list({value.text: value for value in found if value.text}.values())


def _merged(levels: list[Value], key: str) -> dict[str, str]:
    return {
        name: value.text
        for level in reversed(levels)
        for name, value in level.get(key).keys.items()
    }


def read(
    path: str,
    environment: Mapping[str, str],
    is_mapped: Callable[[str], bool] = lambda image: False,
) -> Topology:
    """Read a topology. Nodes of other kinds than Linux become guests if their image `is_mapped`.
    NotFound, Usage, DummError."""
    if os.path.isdir(path):
        found = sorted(
            name for name in os.listdir(path) if name.endswith((".clab.yml", ".clab.yaml"))
        )
        if len(found) != 1:
            raise NotFound(f"'{path}' has {len(found)} files '*.clab.yml'", hint="name the file")
        path = os.path.join(path, found[0])
    return _Reader(path, environment, is_mapped).read()
