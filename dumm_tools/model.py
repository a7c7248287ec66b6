"""The records of a lab: what the user wants (intent) and what is ours (ownership).

Plain data, read from and written to state.json by `statefile.py`. Every record keeps the keys
it does not know in `extra`, so that an older tool never drops what a newer one wrote.
"""

from __future__ import annotations

from typing import Any, Literal, Self, dataclass_transform

#: What the names of all labs' nftables tables begin with.
TABLE_PREFIX = "dumm_"
#: Bytes of memory a guest gets when nothing is said.
DEFAULT_MEMORY = 64 << 20

Phase = Literal["starting", "running", "paused", "stopping"]
GuestState = Literal["stopped", "starting", "running", "paused", "stopping", "crashed"]


@dataclass_transform(eq_default=False)
class Record:
    """Named values: all that is used of a dataclass. Each command makes these classes anew, and
    dataclasses would take 3 ms of the 20 of a reading verb."""

    def __init__(self, *values: object, **named: object) -> None:
        fields, own = self.fields(), vars(self)
        own.update(zip(fields, values, strict=False))
        own.update(named)
        for name in fields:
            if name not in own:
                if not hasattr(type(self), name):
                    raise TypeError(f"{type(self).__name__} needs '{name}'")
                value = getattr(type(self), name)
                own[name] = value.copy() if isinstance(value, list | dict) else value
        if len(own) != len(fields) or len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} has no such values: {', '.join(named)}")

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The names of the values, in order."""
        return tuple(cls.__annotations__)

    def but(self, **changed: Any) -> Self:
        """The same with other values for some names; a list or object in it is the same, too."""
        return type(self)(**{**vars(self), **changed})


class Boot(Record):
    """One start of a guest: kept until an orderly stop takes it away.

    `nonce` names the boot, `host_boot` what it lives and dies with: the host's boot
    (/proc/sys/kernel/random/boot_id) and, in an isolated lab, the holder of its namespaces.
    Which process it is stands in run/NAME/pid.
    """

    nonce: str
    phase: Phase
    host_boot: str
    kernel: str = ""
    master: str = ""
    #: The group that this boot's process alone is in, and that its taps ask for; 0: none.
    group: int = 0
    #: The control group that bounds its memory; empty where none could be made.
    cgroup: str = ""
    extra: dict[str, object] = {}


class Guest(Record):
    """A guest as the user described it; None stands for the working set's default."""

    name: str
    kernel: str | None = None
    master: str | None = None
    memory: int = DEFAULT_MEMORY
    init: str | None = None
    args: list[str] = []
    overlays: list[str] = []
    boot: Boot | None = None
    extra: dict[str, object] = {}


class Iface(Record):
    """A guest's NIC and its tap.

    `slot` is the N of the kernel's vecN, fixed for the interface's life, so that neither name
    nor order depend on what was plugged when. `tap` is the host's device name. `up` is the
    wanted state of the guest's device; it follows the cable. A route has `dest` and perhaps
    `via`; `shape` is what `dumm-iface shape` was told, in its units.
    """

    name: str
    guest: str
    device: str
    slot: int
    tap: str
    mac: str
    bridge: str | None = None
    mtu: int = 1500
    up: bool = False
    addresses: list[str] = []
    routes: list[dict[str, str]] = []
    shape: dict[str, float] = {}
    extra: dict[str, object] = {}


class Bridge(Record):
    """A segment; its members are the interfaces that name it. `uplink` is None, "nat", or "to:"
    and the host device that is in the segment. `host_access`: by "nat" guests reach the host's
    own services, too."""

    name: str
    addresses: list[str] = []
    uplink: str | None = None
    host_access: bool = False
    extra: dict[str, object] = {}


class Outline(Record):
    """What is asked of state.json before anything else: is the lab isolated, and has a bridge the
    uplink "nat"?"""

    isolated: bool = False
    has_nat: bool = False


class State(Record):
    """All of state.json. `id` tags what we make in the kernel; `lock_inode` tells a copied
    working set from the original, whose links, mounts and processes are not the copy's.
    `template` is the one that is loaded. Not written: `copied` says that it is such a copy, and
    `here` whether this process is where the lab's links and mounts are; `epoch` is
    `liveness.epoch`, once asked for."""

    id: str
    lock_inode: int
    isolated: bool = False
    template: str | None = None
    guests: dict[str, Guest] = {}
    ifaces: dict[str, Iface] = {}
    bridges: dict[str, Bridge] = {}
    extra: dict[str, object] = {}
    copied: bool = False
    here: bool = True
    epoch: str | None = None

    def ifaces_of(self, guest: str) -> list[Iface]:
        """The interfaces of one guest, by slot."""
        return sorted((i for i in self.ifaces.values() if i.guest == guest), key=lambda i: i.slot)

    def ifaces_by_guest(self) -> dict[str, list[Iface]]:
        """The interfaces of all guests that have some: in one pass, for what asks for many."""
        found: dict[str, list[Iface]] = {}
        for iface in sorted(self.ifaces.values(), key=lambda i: i.slot):
            found.setdefault(iface.guest, []).append(iface)
        return found

    def members_by_bridge(self) -> dict[str, list[Iface]]:
        """The interfaces connected to all bridges that have some; in one pass likewise."""
        found: dict[str, list[Iface]] = {}
        for iface in sorted(self.ifaces.values(), key=lambda i: i.name):
            if iface.bridge is not None:
                found.setdefault(iface.bridge, []).append(iface)
        return found

    def members_of(self, bridge: str) -> list[Iface]:
        """The interfaces connected to one bridge, by name."""
        return sorted((i for i in self.ifaces.values() if i.bridge == bridge), key=lambda i: i.name)

    @property
    def tag(self) -> str:
        """The ifalias that each link of this working set bears."""
        return f"dumm:{self.id}"

    @property
    def table(self) -> str:
        """The name that our nftables tables bear, or begin with."""
        return f"{TABLE_PREFIX}{self.id}"
