"""Guests' roots: copy-on-write overlays, mounted on mount/NAME.

Layers from the top: the loaded template's, the added overlays (newest first), host/NAME, the
master. Writes go to the top one. The mount's source is the working set's tag: a mount without it is
not ours.
"""

from __future__ import annotations

import contextlib
import os

from dumm_tools.errors import Conflict, DummError
from dumm_tools.files import overlay, workdir
from dumm_tools.linux import mount as mnt
from dumm_tools.model import Guest, State
from dumm_tools.running import liveness
from dumm_tools.statefile import need_here


def paths(labdir: str, name: str) -> tuple[str, str, str]:
    """The paths of a guest's merged tree, its own files, and overlayfs' work directories."""
    return (
        os.path.join(labdir, "mount", name),
        os.path.join(labdir, "host", name),
        workdir.place(labdir, name),
    )


def layers(labdir: str, state: State, guest: Guest, master: str) -> list[str]:
    """The directories of a guest's stack, top first."""
    stack = [*guest.overlays, os.path.join(labdir, "host", guest.name), master]
    if state.loaded is not None:
        stack.insert(0, template_layer(labdir, state.loaded, guest.name))
    return stack


def opened_layers(
    opened: contextlib.ExitStack, labdir: str, state: State, guest: Guest, master: str
) -> list[str | int]:
    """The same for reading, with descriptors for overlays, which `opened` closes. NotFound."""
    found = layers(labdir, state, guest, master)
    return [
        overlay.open_layer(opened, guest, each) if each in guest.overlays else each
        for each in found
    ]


def template_layer(labdir: str, template: str, name: str) -> str:
    """The directory of a guest's files in a template."""
    return os.path.join(labdir, "templates", template, name)


def is_mounted(labdir: str, state: State, name: str) -> bool:
    """Whether the guest's tree is mounted. Conflict if something that is not ours is
    mounted there."""
    target = os.path.realpath(os.path.join(labdir, "mount", name))
    found = mnt.mounted_at(target)
    if found is None:
        return False
    ours = (f"{found.kind} {found.id}", overlay.MOUNTING)
    if found.source != state.tag and (
        found.source != overlay.FUSE or overlay.noted(labdir, name) not in ours
    ):
        raise Conflict(f"'{target}' is a mount point that this lab did not make")
    return True


def mount(labdir: str, state: State, guest: Guest, master: str) -> bool:
    """Mount the tree of a guest that is not running on top of `master`; return False if it is
    already mounted."""
    name = guest.name
    if is_mounted(labdir, state, name):
        if not is_unsettled(labdir, name):
            return False
        umount(labdir, state, name)
    mount_at(labdir, state, guest, master, paths(labdir, name)[0])
    note_fuse(labdir, name)
    settled(labdir, name)
    return True


def _unsettled(labdir: str, name: str) -> str:
    return os.path.join(labdir, "run", name, "unsettled")


def unsettle(labdir: str, name: str) -> None:
    """Note that the mounted stack may differ from the recorded one, until `settled`; the note
    survives if the command is killed in between."""
    liveness.make_run_dir(labdir, name)
    with open(_unsettled(labdir, name), "w", encoding="ascii"):
        pass


def is_unsettled(labdir: str, name: str) -> bool:
    """Whether the mounted stack may differ from the recorded one."""
    return os.path.exists(_unsettled(labdir, name))


def settled(labdir: str, name: str) -> None:
    """The mounted stack is the recorded one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_unsettled(labdir, name))


def _close(labdir: str) -> None:
    """Make sure that guests write to directories that nobody else can enter, whatever was removed
    or copied: they contain setuid programs."""
    for name in ("host", "mount", "templates"):
        place = os.path.join(labdir, name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o700)
        if os.stat(place).st_mode & 0o077:
            os.chmod(place, 0o700)


def mount_at(labdir: str, state: State, guest: Guest, master: str, target: str) -> workdir.WorkDir:
    """Mount the guest's stack of layers at `target`, creating this directory if necessary; return
    its work directory."""
    need_here(state)
    stack = layers(labdir, state, guest, master)
    upper = stack[0]
    own = paths(labdir, guest.name)[1]
    ours = [own] if state.template is None else [own, upper]
    _close(labdir)
    for directory in (target, *ours):
        try:
            os.makedirs(directory, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise DummError(f"'{directory}' is not a directory") from None
    with contextlib.ExitStack() as opened:
        overlays = {layer: overlay.open_layer(opened, guest, layer) for layer in guest.overlays}
        for directory in ours:
            _match_top(master, directory)
        work = workdir.make(labdir, guest.name, upper)
        try:
            overlay.mount(labdir, state, guest, target, stack, work.path, overlays)
        except BaseException:
            # An interrupt has to wait for the mount: without its work directory it is useless.
            _umount_all(state, os.path.realpath(target))
            note_fuse(labdir, guest.name)
            workdir.remove(work.entry)
            raise
    return work


def note_fuse(labdir: str, name: str) -> None:
    """Record that a mount is ours in a file, since fuse-overlayfs chooses the mount's source
    itself."""
    found = mnt.mounted_at(os.path.realpath(paths(labdir, name)[0]))
    if found and found.kind.startswith("fuse"):
        overlay.note(labdir, name, f"{found.kind} {found.id}")
    else:
        overlay.forget(labdir, name)


def by_fuse(labdir: str, name: str) -> bool:
    """Whether the guest's tree was last mounted by fuse-overlayfs."""
    return bool(overlay.noted(labdir, name))


def umount(labdir: str, state: State, name: str) -> bool:
    """Unmount the guest's tree, even if it is in use; return False if it was not mounted. Work
    directories left by overlays are kept until `workdir.drop`."""
    umount_next(labdir, state, name)
    gone = False
    while is_mounted(labdir, state, name):
        mnt.umount(os.path.realpath(os.path.join(labdir, "mount", name)), detach=True)
        gone = True
    return gone


def next_place(labdir: str, name: str) -> str:
    """The mount point of a stack before it replaces another."""
    return os.path.join(labdir, "run", name, "next")


def umount_next(labdir: str, state: State, name: str) -> None:
    """Unmount what a killed command has left on `next_place`."""
    _umount_all(state, os.path.realpath(next_place(labdir, name)))


def _umount_all(state: State, place: str) -> None:
    while (found := mnt.mounted_at(place)) is not None:
        if found.source not in (state.tag, overlay.FUSE):
            raise Conflict(f"'{place}' is a mount point that this lab did not make")
        mnt.umount(place, detach=True)


def _match_top(master: str, upper: str) -> None:
    """Give a new upper directory the master's mode and owner: it is the guest's `/`."""
    with os.scandir(upper) as entries:
        if next(entries, None) is not None:
            return
    want, have = os.stat(master), os.stat(upper)
    if (want.st_uid, want.st_gid) != (have.st_uid, have.st_gid):
        with contextlib.suppress(PermissionError):
            os.chown(upper, want.st_uid, want.st_gid)
    os.chmod(upper, want.st_mode & 0o7777)
