"""The stack below a guest's root, changed: layers come and go, also while the guest runs.

A mounted overlay cannot change its layers. So a new one is mounted, and takes the old one's place
at mount/NAME and, while the guest's kernel stands still, in the guest's jail; then the guest
forgets what it had cached.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

from dumm_tools import cache, live, origin, overlay, reach, view, workdir
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.linux import mount as mnt
from dumm_tools.linux import namespaces, pinned
from dumm_tools.model import Guest, State
from dumm_tools.state import Transaction, load, transaction

Layers = list[str]


def _directory(path: str) -> str:
    """A layer as it is recorded: absolute, its links resolved. NotFound, Usage."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise NotFound(f"no directory '{path}'")
    if real == "/" or "\0" in real:
        raise Usage(f"'{path}' cannot be a layer")
    return real


def _refuse_overlap(root: str, state: State, guest: Guest, said: str, layer: str) -> None:
    """Usage where the guest would write into what is no layer of its own: into other layers, the
    working set, the cache."""
    taken = [os.path.join(root, name) for name in ("run", "mount")]
    taken += [cache.directory("masters"), cache.directory("kernels")]
    with contextlib.suppress(NotFound):  # it may be there when it is needed
        below = origin.resolve_master(root, guest).path
        taken += [each for each in overlay.layers(root, state, guest, below)]
    for other in taken:
        real = os.path.realpath(other)
        if real == layer and other in guest.overlays:
            continue  # it moves to the top
        if f"{real}/".startswith(f"{layer}/") or f"{layer}/".startswith(f"{real}/"):
            raise Usage(
                f"'{said}' cannot be a layer of guest '{guest.name}': it overlaps '{other}'"
            )


def add(root: str, names: Iterable[str], directory: str) -> None:
    """Put a directory on top of guests' stacks; one that is there moves to the top. All or none."""
    layer = _directory(directory)

    def check(state: State, guests: list[Guest]) -> None:
        for guest in guests:
            _refuse_overlap(root, state, guest, directory, layer)

    _edit(root, names, check, lambda old: [layer, *(d for d in old if d != layer)])


def delete(root: str, names: Iterable[str], directory: str) -> None:
    """Take a directory from guests' stacks. NotFound where it is in none. All or none."""
    # It need not be there any more, nor need what was a directory once be one still.
    layers = {os.path.realpath(directory), os.path.abspath(directory)}

    def check(_state: State, guests: list[Guest]) -> None:
        if not any(layers.intersection(g.overlays) for g in guests):
            named = ", ".join(g.name for g in guests)
            raise NotFound(f"'{directory}' is no layer of guest '{named}'")

    _edit(root, names, check, lambda old: [d for d in old if d not in layers], lenient=True)


def pop(root: str, names: Iterable[str]) -> None:
    """Take the newest directory from guests' stacks. NotFound where there is none. All or none."""

    def check(_state: State, guests: list[Guest]) -> None:
        if not any(g.overlays for g in guests):
            raise NotFound(f"guest '{', '.join(g.name for g in guests)}' has no overlays")

    _edit(root, names, check, lambda old: old[1:], lenient=True)


def list_(root: str, name: str) -> Layers:
    """The directories added to a guest's stack, the newest first."""
    return list(view.get(load(root), name).overlays)


def _edit(
    root: str,
    names: Iterable[str],
    check: Callable[[State, list[Guest]], None],
    how: Callable[[Layers], Layers],
    *,
    lenient: bool = False,
) -> None:
    with transaction(root) as change:
        settle(root, change.state)
        guests = [view.get(change.state, name) for name in dict.fromkeys(names)]
        check(change.state, guests)

        def apply() -> None:
            for guest in guests:
                guest.overlays = how(guest.overlays)

        restack(root, change, guests, apply, lenient=lenient)


def settle(root: str, state: State) -> None:
    """Give guests the stacks that are recorded, where a command was killed in between. Called
    inside a transaction."""
    for guest in state.guests.values():
        if not overlay.is_unsettled(root, guest.name):
            continue
        now = live.guest_state(root, state, guest)
        if now in ("starting", "stopping", "paused"):
            continue
        with contextlib.suppress(DummError, OSError):
            if now == "running":
                with contextlib.suppress(DummError):  # it may have been left standing still
                    reach.mconsole(root, guest.name, "go")
            _swap(root, state, guest)
            overlay.settled(root, guest.name)


