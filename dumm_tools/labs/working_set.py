"""The working set: the directory of a lab, created by `init` and taken apart by `destroy`."""

from __future__ import annotations

import contextlib
import os

from dumm_tools import holder, names, waiting
from dumm_tools import statefile as store
from dumm_tools.errors import Conflict, DummError, NotFound
from dumm_tools.files import choice, copies, exchange, mounts, workdir
from dumm_tools.guests import stop
from dumm_tools.images import kernel, master
from dumm_tools.linux import inode as inode_flags
from dumm_tools.model import State
from dumm_tools.net import bridge
from dumm_tools.running import guest_views, isolation, liveness, startup_file, turn
from dumm_tools.trees import arrival, staging, tree

DIRECTORIES = ("host", "mount", "run", "templates")
#: Those whose contents `destroy` removes.
OURS = ("run", startup_file.DIRECTORY)
#: The temporary directory of a lab that is being restored (`restoring`).
STAGE = "restore"
#: Seconds that destroy waits for guests to halt.
HALT_TIMEOUT = 5.0


def init(labdir: str, *, kernel_spec: str | None, master_spec: str | None, isolated: bool) -> None:
    """Create a working set in `labdir`; Conflict if there is one. A failure leaves nothing new
    behind."""
    core = kernel.resolve(kernel_spec).path if kernel_spec else None
    tree_ = master.resolve(master_spec).path if master_spec else None
    with waiting.unbroken(), contextlib.ExitStack() as undo:
        if not os.path.isdir(labdir):
            os.mkdir(labdir, 0o700)
            undo.callback(_remove, os.rmdir, labdir)
        arrival.sweep(labdir, STAGE, store.FILE)
        path = os.path.join(labdir, store.FILE)
        if os.path.lexists(path):
            raise Conflict(f"'{labdir}' is already a working set")
        _refuse_taken(labdir)
        lock = os.path.join(labdir, store.LOCK)
        fresh = not os.path.lexists(lock)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        inode = os.fstat(fd).st_ino
        os.close(fd)
        if fresh:
            undo.callback(_remove, os.unlink, lock)
        for name in DIRECTORIES:
            directory = os.path.join(labdir, name)
            if not os.path.isdir(directory):
                os.mkdir(directory, 0o700)
                undo.callback(_remove, os.rmdir, directory)
            else:
                _close(undo, directory)
        # A guest has dozens of FIFOs there. For each new inode, ext4 skips all that were freed
        # in the last minute in its group: a lab made again and again started half as fast.
        with contextlib.suppress(OSError):
            inode_flags.spread(os.path.join(labdir, "run"))
        for name, target in (("linux", core), ("master", tree_)):
            if target is not None:
                _link(undo, os.path.join(labdir, name), target)
        store.create(labdir, State(id=os.urandom(6).hex(), lock_inode=inode, isolated=isolated))
        undo.pop_all()


def converge(
    labdir: str, *, kernel_spec: str | None, master_spec: str | None, isolated: bool | None
) -> bool:
    """Give an existing working set this kernel and this master, if they differ; False if there is
    none. Conflict if it is not `isolated`, or is and should not be."""
    try:
        state = store.load(labdir)
    except NotFound:
        return False
    if isolated not in (None, state.isolated):
        raise other_kind(labdir, state)
    core = kernel.resolve(kernel_spec).path if kernel_spec else None
    tree_ = master.resolve(master_spec).path if master_spec else None
    wanted = {
        os.path.join(labdir, name): target
        for name, target in (("linux", core), ("master", tree_))
        if target is not None
        and os.path.realpath(os.path.join(labdir, name)) != os.path.realpath(target)
    }
    for path in wanted:
        if os.path.lexists(path) and not os.path.islink(path):
            raise Conflict(f"'{path}' already exists and is not a link", hint="move it away")
    followers = [
        guest.name
        for guest in state.guests.values()
        if guest.master is None and os.path.join(labdir, "master") in wanted
    ]
    for name in followers:
        # If we are killed, the next start will mount the tree anew.
        if liveness.guest_state(labdir, state, state.guests[name]) in ("stopped", "crashed"):
            mounts.unsettle(labdir, name)
    for path, target in wanted.items():
        fresh = f"{path}.new"
        _remove(os.unlink, fresh)  # left by a killed command
        os.symlink(target, fresh)
        os.rename(fresh, path)
    for name in followers:
        _remount(labdir, name)
    return True


def other_kind(labdir: str, state: State) -> Conflict:
    """That a working set is not as isolated as it should be."""
    has = "has its own namespaces" if state.isolated else "is on the host's network"
    return Conflict(
        f"the working set in '{labdir}' {has}, which cannot be changed",
        hint="dumm-fs destroy, or another directory",
    )


def _remount(labdir: str, name: str) -> None:
    """Mount the tree of a guest that is not running anew, if it is mounted."""
    with turn.taken(labdir, name), store.transaction(labdir) as change:
        guest = change.state.guests.get(name)
        if (
            guest is not None
            and liveness.guest_state(labdir, change.state, guest) in ("stopped", "crashed")
            and mounts.is_mounted(labdir, change.state, name)
        ):
            choice.mount(labdir, change.state, guest)


