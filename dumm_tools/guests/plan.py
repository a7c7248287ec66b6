"""The plan of a boot, computed from the records before anything is created."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from dumm_tools.guests import arguments, disks, limits
from dumm_tools.guests.program_files import ProgramFiles
from dumm_tools.images.kernel import Kernel
from dumm_tools.images.master import Master
from dumm_tools.linux import namespaces
from dumm_tools.model import Guest, State

if TYPE_CHECKING:
    from dumm_tools.images.virtiofsd import Server


class Parts(NamedTuple):
    """The kernel and master of a guest, and the server of its root file system unless that is
    hostfs, with locks that prevent their deletion from the cache, and the files of kernel and
    server; its disks, open and locked; the drivers in the kernel, and its patches."""

    kernel: Kernel
    release: tuple[int, ...]
    master: Master
    server: Server | None = None
    locks: tuple[int, ...] = ()
    disks: tuple[int, ...] = ()
    drivers: frozenset[str] = frozenset()
    patches: tuple[str, ...] = ()
    kernel_files: ProgramFiles = ProgramFiles()
    server_files: ProgramFiles | None = None


class Plan(NamedTuple):
    """One boot of a guest. `group` and `user` are ids that no other guest has, or 0 if there are
    none to spare."""

    name: str
    nonce: str
    kernel: Kernel
    master: Master
    server: Server | None
    memory: int
    group: int
    user: int
    arguments: tuple[str, ...]
    disks: tuple[str, ...] = ()


def make(state: State, guest: Guest, parts: Parts, nonce: str) -> Plan:
    """Plan the boot `nonce` of a guest."""
    group = _own_group(state)
    user = group if group and namespaces.has_id("uid", group) else 0
    args = arguments.of_boot(
        guest,
        nonce,
        release=parts.release,
        own_user=user != 0,
        served=parts.server is not None,
        files=limits.scarce_files(guest.memory) if parts.server is not None else None,
        drivers=parts.drivers,
        patches=parts.patches,
    )
    args += [disks.argument(n, disks.parse(text)) for n, text in enumerate(guest.disks)]
    return Plan(
        name=guest.name,
        nonce=nonce,
        kernel=parts.kernel,
        master=parts.master,
        server=parts.server,
        memory=guest.memory,
        group=group,
        user=user,
        arguments=tuple(args),
        disks=tuple(guest.disks),
    )


def _own_group(state: State) -> int:
    """A group id that no other guest has, or 0 if the lab has only one."""
    groups = namespaces.spare_groups()
    taken = {g.boot.group for g in state.guests.values() if g.boot}
    while groups:
        # Random: labs on the host's network are not aware of each other.
        group = groups[int.from_bytes(os.urandom(8), "big") % len(groups)]
        if group not in taken:
            return group
    return 0
