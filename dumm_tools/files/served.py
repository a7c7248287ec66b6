"""Changing the stack of a running guest whose root file system is served by virtiofs.

The server shows the guest a directory of directories (contact.SERVED). The new stack is mounted on
another one of these, the guest pivots to it, and the old one is removed. The new one is recorded as
the guest's before the guest is told, but once it has answered: if it reboots, it finds the new
stack, and one that does not answer keeps the old one.
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
from dumm_tools.statefile import load, transaction


def attach(labdir: str, guest: Guest, tree: int) -> str:
    """Mount a tree next to the guest's; return its directory. Those of earlier attempts are
    removed: a guest that uses one of them nevertheless keeps what it has open."""
    place = os.urandom(4).hex()

    def mount() -> None:
        _clear(lambda name: name != guest.root)
        os.mkdir(f".{contact.SERVED}/{place}", dir_fd=_writable())
        mnt.attach(tree, f"{contact.SERVED}/{place}")

    jails.work_in(labdir, guest, mount, "change")
    return place


def use(labdir: str, guest: Guest, place: str, seconds: float, warn: holders.Warn) -> None:
    """Have the guest use that directory from now on, within this many seconds. After an error, the
    directory is gone again, unless the guest `may_use` it."""
    told = False
    try:
        with contact.control(labdir, guest.name, seconds) as control:
            told = True
            _record(labdir, guest.name, place)
            holders.change(control, guest, warn, (contact.ROOT_TAG, place))
    except BaseException as e:
        if told and isinstance(e, holders.Refused):
            _record(labdir, guest.name, guest.root)
        if not told or isinstance(e, holders.Refused):
            with contextlib.suppress(DummError):
                _remove(labdir, guest, lambda name: name == place)
        raise


def may_use(labdir: str, name: str, place: str) -> bool:
    """Whether the guest has been told to use that directory, and has not refused."""
    guest = load(labdir).guests.get(name)
    return guest is not None and guest.boot is not None and guest.root == place


def keep(labdir: str, guest: Guest) -> None:
    """Remove all of the server's directories but the one recorded: a guest keeps what it has open
    in the others."""
    _remove(labdir, guest, lambda name: name != guest.root)


def _remove(labdir: str, guest: Guest, chosen: Callable[[str], bool]) -> None:
    jails.work_in(labdir, guest, lambda: _clear(chosen), "change")


def _clear(chosen: Callable[[str], bool]) -> None:
    top = _writable()
    for name in filter(chosen, os.listdir(contact.SERVED)):
        with contextlib.suppress(OSError):  # it was not mounted yet
            mnt.umount(f"{contact.SERVED}/{name}", detach=True)
        os.rmdir(f".{contact.SERVED}/{name}", dir_fd=top)


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
