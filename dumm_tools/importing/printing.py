"""A topology as a lab file."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dumm_tools import language, messages
from dumm_tools.errors import NotFound
from dumm_tools.importing import script
from dumm_tools.importing.topology import Machine, Topology

Command = Callable[[str], "list[str] | None"]


class Choice(NamedTuple):
    """The user's choices: masters for images, as pairs of a pattern and a name, the memory of
    guests that need no particular amount, and the directory that paths are relative to if they are
    below it."""

    masters: Sequence[tuple[str, str]] = ()
    memory: int = 128 << 20
    base: str = "/"

    def master(self, image: str) -> str | None:
        """The master for an image: that of the whole name, of the name without tag, or of the first
        pattern that matches."""
        for name in (image, untagged(image)):
            for pattern, master in self.masters:
                if pattern == name:
                    return master
        for pattern, master in self.masters:
            if fnmatch.fnmatchcase(image, pattern):
                return master
        return None


def untagged(image: str) -> str:
    """The name of an image without its tag and digest."""
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def text(lab: Topology, choice: Choice, command_of: Command = lambda _: None) -> bytes:
    """The lab file. `command_of` finds the command of the image that a master was made from, or
    raises NotFound if there is no such master."""
    said: set[str] = set()
    lab.settle()
    for machine in lab.machines.values():
        if machine.image and choice.master(machine.image) is None:
            image = f"image '{machine.image}': no --map names a master for it"
            if image not in said:
                lab.note(machine.where, f"{image}; its guests have that of the working set")
            said.add(image)
    return b"".join(_statements(lab, choice, command_of))


def _statements(lab: Topology, choice: Choice, command_of: Command) -> Iterator[bytes]:
    for line in lab.title:
        yield b"# " + messages.printable(" ".join(line.split())).encode() + b"\n"
    yield language.written(["fs", "init"])
    for segment in sorted(lab.segments.values(), key=lambda s: s.name):
        yield language.written(["bridge", "create", segment.name, *segment.options])
        if segment.uplink:
            yield language.written(["bridge", "uplink", segment.name, *segment.uplink])
    machines = sorted(lab.machines.values(), key=lambda m: m.name)
    for machine in machines:
        yield language.written(_guest(machine, choice))
    for machine in machines:
        if lines := _script(lab, machine, choice, command_of):
            words = ["guest", "startup", machine.name, "-"]
            yield language.written(words, script.FIRST + b"".join(lines))
    for machine in machines:
        yield from _ifaces(machine)


def _guest(machine: Machine, choice: Choice) -> list[str]:
    words = ["guest", "create", machine.name]
    if master := choice.master(machine.image):
        words += ["--master", master]
    memory = choice.memory if machine.memory is None else machine.memory
    words += ["--memory", f"{memory >> 20}M"]
    for files in machine.files:
        words += ["--files", _relative(files, choice.base)]
    return words


def _relative(files: str, base: str) -> str:
    """Operands of --files in a form that does not depend on where the lab is, if possible."""
    inside = base.rstrip("/") + "/"
    return files[len(inside) :] if files.startswith(inside) else files


def _script(lab: Topology, machine: Machine, choice: Choice, command_of: Command) -> list[bytes]:
    lines = [*machine.script, *machine.commands]
    command = machine.command
    if lines and machine.serves and not command and (master := choice.master(machine.image)):
        try:
            command = command_of(master) or []
        except NotFound as e:
            lab.note(machine.where, f"{e}: the command of image '{machine.image}' is not run")
    if command:
        return [*machine.script, script.background(command), *machine.commands]
    return lines


def _ifaces(machine: Machine) -> Iterator[bytes]:
    for device, nic in sorted(machine.nics.items(), key=lambda item: _order(item[0])):
        name = f"{machine.name}-{device}"
        words = ["iface", "create", name]
        if nic.segment is not None:
            words += ["--bridge", nic.segment]
        for address in nic.addresses:
            words += ["--address", address]
        if nic.mac is not None:
            words += ["--mac", nic.mac]
        if nic.mtu is not None:
            words += ["--mtu", str(nic.mtu)]
        yield language.written(words)
        if nic.shape:
            yield language.written(["iface", "shape", name, *nic.shape])
        for destination, gateway in nic.routes:
            yield language.written(["iface", "route", "add", name, destination, "--via", gateway])


def _order(device: str) -> tuple[str, int, str]:
    """eth2 comes before eth10, and so does its slot in the guest."""
    head = device.rstrip("0123456789")
    return head, int(device[len(head) :][:9] or 0), device
