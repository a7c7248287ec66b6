"""A guest's changes to its files: list them, discard them, save them as a layer or as a master."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from dumm_tools import names
from dumm_tools.errors import Conflict, NotFound, Usage
from dumm_tools.files import choice, mounts
from dumm_tools.images import cache, startup
from dumm_tools.model import Guest, State
from dumm_tools.running import guest_views, liveness, turn
from dumm_tools.statefile import Transaction, transaction
from dumm_tools.trees import comparing, copying, diff, exposure, layer, staging, tree

Report = Callable[[str], None]

_OPEN = (
    "'{}' is closed to other users (0700), who could run a guest's setuid programs in it; to let "
    "ordinary users of guests in, move it into a directory that is closed, and chmod 755 it"
)


def marks(labdir: str, state: State, name: str) -> layer.Marks:
    """The marks for deleted and hidden files used by the driver of a guest's overlay."""
    if mounts.by_fuse(labdir, name):
        return layer.FUSE
    return layer.USER if state.isolated else layer.KERNEL


def changes(labdir: str, name: str) -> list[diff.Change]:
    """The changes of the guest's top layer relative to the layers below it, sorted by path."""
    with contextlib.ExitStack() as opened:
        with transaction(labdir) as change:
            guest = guest_views.get(change.state, name)
            below = choice.resolve_master(labdir, guest).path
            top, *lower = mounts.opened_layers(opened, labdir, change.state, guest, below)
            how = marks(labdir, change.state, name)
        try:
            return diff.changes(top, lower, how)
        except FileNotFoundError as e:
            raise NotFound(f"layer '{e.filename}' of guest '{name}' is gone") from None


def reset(labdir: str, name: str) -> None:
    """Discard a stopped guest's changes: empty host/NAME. Conflict while it is running."""
    run = liveness.run_dir(labdir, name)
    with turn.taken(labdir, name), transaction(labdir) as change:
        guest = guest_views.get(change.state, name)
        with kept_stopped(labdir, change.state, guest, fcntl.LOCK_EX):
            was_mounted = mounts.umount(labdir, change.state, name)
            own = mounts.paths(labdir, name)[1]
            if os.path.lexists(own):
                # They disappear at once, even if the rest takes long or we are killed.
                os.rename(own, os.path.join(run, f"dropped-{os.urandom(4).hex()}"))
            os.makedirs(own)
            if was_mounted:
                choice.mount(labdir, change.state, guest)
    for old in os.listdir(run):
        if old.startswith("dropped-"):
            tree.remove(os.path.join(run, old))


def commit(
    labdir: str,
    name: str,
    to: str,
    *,
    may_exist: bool = False,
    warn: Report,
    progress: Report | None = None,
) -> None:
    """Save a stopped guest's changes as a new layer if `to` is a path, or else all that the
    guest sees as a new master `to`. Conflict while it runs, and if `to` exists, unless `may_exist`
    and it contains the same."""
    as_layer, is_open = "/" in to, False
    if not as_layer:
        names.pack(to, "master name")
    with contextlib.ExitStack() as stack:
        with turn.taken(labdir, name), transaction(labdir) as change:
            state = change.state
            guest = guest_views.get(state, name)
            stack.enter_context(kept_stopped(labdir, state, guest, fcntl.LOCK_SH))
            if not as_layer:
                _mounted(labdir, change, guest, stack)
        mount, own, _ = mounts.paths(labdir, name)
        if as_layer:
            os.makedirs(own, exist_ok=True)  # a reset may have been killed
            parent = os.path.realpath(os.path.dirname(os.path.abspath(to)))
            if f"{parent}/".startswith(f"{os.path.realpath(own)}/"):
                raise Usage(f"'{to}' is inside the layer itself")
            if may_exist and os.path.isdir(to):
                _need_same(own, to, f"'{to}'", name)
                return
            target = stack.enter_context(staged(to))
            is_open = exposure.is_open(parent)
            left = copying.copy_tree(own, target, marks=marks(labdir, state, name), private=is_open)
        else:
            if may_exist and (there := cache.find("masters", to)) is not None:
                _need_same(mount, there, f"master '{to}'", name)
                return
            target = stack.enter_context(cache.build("masters", to, progress=progress)) or ""
            left = copying.copy_tree(mount, target)
            startup.record(to, startup.command_of(choice.resolve_master(labdir, guest).path))
    if left:
        warn(f"skipped {left} device nodes and sockets")
    if is_open:
        warn(_OPEN.format(to))


def _need_same(tree_: str, there: str, what: str, guest: str) -> None:
    """Raise Conflict unless something existing contains the files of a guest."""
    found = comparing.difference(tree_, there)
    if found is not None:
        raise Conflict(
            f"{what} already exists, and '{os.fsdecode(found)}' of guest '{guest}' differs from it"
        )


@contextlib.contextmanager
def kept_stopped(labdir: str, state: State, guest: Guest, how: int) -> Iterator[None]:
    """Keep the guest stopped: `start` needs this lock exclusively."""
    now = liveness.guest_state(labdir, state, guest)
    if now not in ("stopped", "crashed"):
        raise Conflict(f"guest '{guest.name}' is {now}", hint=f"dumm-guest stop {guest.name}")
    liveness.make_run_dir(labdir, guest.name)
    fd = liveness.take_alive_lock(labdir, guest.name, how)
    if fd is None:
        raise Conflict(f"the files of guest '{guest.name}' are in use")
    try:
        yield
    finally:
        os.close(fd)


def _mounted(labdir: str, change: Transaction, guest: Guest, stack: contextlib.ExitStack) -> None:
    """Mount the guest's tree until the end of `stack`, unless it is mounted already."""
    if not choice.mount(labdir, change.state, guest):
        return

    def umount() -> None:
        with turn.taken(labdir, guest.name), transaction(labdir) as later:
            mounts.umount(labdir, later.state, guest.name)

    stack.callback(umount)


@contextlib.contextmanager
def staged(to: str) -> Iterator[str]:
    """Yield an empty directory that is renamed to `to` if the block succeeds, and is removed
    otherwise.

    It is built next to its final place, where leftovers of killed commands are removed, too.
    """
    # Links on the way are followed only once, so that checks of the place stay valid.
    parent, own = os.path.split(os.path.abspath(to))
    parent = os.path.realpath(parent)
    final = os.path.join(parent, own)
    if os.path.lexists(final):
        raise Conflict(f"'{to}' already exists")
    if not os.path.isdir(parent):
        raise NotFound(f"no directory '{parent}'")
    staging.sweep(parent, own)
    with staging.staged(final, 0o700) as place:
        yield place
        if os.path.lexists(final):
            raise Conflict(f"'{to}' already exists")
