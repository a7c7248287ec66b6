"""Changing the stack of a running guest whose root file system is served by virtiofs.

The server shows the guest a directory of directories (contact.SERVED). The new stack is mounted on
another one of these, the guest pivots to it, and the old one is removed. The new one is recorded as
the guest's before the guest is told: if it reboots, it finds the new stack.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from dumm_tools.errors import DummError
from dumm_tools.files import holders, jails
from dumm_tools.linux import mount as mnt
from dumm_tools.model import Guest
from dumm_tools.net import nic
from dumm_tools.running import contact
from dumm_tools.statefile import transaction


def attach(labdir: str, guest: Guest, tree: int) -> str:
    """Mount a tree next to the guest's; return its directory."""
    place = os.urandom(4).hex()

    def mount() -> None:
        os.mkdir(f".{contact.SERVED}/{place}", dir_fd=_writable())
        mnt.attach(tree, f"{contact.SERVED}/{place}")

    jails.work_in(labdir, guest, mount, "change")
    return place


def use(labdir: str, guest: Guest, place: str, seconds: float, warn: holders.Warn) -> None:
    """Have the guest use that directory from now on, within this many seconds. Refused: nothing has
    changed, and the directory is gone; after another error, the guest may or may not use it."""
    _record(labdir, guest.name, place)
    try:
        with contact.control(labdir, guest.name, seconds) as control:
            holders.change(control, guest, warn, (contact.ROOT_TAG, place))
    except holders.Refused:
        _record(labdir, guest.name, guest.root)
        with contextlib.suppress(DummError):
            _remove(labdir, guest, lambda name: name == place)
        raise


def keep(labdir: str, guest: Guest) -> None:
    """Remove all of the server's directories but the one recorded: a guest keeps what it has open
    in the others."""
    _remove(labdir, guest, lambda name: name != guest.root)


def _remove(labdir: str, guest: Guest, chosen: Callable[[str], bool]) -> None:
    def remove() -> None:
        top = _writable()
        for name in filter(chosen, os.listdir(contact.SERVED)):
            with contextlib.suppress(OSError):  # it was not mounted yet
                mnt.umount(f"{contact.SERVED}/{name}", detach=True)
            os.rmdir(f".{contact.SERVED}/{name}", dir_fd=top)

    jails.work_in(labdir, guest, remove, "change")


def _writable() -> int:
    """The root directory, which is closed for writing."""
    top = mnt.clone_tree("/")
    mnt.open_for_writing(top)
    return top


def _record(labdir: str, name: str, place: str) -> None:
    with transaction(labdir) as change:
        guest = change.state.guests.get(name)
        if guest is None or guest.boot is None:
            return
        guest.boot.root = place
        change.save()
        contact.write_boot(labdir, guest, nic.boot_records(change.state, name))
