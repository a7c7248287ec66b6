"""Creating, changing and deleting guests: their records, directories and trees."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from dumm_tools import names
from dumm_tools.errors import Conflict, Usage
from dumm_tools.files import choice, mounts, workdir
from dumm_tools.guests import arguments, disks, startup
from dumm_tools.images import kernel, master
from dumm_tools.model import Guest, State
from dumm_tools.net import carrier, iface
from dumm_tools.running import guest_views, liveness, turn
from dumm_tools.statefile import transaction
from dumm_tools.trees import tree

#: The least memory that a guest's kernel can boot with (bytes).
MEMORY_MIN = 40 << 20


def create(
    labdir: str, guest: Guest, *, may_exist: bool = False, script: bytes | None = None
) -> bool:
    """Record a guest, create its directories and mount its tree; False if it already exists. With
    `may_exist`, what a killed command has left out is done for an existing one, too. `script` is
    its startup script."""
    names.guest(guest.name)
    if script is not None:
        startup.check(script)
    _check(labdir, guest)
    if guest.disks:
        guest.disks = disks.checked(guest.disks)
    with contextlib.ExitStack() as undo:
        with transaction(labdir) as change:
            state = change.state
            if guest.name in state.guests:
                if may_exist:
                    _complete(labdir, state, state.guests[guest.name])
                    return False
                raise Conflict(f"guest '{guest.name}' already exists")
            tree_below = choice.resolve_master(labdir, guest)
            choice.resolve_kernel(labdir, guest)
            state.guests[guest.name] = guest
            # Without one: that of a guest whose deletion was interrupted is removed.
            startup.store(labdir, guest.name, script)
            undo.callback(startup.store, labdir, guest.name, None)
            change.save()
            run = liveness.run_dir(labdir, guest.name)
            for directory in (*mounts.paths(labdir, guest.name), run):
                if not os.path.isdir(directory):
                    undo.callback(_remove_empty, directory)
            liveness.make_run_dir(labdir, guest.name)
            mounts.mount(labdir, state, guest, tree_below.path)
        undo.pop_all()
    return True


def _complete(labdir: str, state: State, guest: Guest) -> None:
    """Mount the tree of a recorded guest that is not running, unless it is mounted."""
    if liveness.guest_state(labdir, state, guest) in ("stopped", "crashed"):
        liveness.make_run_dir(labdir, guest.name)
        if not mounts.is_mounted(labdir, state, guest.name):
            mounts.mount(labdir, state, guest, choice.resolve_master(labdir, guest).path)


def _remove_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def _check(labdir: str, guest: Guest) -> None:
    """Check the settings of a guest: Usage, and NotFound for a missing kernel or master."""
    if guest.memory < MEMORY_MIN:
        raise Usage(
            f"{guest.memory} bytes of memory is too little: at least {MEMORY_MIN >> 20}M is needed"
        )
    if guest.memory > 1 << 40:
        raise Usage(f"{guest.memory} bytes of memory is too much")
    if guest.init is not None and not guest.init.startswith("/"):
        raise Usage(f"--init '{guest.init}' is not an absolute path in the guest")
    for arg in guest.args:
        if not arg or any(c.isspace() or c == "\0" for c in arg):
            raise Usage(f"kernel argument {arg!r} is empty or contains white space")
        if '"' in arg:
            raise Usage(f"kernel argument {arg!r} contains a quote")
        if arguments.is_ours(arg):
            hint = "--memory sets it" if arg.startswith("mem=") else None
            raise Usage(f"kernel argument '{arg}' is set by dumm-guest itself", hint=hint)
    if guest.kernel is not None:
        guest.kernel = _spec(guest.kernel, kernel.resolve(guest.kernel).path)
    if guest.master is not None:
        guest.master = _spec(guest.master, master.resolve(guest.master).path)


def _spec(said: str, path: str) -> str:
    """The value to record: a name in the cache, or an absolute path."""
    return said if os.path.basename(path) == said and said != path else path


def change(labdir: str, name: str, **values: object) -> None:
    """Change settings of a guest, effective at its next start."""
    with turn.taken(labdir, name), transaction(labdir) as tx:
        guest = guest_views.get(tx.state, name)
        new = guest.but(**values)
        _check(labdir, new)
        if "disks" in values:
            new.disks = disks.checked(new.disks)
        tx.state.guests[name] = new
        moved = new.master != guest.master
        state = tx.state
        if moved and liveness.guest_state(labdir, state, new) in ("stopped", "crashed"):
            # The tree on the host changes at once; a running guest keeps its own until it stops.
            mounts.umount(labdir, state, name)
            mounts.mount(labdir, state, new, choice.resolve_master(labdir, new).path)


def delete(
    labdir: str,
    name: str,
    *,
    if_exists: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> bool:
    """Delete a guest with its interfaces and files; Conflict while it is running. Guests at the
    other ends of its cables that are not told are reported to `warn`."""
    import fcntl

    from dumm_tools.files import changes

    names.guest(name)
    ends: list[carrier.Pulled] = []
    with turn.taken(labdir, name):
        _sweep(labdir, name)  # what a killed delete has left
        with transaction(labdir) as change:
            state = change.state
            known = name in state.guests
            if known:
                # No commit may be running either.
                with changes.kept_stopped(labdir, state, state.guests[name], fcntl.LOCK_EX):
                    ends = iface.delete_of_guest(state, name)
                    mounts.umount(labdir, state, name)
                    workdir.drop(labdir, name)  # some may be outside of run/NAME
                    del state.guests[name]
                    # Move it away first: what a killed command leaves must not become part of
                    # another guest.
                    _put_aside(labdir, "host", name)
                    change.save()
                    startup.store(labdir, name, None)
            # Before another guest of that name can be created; also what a killed delete has left.
            _put_aside(labdir, "run", name)
            if os.path.lexists(path := os.path.join(labdir, "mount", name)):
                tree.remove(path)
    carrier.pulled(labdir, ends, warn)
    _sweep(labdir, name)
    if not known and not if_exists:
        raise guest_views.missing(name)
    return known


def _put_aside(labdir: str, place: str, name: str) -> None:
    """Rename a guest's directory, to be removed without the lab's lock: that may take long. A name
    with a dot cannot be a guest's."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(
            os.path.join(labdir, place, name),
            os.path.join(labdir, place, f".{name}.deleted-{os.urandom(4).hex()}"),
        )


def _sweep(labdir: str, name: str) -> None:
    """Remove what `_put_aside` has renamed."""
    for place in ("host", "run"):
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(os.path.join(labdir, place)):
                if entry.startswith(f".{name}.deleted"):
                    tree.remove(os.path.join(labdir, place, entry))
