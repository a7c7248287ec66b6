"""Creating, changing and deleting guests: their records, directories and trees."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence

from dumm_tools import missing, names
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
    check(guest)
    if guest.disks:
        guest.disks = disks.checked(guest.disks)
    if guest.files:
        guest.files = _checked_files(labdir, guest.files)
    with contextlib.ExitStack() as undo:
        with transaction(labdir) as change:
            state = change.state
            if guest.name in state.guests:
                if may_exist:
                    _complete(labdir, state, state.guests[guest.name])
                    return False
                raise Conflict(f"guest '{guest.name}' already exists")
            add(labdir, state, guest, script, undo)
            change.save()
            make_trees(labdir, state, [guest], undo)
        undo.pop_all()
    return True


def add(
    labdir: str, state: State, new: Guest, script: bytes | None, undo: contextlib.ExitStack
) -> None:
    """Record a new guest, and store its startup script."""
    choice.resolve_master(labdir, new)
    choice.resolve_kernel(labdir, new)
    state.guests[new.name] = new
    # Without one: that of a guest whose deletion was interrupted is removed.
    startup.store(labdir, new.name, script)
    undo.callback(startup.store, labdir, new.name, None)


def make_trees(labdir: str, state: State, new: Sequence[Guest], undo: contextlib.ExitStack) -> None:
    """Create the directories of new guests, which are recorded, and mount their trees."""
    for guest in new:
        run = liveness.run_dir(labdir, guest.name)
        for directory in (*mounts.paths(labdir, guest.name), run):
            if not os.path.isdir(directory):
                undo.callback(_remove_empty, directory)
        liveness.make_run_dir(labdir, guest.name)
        mounts.mount(labdir, state, guest, choice.resolve_master(labdir, guest).path)
        undo.callback(mounts.umount, labdir, state, guest.name)


def _complete(labdir: str, state: State, guest: Guest) -> None:
    """Mount the tree of a recorded guest that is not running, unless it is mounted."""
    if liveness.guest_state(labdir, state, guest) in ("stopped", "crashed"):
        liveness.make_run_dir(labdir, guest.name)
        if not mounts.is_mounted(labdir, state, guest.name):
            mounts.mount(labdir, state, guest, choice.resolve_master(labdir, guest).path)


def _remove_empty(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(directory)


def check_settings(guest: Guest) -> None:
    """Check the settings of a guest that do not refer to files of the host: Usage."""
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


def check(guest: Guest) -> None:
    """Check the settings of a guest: Usage, and NotFound for a missing kernel or master."""
    check_settings(guest)
    if guest.kernel is not None:
        guest.kernel = recorded(guest.kernel, kernel.resolve(guest.kernel).path)
    if guest.master is not None:
        guest.master = recorded(guest.master, master.resolve(guest.master).path)


def recorded(said: str, path: str) -> str:
    """The value to record: a name in the cache, or an absolute path."""
    return said if os.path.basename(path) == said and said != path else path


def _checked_files(labdir: str, texts: list[str]) -> list[str]:
    from dumm_tools.files import given  # slow to import, and rarely needed

    return given.checked(labdir, texts)


def change(labdir: str, name: str, **values: object) -> list[str]:
    """Change settings of a guest, effective at its next start. Return the names of those that a
    running guest does not have yet because of this."""
    with turn.taken(labdir, name), transaction(labdir) as tx:
        guest = guest_views.get(tx.state, name)
        new = guest.but(**values)
        check(new)
        if "disks" in values:
            new.disks = disks.checked(new.disks)
        if "files" in values:
            new.files = _checked_files(labdir, new.files)
        tx.state.guests[name] = new
        moved = new.master != guest.master
        state = tx.state
        over = liveness.guest_state(labdir, state, new) in ("stopped", "crashed")
        if moved and over:
            # The tree on the host changes at once; a running guest keeps its own until it stops.
            mounts.umount(labdir, state, name)
            mounts.mount(labdir, state, new, choice.resolve_master(labdir, new).path)
    return [] if over else [key for key in values if getattr(new, key) != getattr(guest, key)]


def converge(
    labdir: str, name: str, values: Mapping[str, object], *, script: bytes | None = None
) -> list[str]:
    """Give an existing guest these settings, and a startup script, as far as they differ; return
    what `change` does."""
    later = change(labdir, name, **values) if values else []
    if script is not None:
        startup.set_(labdir, name, script)
    return later


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
        raise missing.guest(state, name)
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