def restack(
    root: str,
    change: Transaction,
    guests: list[Guest],
    edit: Callable[[], object],
    *,
    lenient: bool = False,
) -> None:
    """Do `edit` on the records, then give `guests` the stacks that follow from them; a failure
    gives all of them their old stacks back. Conflict for a guest that is just starting, stopping
    or paused, before anything is done.

    With `lenient` a stack that still lacks a directory is recorded all the same: else, of two
    that are gone, neither could be taken away.
    """
    state = change.state
    for guest in guests:
        now = live.guest_state(root, state, guest)
        if now in ("starting", "stopping", "paused"):
            raise Conflict(f"guest '{guest.name}' is {now}")
    old = [list(g.overlays) for g in guests]
    template = state.template
    edit()
    done: list[Guest] = []
    waiting: list[Guest] = []
    try:
        for guest in guests:
            done.append(guest)
            overlay.unsettle(root, guest.name)
            try:
                _swap(root, state, guest)
            except NotFound:
                if not lenient:
                    raise
                waiting.append(guest)
                if live.guest_state(root, state, guest) != "running":
                    overlay.umount(root, state, guest.name)
        change.save()
    except BaseException:
        state.template = template
        for guest, layers in zip(guests, old, strict=True):
            guest.overlays = layers
        for guest in done:
            with contextlib.suppress(DummError, OSError):
                _swap(root, state, guest)
                overlay.settled(root, guest.name)
        raise
    for guest in done:
        if guest not in waiting:
            overlay.settled(root, guest.name)


def _swap(root: str, state: State, guest: Guest) -> None:
    """Mount the guest's stack anew in the place of the old one, here and in its jail."""
    name = guest.name
    running = live.guest_state(root, state, guest) == "running"
    if not overlay.is_mounted(root, state, name) and not running:
        workdir.drop(root, name)
        return  # the next mount takes the new stack
    target = overlay.paths(root, name)[0]
    fresh = overlay.next_place(root, name)
    overlay.umount_next(root, state, name)  # of a command that was killed
    work = overlay.mount_at(root, state, guest, origin.resolve_master(root, guest).path, fresh)
    try:
        here, there = mnt.clone_tree(fresh), mnt.clone_tree(fresh)
    finally:
        mnt.umount(fresh, detach=True)
        os.rmdir(fresh)
    try:
        if running:
            _into_jail(root, name, there)
        overlay.umount(root, state, name)
        mnt.attach(here, target)
        overlay.note_fuse(root, name)
    finally:
        os.close(here)
        os.close(there)
    workdir.drop(root, name, keep=work)
    if running:
        with reach.control(root, name) as control:
            control.store("/proc/sys/vm/drop_caches", "3")


def mount_from_jail(root: str, name: str) -> None:
    """Mount at mount/NAME what a running guest has as its root."""
    pidfd = live.pidfd_of(root, name)
    if pidfd is None:
        raise Conflict(f"guest '{name}' has ended")
    target = overlay.paths(root, name)[0]

    def fetch() -> None:
        ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.enter_mounts(namespaces.mounts_of(pidfd))
        tree = mnt.clone_tree("/guest")
        namespaces.enter_mounts(ours)
        mnt.attach(tree, target)

    try:
        error = _in_child(fetch)
    finally:
        os.close(pidfd)
    if error:
        raise DummError(f"cannot mount the root of guest '{name}': {os.strerror(error)}")


def _into_jail(root: str, name: str, tree: int) -> None:
    """Replace /guest in the jail. Between the two steps there is nothing: the kernel waits."""
    pidfd = live.pidfd_of(root, name)
    if pidfd is None:
        raise Conflict(f"guest '{name}' has ended")

    def replace() -> None:
        namespaces.enter_mounts(namespaces.mounts_of(pidfd))
        mnt.umount("/guest", detach=True)
        mnt.attach(tree, "/guest")

    try:
        reach.mconsole(root, name, "stop")
        try:
            error = _in_child(replace)
        finally:
            reach.mconsole(root, name, "go")
    finally:
        os.close(pidfd)
    if error:
        raise DummError(f"cannot change the root of guest '{name}': {os.strerror(error)}")


def _in_child(work: Callable[[], None]) -> int:
    """Do `work` in a child, since a process that enters a mount namespace loses its place in ours;
    0 or an errno."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            pinned.pin()  # in a jail, what lies where Python's modules lie is not Python's
            work()
            code = 0
        except OSError as e:
            code = e.errno or 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
