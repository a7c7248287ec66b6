"""Replacing the stack of a guest's root with another, also while the guest is running.

The layers of a mounted overlay cannot change. A new overlay is therefore mounted next to it, and
replaces the old one on mount/NAME and, while the guest's kernel is suspended, in the guest's jail;
then the guest mounts it anew, and makes that its root directory. Everything except
`mount_from_jail` is done in the guest's turn, and outside transactions, since it waits for the
guest. One that is served by virtiofs need not stand still (`served`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from dumm_tools.errors import Conflict, NotFound
from dumm_tools.files import choice, holders, jails, mounts, served, workdir
from dumm_tools.linux import mount as mnt
from dumm_tools.linux import namespaces
from dumm_tools.model import Guest, State
from dumm_tools.running import contact, liveness, turn
from dumm_tools.statefile import load

#: Seconds for a suspended kernel to resume.
_GO_TIMEOUT = 1.0


class Fresh(NamedTuple):
    """A new stack, ready to replace another: mounted, with a work directory; None if there is
    nothing to replace, or (`lacking`) if a layer is missing."""

    work: workdir.WorkDir | None
    unsettled: bool  # whether it was so before
    lacking: bool = False


def prepare(labdir: str, state: State, guest: Guest, *, lenient: bool = False) -> Fresh:
    """Mount the stack according to the record next to the one in use. NotFound for a missing layer,
    unless `lenient`; Conflict, DummError."""
    name = guest.name
    before = mounts.is_unsettled(labdir, name)
    if not mounts.is_mounted(labdir, state, name) and not liveness.is_running(labdir, state, name):
        return Fresh(None, before)  # the next mount will use the new stack
    mounts.umount_next(labdir, state, name)  # left by a killed command
    below = choice.resolve_master(labdir, guest).path
    mounts.unsettle(labdir, name)
    try:
        work = mounts.mount_at(labdir, state, guest, below, mounts.next_place(labdir, name))
    except BaseException as e:
        _remove_next(labdir, state, name)
        if lenient and isinstance(e, NotFound):
            return Fresh(None, before, lacking=True)
        if not before:
            mounts.settled(labdir, name)
        raise
    return Fresh(work, before)


def withdraw(labdir: str, state: State, name: str, fresh: Fresh) -> None:
    """Undo a `prepare`."""
    if fresh.work is not None:
        _remove_next(labdir, state, name)
        workdir.remove(fresh.work.entry)
        mounts.note_fuse(labdir, name)
    if not fresh.unsettled:
        mounts.settled(labdir, name)


def _remove_next(labdir: str, state: State, name: str) -> None:
    mounts.umount_next(labdir, state, name)
    with contextlib.suppress(OSError):
        os.rmdir(mounts.next_place(labdir, name))


def replace(
    labdir: str,
    state: State,
    guest: Guest,
    fresh: Fresh,
    seconds: float,
    warn: holders.Warn = lambda _: None,
) -> None:
    """Replace the old stack with the new one, on the host and in the jail of a running guest, which
    is given this many seconds. TimedOut, DummError; if nothing was started, it is rolled back."""
    name = guest.name
    running = liveness.is_running(labdir, state, name)
    if fresh.work is None:
        if fresh.lacking and not running:
            mounts.umount(labdir, state, name)
        elif not fresh.lacking:
            workdir.drop(labdir, name)
        return
    done = False
    place = ""
    with contextlib.ExitStack() as stack:
        trees = []
        try:
            for _ in range(2 if running else 1):
                trees.append(mnt.clone_tree(mounts.next_place(labdir, name)))
                stack.callback(os.close, trees[-1])
                mnt.make_private(trees[-1])  # a guest must not see what the host mounts there
        finally:
            _remove_next(labdir, state, name)

        def here() -> None:
            nonlocal done
            mounts.umount(labdir, state, name)
            mnt.attach(trees[0], mounts.paths(labdir, name)[0])
            done = True

        try:
            if running and guest.is_served:
                with turn.unless_ended(labdir, name):
                    place = served.attach(labdir, guest, trees[1])
                    served.use(labdir, guest, place, seconds, warn)
            elif running:
                with turn.unless_ended(labdir, name), _standing_still(labdir, name, seconds):
                    _into_jail(labdir, guest, trees[1])
                    here()
            if not done:
                here()
        except BaseException:
            # A guest that was told may use the new stack by now, or later: it remains unsettled.
            if not done and not (place and served.may_use(labdir, name, place)):
                withdraw(labdir, state, name, fresh)
            raise
    mounts.note_fuse(labdir, name)
    workdir.drop(labdir, name, keep=fresh.work)
    if running and guest.is_served:
        with turn.unless_ended(labdir, name):
            served.keep(labdir, load(labdir).guests[name])
    elif running:
        with turn.unless_ended(labdir, name), contact.control(labdir, name, seconds) as control:
            holders.change(control, guest, warn)


def settle(labdir: str, name: str, seconds: float, warn: holders.Warn = lambda _: None) -> None:
    """Give a guest the recorded stack, if a command was killed in between, or the guest did not
    answer at the time."""
    state = load(labdir)
    if name not in state.guests or not mounts.is_unsettled(labdir, name):
        return
    guest = state.guests[name]
    now = liveness.guest_state(labdir, state, guest)
    if now in ("starting", "stopping", "paused"):
        raise Conflict(f"guest '{name}' is {now}")
    fresh = prepare(labdir, state, guest)
    replace(labdir, state, guest, fresh, seconds, warn)
    mounts.settled(labdir, name)


@contextlib.contextmanager
def _standing_still(labdir: str, name: str, seconds: float) -> Iterator[None]:
    """Suspend the guest's kernel, so that it does not look."""
    contact.halt(labdir, name, seconds)  # it may be suspended: a command was killed before "go"
    try:
        yield
    finally:
        contact.mconsole(labdir, name, "go", max(seconds, _GO_TIMEOUT))


def mount_from_jail(labdir: str, name: str) -> None:
    """Mount the root of a running guest on mount/NAME."""
    target = mounts.paths(labdir, name)[0]
    guest = load(labdir).guests[name]
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def fetch() -> None:
        tree = mnt.clone_tree(f"{contact.SERVED}/{guest.root}" if guest.is_served else "/guest")
        namespaces.enter_mounts(ours)
        mnt.attach(tree, target)

    try:
        jails.work_in(labdir, guest, fetch, "mount")
    finally:
        os.close(ours)


def _into_jail(labdir: str, guest: Guest, tree: int) -> None:
    """Replace /guest in the jail. Between the two steps there is nothing there: the kernel is
    suspended."""

    def place() -> None:
        mnt.umount("/guest", detach=True)
        mnt.attach(tree, "/guest")

    jails.work_in(labdir, guest, place, "change")
