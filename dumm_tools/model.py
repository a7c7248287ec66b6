"""The records of a lab: what the user wants (intent) and what the lab has made (ownership).

Plain data, read from and written to state.json by `statefile.py`. Every record keeps unknown keys
in `extra`, so that an older version never drops what a newer one wrote.
"""

from __future__ import annotations

from typing import Any, Literal, Self, dataclass_transform

#: Prefix of the names of all labs' nftables tables.
TABLE_PREFIX = "dumm_"
#: Default memory of a guest, in bytes.
DEFAULT_MEMORY = 64 << 20

Phase = Literal["starting", "running", "paused", "stopping"]
BridgeKind = Literal["auto", "hub", "switch"]
RootFS = Literal["hostfs", "virtiofs"]
#: The directory of a virtiofs that guests boot with.
FIRST_ROOT = "1"
GuestState = Literal["stopped", "starting", "running", "paused", "stopping", "crashed"]


@dataclass_transform(eq_default=False)
class Record:
    """Named values that are kept and change: the parts of the state, and the progress of a job.

    Values that are only passed on are NamedTuples. Each command creates its classes anew, which
    takes 0.01 ms for one of these, 0.1 ms for a NamedTuple and 0.5 ms for a frozen dataclass.
    """

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
        """A copy with other values for some names; lists and objects in it are shared."""
        return type(self)(**{**vars(self), **changed})


class Boot(Record):
    """A start of a guest: kept until an orderly shutdown.

    `nonce` identifies the boot, `host_boot` what it cannot outlive: the host's boot
    (/proc/sys/kernel/random/boot_id) and, in an isolated lab, the holder of its namespaces. Its
    process is recorded in run/NAME/pid.
    """

    nonce: str
    phase: Phase
    host_boot: str
    kernel: str = ""
    master: str = ""
    #: The group that only this boot's process belongs to, and that its taps require; 0: none.
    group: int = 0
    #: The control group that limits its memory; empty if none could be created.
    cgroup: str = ""
    #: The init that it runs, None for none; empty if an earlier version started it, which did not
    #: record this.
    init: str | None = ""
    #: How it reaches its root file system; empty if an earlier version started it: by hostfs.
    rootfs: RootFS | Literal[""] = ""
    #: With virtiofs: the directory of the server that it uses; empty for the first one.
    root: str = ""
    #: The disks that it has, in the form of `Guest.disks`.
    disks: list[str] = []
    extra: dict[str, object] = {}


class Guest(Record):
    """A guest as configured by the user; None stands for the working set's default. `rules` are
    those of `dumm-iface rule` (`routing.Rule`); `disks` are paths, with ":ro" for those that are
    only read (`guests.disks`); `files` are copied to it before each start (`files.given`)."""

    name: str
    kernel: str | None = None
    master: str | None = None
    memory: int = DEFAULT_MEMORY
    init: str | None = None
    args: list[str] = []
    overlays: list[str] = []
    rules: list[dict[str, Any]] = []
    rootfs: RootFS | None = None
    disks: list[str] = []
    files: list[str] = []
    boot: Boot | None = None
    extra: dict[str, object] = {}

    @property
    def root(self) -> str:
        """The directory of the server that the guest uses, if it is served by virtiofs."""
        return (self.boot and self.boot.root) or FIRST_ROOT

    @property
    def is_served(self) -> bool:
        """Whether the root file system of the current boot is served by virtiofs."""
        return self.boot is not None and self.boot.rootfs == "virtiofs"

    @property
    def current_init(self) -> str | None:
        """The init of the current boot; another setting takes effect at the next start."""
        if self.boot is None or self.boot.init == "":
            return self.init
        return self.boot.init


class Iface(Record):
    """A guest's NIC and its tap.

    `slot` is the N of the kernel's vecN, fixed for the interface's lifetime, so that neither names
    nor order depend on when something was plugged in. `tap` is the host's device name. `up` is the
    device's own switch in the guest, whether or not it has a carrier. `routes` are those that were
    added to it (`routing.Route`); `shape` contains the settings of `dumm-iface shape`, in its
    units.
    """

    name: str
    guest: str
    device: str
    slot: int
    tap: str
    mac: str
    bridge: str | None = None
    mtu: int = 1500
    up: bool = True
    addresses: list[str] = []
    routes: list[dict[str, Any]] = []
    shape: dict[str, float] = {}
    extra: dict[str, object] = {}


class Bridge(Record):
    """A segment; its members are the interfaces that refer to it. `uplink` is None, "nat", or "to:"
    followed by the host device that is connected to the segment. `host_access`: whether guests can
    reach the host's own services through "nat", too. If it is not `up`, no member has a carrier;
    nor if it is `cut`: a cable whose other end was pulled. `kind`: the configured one;
    with "auto", the number of its ends decides (`segment.kind`)."""

    name: str
    addresses: list[str] = []
    uplink: str | None = None
    host_access: bool = False
    up: bool = True
    cut: bool = False
    kind: BridgeKind = "auto"
    extra: dict[str, object] = {}


class State(Record):
    """The whole state.json. `id` tags what we make in the kernel; `lock_inode` distinguishes a
    copied working set from the original, whose links, mounts and processes do not belong to the
    copy. `template` is the loaded one, and `fresh` the directory of the copy of it that guests
    write to, if it was loaded so. Not written: `copied` says that it is such a copy, and
    `here` whether this process is inside the lab's namespaces; `epoch` is `liveness.epoch`, once
    determined."""

    id: str
    lock_inode: int
    isolated: bool = False
    template: str | None = None
    fresh: str | None = None
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
        """The interfaces of all guests that have some, in one pass, for callers that need many."""
        found: dict[str, list[Iface]] = {}
        for iface in sorted(self.ifaces.values(), key=lambda i: i.slot):
            found.setdefault(iface.guest, []).append(iface)
        return found

    def members_by_bridge(self) -> dict[str, list[Iface]]:
        """The interfaces connected to all bridges that have some, likewise in one pass."""
        found: dict[str, list[Iface]] = {}
        for iface in sorted(self.ifaces.values(), key=lambda i: i.name):
            if iface.bridge is not None:
                found.setdefault(iface.bridge, []).append(iface)
        return found

    def members_of(self, bridge: str) -> list[Iface]:
        """The interfaces connected to one bridge, by name."""
        return sorted((i for i in self.ifaces.values() if i.bridge == bridge), key=lambda i: i.name)

    @property
    def loaded(self) -> str | None:
        """The directory of the loaded template, in templates/."""
        return self.fresh or self.template

    @property
    def tag(self) -> str:
        """The ifalias of each link of this working set."""
        return f"dumm:{self.id}"

    @property
    def table(self) -> str:
        """The name, or prefix of the names, of our nftables tables."""
        return f"{TABLE_PREFIX}{self.id}"
