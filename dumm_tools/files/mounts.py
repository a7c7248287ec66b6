"""Guests' roots: copy-on-write overlays, mounted on mount/NAME.

Layers from the top: the loaded template's, the added overlays (newest first), host/NAME, the
master. Writes go to the top one. The mount's source is the working set's tag: a mount without it is
not ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil

from dumm_tools import proc
from dumm_tools.errors import Conflict, DummError, NotFound
from dumm_tools.files import workdir
from dumm_tools.linux import mount as mnt
from dumm_tools.model import Guest, State
from dumm_tools.running import liveness
from dumm_tools.statefile import need_here

FUSE = "fuse-overlayfs"
#: The note of a mount in progress: a command may be killed before it knows more.
_MOUNTING = "mounting"
#: Errors of a kernel that has no overlayfs, or not for us, or not on this file system.
_REFUSALS = (errno.EPERM, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP)
#: A page: the maximum length of the options of mount(2), including the final NUL.
_OPTIONS_MAX = 4095
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%~ ")


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
    if state.template is not None:
        stack.insert(0, template_layer(labdir, state.template, guest.name))
    return stack


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
    ours = (f"{found.kind} {found.id}", _MOUNTING)
    if found.source != state.tag and (
        found.source != FUSE or _fuse_mount(labdir, name) not in ours
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
    for layer in guest.overlays:
        if not os.path.isdir(layer):
            raise NotFound(
                f"layer '{layer}' of guest '{guest.name}' is gone",
                hint=f"dumm-fs overlay del {guest.name} '{layer}'",
            )
    for directory in ours:
        _match_top(master, directory)
    work = workdir.make(labdir, guest.name, upper)
    try:
        _mount_stack(labdir, state, guest, target, stack, work.path)
    except BaseException:
        # An interrupt has to wait for the mount: without its work directory it is useless.
        _umount_all(state, os.path.realpath(target))
        note_fuse(labdir, guest.name)
        workdir.remove(work.entry)
        raise
    return work


def _mount_stack(
    labdir: str, state: State, guest: Guest, target: str, stack: list[str], work: str
) -> None:
    upper, lower = stack[0], stack[1:]
    forced = os.environ.get("DUMM_OVERLAY") == FUSE
    try:
        if forced:
            _mount_fuse(labdir, guest.name, target, lower, upper, work)
        else:
            _mount_kernel(state, target, lower, upper, work)
    except OSError as e:
        # If the kernel refuses in a user namespace, a program of the user may be able to do it.
        crossed = any(set(mnt.points_in(layer)) - {os.path.realpath(layer)} for layer in lower)
        if crossed and state.isolated:
            # The kernel does not let a user namespace see what is below other mounts, and
            # fuse-overlayfs would show those (/proc, /sys) to the guest.
            raise DummError(
                f"file systems are mounted inside a layer of guest '{guest.name}': '{lower[-1]}'",
                hint="only root's labs on the host's network support this; import it as a master",
            ) from None
        reason = e.strerror
        if not forced and state.isolated and e.errno in _REFUSALS and shutil.which(FUSE):
            try:
                _mount_fuse(labdir, guest.name, target, lower, upper, work)
                return
            except DummError as other:
                reason = f"{e.strerror}; {other}"
        if e.errno == errno.ELOOP:
            raise DummError(
                f"layers of guest '{guest.name}' contain each other: {', '.join(stack)}"
            ) from None
        hint = "overlayfs is needed, on a file system that supports it; see 'dumm-fs check'"
        raise DummError(
            f"cannot mount '{target}': {reason}", hint=hint if e.errno in _REFUSALS else None
        ) from None


def _mount_kernel(state: State, target: str, lower: list[str], upper: str, work: str) -> None:
    # The meaning of the layers must not depend on the configuration of the host's kernel. In a user
    # namespace, only userxattr may be set, which implies the rest (overlayfs.rst).
    flags = "index=off,userxattr" if state.isolated else "index=off,redirect_dir=off,metacopy=off"
    with contextlib.ExitStack() as stack:
        options = f"{_options(stack, lower=lower, upper=upper, work=work)},{flags}"
        mnt.mount(state.tag, target, "overlay", mnt.MS_NODEV | mnt.MS_NOSUID, options)


def _mount_fuse(
    labdir: str, name: str, target: str, lower: list[str], upper: str, work: str
) -> None:
    """Mount with fuse-overlayfs(1), which ends when the tree is unmounted. The guest's process is
    in a nested user namespace, hence allow_other."""

    def quoted(path: str) -> str:
        return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")

    options = [
        f"lowerdir={':'.join(quoted(d) for d in lower)}",
        f"upperdir={quoted(upper)}",
        f"workdir={quoted(work)}",
        "allow_other,nosuid,nodev",
    ]
    _note(labdir, name, _MOUNTING)
    proc.run([FUSE, "-o", ",".join(options), target], quiet=True)


def note_fuse(labdir: str, name: str) -> None:
    """Record that a mount is ours in a file, since fuse-overlayfs chooses the mount's source
    itself."""
    found = mnt.mounted_at(os.path.realpath(paths(labdir, name)[0]))
    if found and found.kind.startswith("fuse"):
        _note(labdir, name, f"{found.kind} {found.id}")
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_fuse_note(labdir, name))


def _fuse_note(labdir: str, name: str) -> str:
    return os.path.join(labdir, "run", name, "fuse")


def _note(labdir: str, name: str, text: str) -> None:
    with open(_fuse_note(labdir, name), "w", encoding="ascii") as file:
        file.write(text)


def _fuse_mount(labdir: str, name: str) -> str:
    try:
        with open(_fuse_note(labdir, name), encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def by_fuse(labdir: str, name: str) -> bool:
    """Whether the guest's tree was last mounted by fuse-overlayfs."""
    return bool(_fuse_mount(labdir, name))


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
        if found.source not in (state.tag, FUSE):
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


def _options(stack: contextlib.ExitStack, *, lower: list[str], upper: str, work: str) -> str:
    """overlayfs' mount options. Paths that would need quoting, or are too long in total, are given
    by descriptor: the kernel resolves them once, at the mount."""

    def join(name: str, directories: list[str]) -> str:
        return f"{name}={':'.join(directories)}"

    def build(path: object) -> str:
        assert callable(path)
        parts = [
            join("lowerdir", [path(d) for d in lower]),
            join("upperdir", [path(upper)]),
            join("workdir", [path(work)]),
        ]
        return ",".join(parts)

    def by_descriptor(path: str) -> str:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        return f"/proc/self/fd/{fd}"

    everything = [*lower, upper, work]
    plain = build(str)
    if len(plain) < _OPTIONS_MAX and all(set(p) <= _PLAIN for p in everything):
        return plain
    return build(by_descriptor)
