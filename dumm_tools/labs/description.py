"""The description of a lab, apart from what it has in the kernel: records, startup scripts, and the
defaults of the working set. A lab file is printed from one (`dump`), and two of them are compared
(`plan`).
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from dumm_tools import address, statefile
from dumm_tools.images import cache
from dumm_tools.model import Guest, Iface, State
from dumm_tools.running import startup_file


class Description(NamedTuple):
    """A lab as described. `kernel` and `master` are the working set's own, by name or path; in
    `scripts` there are those of the guests that have one. An interface whose MAC address is "" has
    the one that the working set derives from its name. `exists` is False before `init`. A file may
    say whether the new lab is `isolated`, which layers are created if they do not exist, and
    whether the loaded template is."""

    labdir: str
    state: State
    kernel: str | None = None
    master: str | None = None
    scripts: dict[str, bytes] = {}  # noqa: RUF012
    exists: bool = True
    isolated: bool | None = None
    creatable: frozenset[str] = frozenset()
    creates_template: bool = True


class Setting(NamedTuple):
    """A setting of a guest: the value in its record, the option, and what `guest set` is told to
    return to the default."""

    field: str
    option: str
    reset: tuple[str, ...]


#: In the order in which they are printed.
SETTINGS = tuple(
    Setting(*each)
    for each in (
        ("kernel", "--kernel", ("--kernel", "")),
        ("master", "--master", ("--master", "")),
        ("rootfs", "--rootfs", ("--rootfs", "default")),
        ("memory", "--memory", ("--memory", "")),
        ("init", "--init", ("--init", "")),
        ("args", "--arg", ("--arg", "")),
        ("disks", "--disk", ("--no-disks",)),
        ("files", "--files", ("--no-files",)),
    )
    if each[0] in Guest.fields()
)


def empty(labdir: str) -> Description:
    """The description of a working set that is yet to be created."""
    return Description(labdir, State(id="new", lock_inode=0), exists=False)


def of(labdir: str) -> Description:
    """The description of an existing lab."""
    state = statefile.load(labdir)
    for iface in state.ifaces.values():
        if is_made(state, iface):
            iface.mac = ""
    return Description(
        labdir, state, default(labdir, "linux"), default(labdir, "master"), _scripts(labdir)
    )


def is_made(state: State, iface: Iface) -> bool:
    """Whether a MAC address is what the working set derives from its own id and the name."""
    tried: list[str] = []
    while len(tried) < 3:  # others are taken where two are alike
        tried.append(address.made_mac(f"{state.id} {iface.name}", tried))
        if iface.mac == tried[-1]:
            return True
    return False


def default(labdir: str, name: Literal["linux", "master"]) -> str | None:
    """The kernel or master of a working set: its name in the cache, or else its path."""
    link = os.path.join(labdir, name)
    if not os.path.lexists(link):
        return None
    return named("kernels" if name == "linux" else "masters", os.path.realpath(link))


def named(kind: Literal["kernels", "masters"], path: str) -> str:
    """The name of what is in the cache, or else its path, which has no links."""
    return os.path.basename(path) if cache.lock_of(kind, path) else path


def _scripts(labdir: str) -> dict[str, bytes]:
    try:
        names = os.listdir(os.path.join(labdir, startup_file.DIRECTORY))
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        if not name.startswith("."):
            script = startup_file.read(labdir, name)
            if script is not None:
                found[name] = startup_file.whole(script)
    return found
