"""Resolve what a guest is started from: its kernel, its master, its tree."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from dumm_tools.errors import NotFound
from dumm_tools.files import mounts
from dumm_tools.images import kernel, master
from dumm_tools.model import Guest, State

T = TypeVar("T", kernel.Kernel, master.Master)


def resolve_kernel(labdir: str, guest: Guest) -> kernel.Kernel:
    """The guest's own kernel, or else the working set's, which the first call sets to the newest
    pack in the cache. Call this inside a transaction."""
    return _resolved(labdir, guest.kernel, "linux", kernel.resolve, _default_kernel)


def resolve_master(labdir: str, guest: Guest) -> master.Master:
    """The guest's own master, or else the working set's, which the first call sets to the one in
    the cache. Call this inside a transaction."""
    return _resolved(labdir, guest.master, "master", master.resolve, _default_master)


def _resolved(
    labdir: str, own: str | None, name: str, resolve: Callable[[str], T], default: Callable[[], T]
) -> T:
    """Resolve the name in the record, or else the working set's link, created if necessary."""
    if own is not None:
        return resolve(own)
    link = os.path.join(labdir, name)
    if os.path.lexists(link):
        return resolve(os.path.realpath(link))
    found = default()
    os.symlink(found.path, link)
    return found


def _default_kernel() -> kernel.Kernel:
    found = kernel.default()
    if found is None:
        raise NotFound("there is no kernel for guests", hint="dumm-fs kernel fetch")
    return found


def _default_master() -> master.Master:
    found = master.default()
    if found is not None:
        return found
    if master.list_():
        raise NotFound(
            "there are several masters, and none is the default",
            hint="choose one with --master",
        )
    raise NotFound("there is no master for guests", hint="dumm-fs master build busybox")


def mount(labdir: str, state: State, guest: Guest) -> bool:
    """Mount the guest's tree; return False if it was already mounted."""
    return mounts.mount(labdir, state, guest, resolve_master(labdir, guest).path)


def leave_master(labdir: str, state: State, guest: Guest, path: str) -> bool:
    """Unmount a tree whose guest was switched to another master, `path`, while it was running."""
    if guest.boot is None or guest.boot.master in ("", path):
        return False
    return mounts.umount(labdir, state, guest.name)