def _close(undo: contextlib.ExitStack, directory: str) -> None:
    """Close an existing directory to other users: it will contain guests' setuid programs."""
    mode = os.stat(directory).st_mode & 0o7777
    if mode & 0o077:
        os.chmod(directory, mode & ~0o077)
        undo.callback(os.chmod, directory, mode)


def _refuse_taken(labdir: str) -> None:
    """Raise Conflict if there is something that destroy would remove although it is not ours."""
    copies.remove(labdir)
    for name in (*DIRECTORIES, startup_file.DIRECTORY):
        path = os.path.join(labdir, name)
        if os.path.lexists(path) and not os.path.isdir(path):
            raise Conflict(f"'{path}' is not a directory", hint="move it away")
        if name in OURS and os.path.isdir(path) and os.listdir(path):
            raise Conflict(f"'{path}' already exists and is not empty", hint="move it away")


def _link(undo: contextlib.ExitStack, path: str, target: str) -> None:
    if os.path.lexists(path):
        if os.path.realpath(path) == os.path.realpath(target):
            return
        raise Conflict(f"'{path}' already exists", hint="move it away, or omit the option")
    os.symlink(target, path)
    undo.callback(_remove, os.unlink, path)


def _remove(how: object, path: str) -> None:
    assert callable(how)
    with contextlib.suppress(OSError):
        how(path)


def is_missing(labdir: str) -> bool:
    """Whether there is no working set."""
    return not os.path.lexists(os.path.join(labdir, store.FILE))


def destroy(labdir: str) -> None:
    """Stop the guests, and remove links, mounts and run-time files; files written by guests
    (host/NAME), the templates and the user's own files are kept."""
    failures: list[tuple[str, Exception]] = []
    running = guest_views.all_names(labdir, lambda s: s not in ("stopped",))
    stop.stop(
        labdir,
        running,
        timeout=HALT_TIMEOUT,
        force=False,
        on_error=lambda name, e: failures.append((name, e)),
    )
    still = [n for n, _ in failures if liveness.alive(labdir, n)]
    if still:
        raise DummError(f"guest '{still[0]}' cannot be stopped: {dict(failures)[still[0]]}")
    strangers = _strangers(labdir)
    for name in strangers:
        stop.kill(labdir, name)
    # If the namespaces are not up, there is nothing of the lab in the kernel to look for.
    with store.transaction(labdir, apart=not holder.lives(labdir)) as change:
        state = change.state
        stop.release(state, *state.guests.values())
        bridge.remove_all(state)
        for name in {*state.guests, *strangers}:
            mounts.umount(labdir, state, name)
            workdir.drop(labdir, name)
    if state.isolated:
        isolation.end(labdir)
    copies.remove(labdir)
    for name in (*DIRECTORIES, startup_file.DIRECTORY):
        path = os.path.join(labdir, name)
        if not os.path.isdir(path):
            continue  # there is none, or an earlier destroy was killed here
        if name in OURS:
            tree.remove(path)
        elif name in ("mount", "host"):
            for each in os.listdir(path):
                _remove(os.rmdir, os.path.join(path, each))
        _remove(os.rmdir, path)
    for name in ("linux", "master"):
        if os.path.islink(os.path.join(labdir, name)):
            os.unlink(os.path.join(labdir, name))
    os.unlink(os.path.join(labdir, store.FILE))
    staging.sweep(labdir, STAGE)


def _strangers(labdir: str) -> list[str]:
    """Guests that have left something here but are not in the state, which may have been restored
    from a backup."""
    known = store.load(labdir).guests
    found: set[str] = set()
    for place in ("run", "mount"):
        with (
            contextlib.suppress(FileNotFoundError),
            os.scandir(os.path.join(labdir, place)) as each,
        ):
            found.update(e.name for e in each if e.is_dir(follow_symlinks=False))
    return sorted(name for name in found - known.keys() if names.is_guest(name))


def mount(labdir: str, name: str) -> None:
    """Mount a guest's tree on mount/NAME, as `create` and `start` do."""
    with turn.taken(labdir, name):
        with contextlib.suppress(DummError, OSError):
            exchange.settle(labdir, name, turn.PATIENCE)
        with store.transaction(labdir) as change:
            one = guest_views.get(change.state, name)
            if mounts.is_mounted(labdir, change.state, name):
                return
            if liveness.guest_state(labdir, change.state, one) in ("running", "paused"):
                # Two mounts of the same upper layer would conflict.
                exchange.mount_from_jail(labdir, name)
                mounts.note_fuse(labdir, name)
            else:
                choice.mount(labdir, change.state, one)


def umount(labdir: str, name: str, *, if_exists: bool = False) -> None:
    """Unmount a guest's tree from mount/NAME; a running guest keeps its own."""
    with turn.taken(labdir, name), store.transaction(labdir) as change:
        if if_exists and name not in change.state.guests:
            return
        guest_views.get(change.state, name)
        if not mounts.umount(labdir, change.state, name) and not if_exists:
            raise Conflict(f"'mount/{name}' is not mounted")
