"""Resolve what a guest is started from: its kernel, its master, its tree."""

from __future__ import annotations

import os

from dumm_tools.errors import NotFound
from dumm_tools.files import mounts
from dumm_tools.images import kernel, master
from dumm_tools.model import Guest, State


def resolve_kernel(labdir: str, guest: Guest) -> kernel.Kernel:
    """The guest's own kernel, or else the working set's, which the first call sets to the newest
    pack in the cache. Call this inside a transaction."""
    if guest.kernel is not None:
        return kernel.resolve(guest.kernel)
    link = os.path.join(labdir, "linux")
    if os.path.lexists(link):
        return kernel.resolve(os.path.realpath(link))
    found = kernel.default()
    if found is None:
        raise NotFound("there is no kernel for guests", hint="dumm-fs kernel fetch")
    os.symlink(found.path, link)
    return found


def resolve_master(labdir: str, guest: Guest) -> master.Master:
    """The guest's own master, or else the working set's, which the first call sets to the one in
    the cache. Call this inside a transaction."""
    if guest.master is not None:
        return master.resolve(guest.master)
    link = os.path.join(labdir, "master")
    if os.path.lexists(link):
        return master.resolve(os.path.realpath(link))
    found = master.default()
    if found is None:
        if master.list_():
            raise NotFound(
                "there are several masters, and none is the default",
                hint="choose one with --master",
            )
        raise NotFound("there is no master for guests", hint="dumm-fs master build busybox")
    os.symlink(found.path, link)
    return found


def mount(labdir: str, state: State, guest: Guest) -> bool:
    """Mount the guest's tree; return False if it was already mounted."""
    return mounts.mount(labdir, state, guest, resolve_master(labdir, guest).path)


def leave_master(labdir: str, state: State, guest: Guest, path: str) -> bool:
    """Unmount a tree whose guest was switched to another master, `path`, while it was running."""
    if guest.boot is None or guest.boot.master in ("", path):
        return False
    return mounts.umount(labdir, state, guest.name)
