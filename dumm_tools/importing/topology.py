"""A lab that is being read from another tool's files, in our words, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Callable

from dumm_tools import messages, names
from dumm_tools.errors import Usage
from dumm_tools.importing import naming
from dumm_tools.model import Record

#: More than labs of people have: each becomes a kernel, or a device of the host.
GUESTS_MAX = 4000
LINKS_MAX = 40000
#: Settings that many machines share, and a script for all of them, can be written this often.
_TEXT_MAX = 32 << 20


class Nic(Record):
    """An interface of a guest; `segment` is the name of a bridge."""

    device: str
    segment: str | None = None
    mac: str | None = None
    mtu: int | None = None
    addresses: list[str] = []
    #: Destinations and gateways.
    routes: list[tuple[str, str]] = []
    #: The options of `dumm-iface shape`.
    shape: list[str] = []


class Segment(Record):
    """A bridge; `options` are those of `dumm-bridge create`."""

    name: str
    options: list[str] = []
    uplink: list[str] = []


class Machine(Record):
    """A guest. Its startup script consists of `script`, its command, and `commands`."""

    name: str
    #: Its name in the files that are read.
    said: str
    #: Where it is described.
    where: str
    image: str = ""
    memory: int | None = None
    #: Operands of --files.
    files: list[str] = []
    script: list[bytes] = []
    commands: list[bytes] = []
    #: The words of a command that runs for as long as the guest does.
    command: list[str] = []
    #: Without one, the image's own command is run.
    serves: bool = False
    nics: dict[str, Nic] = {}

    def give(self, path: str, place: str = "/") -> None:
        """Give it a file or directory of the host, at a place. Usage for one that cannot be said: a
        place begins after the last `:/`. Control characters would reach the terminal of somebody
        who looks at the lab file."""
        if ":/" in place:
            raise Usage(f"'{place}' contains ':/'")
        for text in (path, place):
            if messages.printable(text) != text:
                raise Usage(f"'{text}' contains control characters")
        self.files.append(path if place == "/" and ":/" not in path else f"{path}:{place}")


class Topology:
    """The machines and segments, by their names in the files that are read; `notes` has a line for
    each thing that is lost."""

    def __init__(self) -> None:
        self.title: list[str] = []
        self.machines: dict[str, Machine] = {}
        self.segments: dict[str, Segment] = {}
        self.notes: list[str] = []
        self._noted: set[str] = set()
        self._length = 0
        self._guests = naming.Names("guest", self.note)
        self._bridges = naming.Names("bridge", self.note)

    def note(self, where: str, text: str) -> None:
        """Say once that something is not carried over, or not as it was; `where` is FILE or
        FILE:LINE."""
        line = f"{where}: {text}"
        if line not in self._noted:
            self._noted.add(line)
            self.notes.append(line)

    def spend(self, length: int, where: str) -> None:
        """Count text that becomes part of the lab file. Usage if it is too much in all."""
        self._length += length
        if self._length > _TEXT_MAX:
            raise Usage(f"{where}: the lab file would be larger than {_TEXT_MAX >> 20} MiB")

    def machine(self, said: str, where: str) -> Machine:
        """The machine of this name, made if necessary."""
        if said not in self.machines:
            naming.bound(len(self.machines), GUESTS_MAX, where, "machines")
            self.machines[said] = Machine(self._guests.of(said, where), said, where)
        return self.machines[said]

    def segment(self, said: str, where: str) -> Segment:
        """The segment of this name, made if necessary."""
        if said not in self.segments:
            naming.bound(len(self.segments), LINKS_MAX, where, "segments")
            self.segments[said] = Segment(self._bridges.of(said, where))
        return self.segments[said]

    def between(self, ends: tuple[str, str], where: str) -> Segment:
        """A new segment for a cable, named after the machines at its ends."""
        key = "\0".join((*ends, str(len(self.segments))))
        naming.bound(len(self.segments), LINKS_MAX, where, "links")
        self.segments[key] = Segment(self._bridges.of_cable(ends))
        return self.segments[key]

    def nic(self, machine: Machine, said: str, where: str) -> Nic | None:
        """A new interface of a machine; None, and a note, if it has one of that name."""
        device = naming.device(said)
        if device in machine.nics:
            self.note(where, f"'{machine.said}' has two interfaces '{said}': the first one is kept")
            return None
        if device != said:
            self.note(where, f"interface '{said}' of '{machine.said}' is named '{device}'")
        machine.nics[device] = Nic(device)
        return machine.nics[device]

    def settle(self) -> None:
        """Rename segments that have the names of interfaces, whose taps are devices of the host,
        too."""
        taps = {
            names.tap(f"{machine.name}-{device}")
            for machine in self.machines.values()
            for device in machine.nics
        }
        renamed: dict[str | None, str] = {}
        for segment in self.segments.values():
            old = segment.name
            while segment.name in taps:
                segment.name = self._bridges.instead(segment.name)
            if segment.name != old:
                renamed[old] = segment.name
        for machine in self.machines.values() if renamed else ():
            for nic in machine.nics.values():
                nic.segment = renamed.get(nic.segment, nic.segment)


Note = Callable[[str, str], None]
