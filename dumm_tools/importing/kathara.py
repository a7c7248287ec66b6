"""Kathara's labs (https://www.kathara.org): a directory with lab.conf, NAME.startup and NAME/."""

from __future__ import annotations

import os
import posixpath
import re
import shlex

from dumm_tools import address
from dumm_tools.errors import NotFound, Usage
from dumm_tools.importing import katharaboot, script
from dumm_tools.importing.sizes import memory
from dumm_tools.importing.source import Directory, Outside
from dumm_tools.importing.topology import Machine, Topology
from dumm_tools.model import Record

CONF = "lab.conf"
_OPTION = re.compile(
    r"(?P<name>[a-z0-9_]{1,30})\[(?P<key>\w+)\]="
    r"(?:([\"'])(?P<quoted>[^\"']+)\3(?:\s+#.*)?|(?P<plain>[^\"']+?)(?:\s#.*)?)"
)
_METADATA = re.compile(r"(LAB_[A-Z]+)=(.*)")
_IMAGE = "kathara/base"
_TRUE, _FALSE = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")
#: Options that make no difference here: terminals are opened when needed, guests may do anything.
_IGNORED = ("num_terms", "shell", "privileged")
_SEPARATE = "guests have kernels of their own"
#: The network of bridged machines: the host, then the machines.
_NAT_HOST, _NAT_LENGTH = "100.64.0.1", 16
#: The NICs of guests refuse that while they are up, and get the address when they are made.
_SET_MAC = re.compile(
    r"^[ \t]*(?:ip link set (?:dev )?(?P<dev>eth[0-9]+) address (?P<mac>[0-9a-f:]{17})"
    r"|ifconfig (?P<dev2>eth[0-9]+) hw ether (?P<mac2>[0-9a-f:]{17}))[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


class _Device(Record):
    """The options of a device."""

    image: str = _IMAGE
    ipv6: bool = False
    bridged: bool = False
    sysctls: dict[str, str] = {}
    env: dict[str, str] = {}
    execs: list[str] = []


class _Reader:
    def __init__(self, path: str) -> None:
        self.directory = Directory(path)
        self.lab = Topology()
        self.devices: dict[str, _Device] = {}
        self.bridged = 0

    def note(self, line: int | None, text: str, file: str = CONF) -> None:
        self.lab.note(file if line is None else f"{file}:{line}", text)

    def conf(self) -> None:
        try:
            text = self.directory.read(CONF)
        except Outside as e:
            raise Usage(str(e)) from None
        if text is None:
            raise NotFound(f"no '{CONF}' in '{self.directory.said}'")
        for number, raw in enumerate(text.split("\n"), 1):
            line = raw.strip()
            if found := _OPTION.fullmatch(line):
                value = found["quoted"] or found["plain"]
                self._option(number, found["name"], found["key"], value.strip())
            elif found := _METADATA.match(line):
                self._metadata(found[1], found[2])
            elif line and not line.startswith("#"):
                raise Usage(f"{CONF}:{number}: not a line of Kathara: {line[:200]!r}")

    def _metadata(self, key: str, value: str) -> None:
        value = value.strip().strip("\"'")
        if key in ("LAB_NAME", "LAB_DESCRIPTION", "LAB_AUTHOR", "LAB_VERSION"):
            self.lab.title.append(f"{key.removeprefix('LAB_').capitalize()}: {value}")

    def _option(self, line: int, name: str, key: str, value: str) -> None:
        if name in ("shared", "_test"):
            raise Usage(f"{CONF}:{line}: '{name}' cannot be the name of a device")
        machine = self.lab.machine(name, f"{CONF}:{line}")
        device = self.devices.setdefault(name, _Device())
        if key.isdecimal() and key.isascii():
            self._interface(line, machine, int(key[:9]), value)
        elif key == "image":
            device.image = value
            machine.where = f"{CONF}:{line}"
        elif key == "mem":
            size = f"{value}m" if value.isdecimal() else value
            machine.memory = memory(size, lambda text: self.note(line, text))
        elif key == "exec":
            device.execs.append(value)
        elif key == "ipv6":
            device.ipv6 = self._is_true(line, value)
        elif key == "bridged":
            device.bridged = self._is_true(line, value)
        elif key in ("sysctl", "env"):
            setting, equals, value = value.partition("=")
            if not equals or not re.fullmatch(r"[\w.-]+", setting):
                raise Usage(f"{CONF}:{line}: '{key}' without a '='")
            (device.sysctls if key == "sysctl" else device.env)[setting.strip()] = value.strip()
        elif key == "volume":
            self._volume(line, machine, value)
        elif key == "port":
            text = "published ports have no equivalent; guests are reached from the host"
            self.note(line, f"{name}[port]={value}: {text}")
        elif key in ("cpus", "ulimit"):
            self.note(line, f"{name}[{key}]={value}: {_SEPARATE}, without such limits")
        elif key not in _IGNORED:
            self.note(line, f"{name}[{key}]={value} is not carried over")

    def _is_true(self, line: int, value: str) -> bool:
        if value.lower() not in (*_TRUE, *_FALSE):
            raise Usage(f"{CONF}:{line}: {value!r} is neither true nor false")
        return value.lower() in _TRUE

    def _interface(self, line: int, machine: Machine, number: int, value: str) -> None:
        domain, _, mac = value.partition("/")
        if not re.fullmatch(r"\w+", domain):
            raise Usage(f"{CONF}:{line}: bad collision domain {domain!r}")
        nic = self.lab.nic(machine, f"eth{number}", f"{CONF}:{line}")
        if nic is None:
            return
        nic.segment = self.lab.segment(domain, f"{CONF}:{line}").name
        if mac:
            try:
                nic.mac = address.mac(mac)
            except Usage as e:
                self.note(line, f"{e}: not carried over")

    def _volume(self, line: int, machine: Machine, value: str) -> None:
        parts = [part for part in value.split("|") if part]
        if len(parts) not in (2, 3) or not parts[1].startswith("/"):
            raise Usage(f"{CONF}:{line}: bad volume {value!r}")
        self._files(f"{CONF}:{line}", machine, parts[0], parts[1])

    def _files(self, where: str, machine: Machine, name: str, place: str = "/") -> bool:
        try:
            path = self.directory.place(name)
            if path is not None:
                machine.give(path, posixpath.normpath(place))
        except Usage as e:
            self.lab.note(where, f"{e}: not carried over")
            return False
        if path is None:
            self.lab.note(where, f"no '{name}' in the lab: not carried over")
            return False
        if place != "/":
            what = f"'{name}' is copied to '{place}' at each start, not shared with the host"
            self.lab.note(where, what)
        return True

    def finish(self) -> None:
        """Add what depends on all options of a device, and on its files."""
        shared = self._script("shared")
        for name, device in self.devices.items():
            machine = self.lab.machines[name]
            machine.image = device.image
            if device.bridged:  # its interface comes after the others
                self._bridge(machine)
            lines = katharaboot.beginning(name, device.ipv6, device.sysctls)
            lines += script.exports(device.env)
            if self._is_directory(name) and self._files(CONF, machine, name):
                own = os.path.join(self.directory.path, name)
                lines += katharaboot.rights(own)
            if self._is_directory("shared"):
                self._files("shared", machine, "shared", "/shared")
            self.lab.spend(len(shared), "shared.startup")
            own_script = os.fsencode(self._with_macs(machine, os.fsdecode(self._script(name))))
            if shared:
                lines += script.section("shared.startup", shared, apart=bool(own_script))
            if own_script:
                apart = bool(device.execs)
                lines += script.section(f"{name}.startup", own_script, apart=apart)
            if device.execs:
                text = "".join(f"{line}\n" for line in device.execs)
                lines += script.section("exec", os.fsencode(text), apart=False)
            machine.script = lines

    def _with_macs(self, machine: Machine, text: str) -> str:
        """Take MAC addresses that a script sets as those of the interfaces."""

        def taken(found: re.Match[str]) -> str:
            nic = machine.nics.get(found["dev"] or found["dev2"])
            try:
                mac = address.mac(found["mac"] or found["mac2"])
            except Usage:
                return found[0]
            if nic is None:
                return found[0]
            nic.mac = mac
            return f"# {found[0].strip()} (the interface has it)"

        return _SET_MAC.sub(taken, text)

    def _bridge(self, machine: Machine) -> None:
        """Connect a machine to the outside, as by Docker's bridge."""
        segment = self.lab.segment("nat", CONF)
        segment.options = ["--address", f"{_NAT_HOST}/{_NAT_LENGTH}"]
        segment.uplink = ["--nat"]
        numbers = [int(each.removeprefix("eth")) for each in machine.nics]
        nic = self.lab.nic(machine, f"eth{max(numbers, default=-1) + 1}", CONF)
        assert nic is not None
        self.bridged += 1
        high, low = divmod(self.bridged + 1, 256)
        nic.segment = segment.name
        nic.addresses = [f"100.64.{high}.{low}/{_NAT_LENGTH}"]
        nic.routes = [("default", _NAT_HOST)]

    def _is_directory(self, name: str) -> bool:
        return os.path.isdir(os.path.join(self.directory.path, name))

    def _script(self, name: str) -> bytes:
        file = f"{name}.startup"
        try:
            text = self.directory.read(file)
        except Usage as e:
            self.lab.note(file, f"{e}: not carried over")
            return b""
        self.lab.spend(len(text or ""), file)
        return os.fsencode(text or "")

    def rest(self) -> None:
        """Report files that have no equivalent."""
        for name in sorted(os.listdir(self.directory.path)):
            stem, dot, kind = name.rpartition(".")
            if kind == "shutdown" and dot:
                self.note(None, "scripts at shutdown have no equivalent", name)
            elif name == "lab.dep":
                self._dependencies()
            elif name == "lab.ext":
                self._external()
            elif kind == "startup" and dot and stem != "shared" and stem not in self.devices:
                self.note(None, f"there is no device '{stem}' in {CONF}", name)

    def _dependencies(self) -> None:
        for number, line in enumerate((self.directory.read("lab.dep") or "").split("\n"), 1):
            if line.strip() and not line.strip().startswith("#"):
                text = f"guests start side by side, not in order: {line.strip()[:200]}"
                self.note(number, text, "lab.dep")

    def _external(self) -> None:
        for number, line in enumerate((self.directory.read("lab.ext") or "").split("\n"), 1):
            words = line.split()
            if len(words) == 2 and not line.startswith("#") and words[0] in self.lab.segments:
                bridge = self.lab.segments[words[0]].name
                command = shlex.join(["dumm-bridge", "uplink", bridge, "--to", words[1]])
                text = f"a device of the host is not connected by itself: {command}"
                self.note(number, text, "lab.ext")
            elif line.strip() and not line.startswith("#"):
                self.note(number, f"not carried over: {line.strip()[:200]}", "lab.ext")


def read(path: str) -> Topology:
    """Read a lab. NotFound, Usage, DummError."""
    reader = _Reader(path)
    reader.lab.title.append(
        f"Imported from Kathara's lab '{os.path.basename(reader.directory.path)}'"
    )
    reader.conf()
    reader.finish()
    reader.rest()
    return reader.lab
