"""Guests' roots: copy-on-write overlays, mounted at mount/NAME.

Layers from the top: the loaded template's, the overlays that were added (newest first), host/NAME,
the master. The top one takes the writes. The mount's source is the working set's tag: what does
not bear it is not ours.
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
#: The note of a mount by it that is being made: a command may be killed before it knows more.
_MOUNTING = "mounting"
#: What the kernel says when it has no overlayfs, or not for us, or not on this file system.
_REFUSALS = (errno.EPERM, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP)
#: A page: the most that mount(2) takes as options, with the final NUL.
_OPTIONS_MAX = 4095
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%~ ")


def paths(labdir: str, name: str) -> tuple[str, str, str]:
    """Where a guest's merged tree, its own files, and overlayfs' work directories are."""
    return (
        os.path.join(labdir, "mount", name),
        os.path.join(labdir, "host", name),
        workdir.place(labdir, name),
    )


def layers(labdir: str, state: State, guest: Guest, master: str) -> list[str]:
    """The directories of a guest's stack, the top first."""
    stack = [*guest.overlays, os.path.join(labdir, "host", guest.name), master]
    if state.template is not None:
        stack.insert(0, template_layer(labdir, state.template, guest.name))
    return stack


def template_layer(labdir: str, template: str, name: str) -> str:
    """Where a template keeps a guest's files."""
    return os.path.join(labdir, "templates", template, name)


def is_mounted(labdir: str, state: State, name: str) -> bool:
    """Is the guest's tree mounted? Conflict when something that is not ours is mounted there."""
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
    """Mount the tree of a guest that does not run over `master`; False when it is mounted
    already."""
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
    """Note that what is mounted may be other than what is recorded, until `settled`: of a command
    that is killed in between, this stays."""
    liveness.make_run_dir(labdir, name)
    with open(_unsettled(labdir, name), "w", encoding="ascii"):
        pass


def is_unsettled(labdir: str, name: str) -> bool:
    """May what is mounted be other than what is recorded?"""
    return os.path.exists(_unsettled(labdir, name))


def settled(labdir: str, name: str) -> None:
    """What is mounted is what is recorded."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_unsettled(labdir, name))


def _close(labdir: str) -> None:
    """Have what guests write in directories that nobody else can enter, whatever was removed or
    copied: there are setuid programs in it."""
    for name in ("host", "mount", "templates"):
        place = os.path.join(labdir, name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o700)
        if os.stat(place).st_mode & 0o077:
            os.chmod(place, 0o700)


def mount_at(labdir: str, state: State, guest: Guest, master: str, target: str) -> workdir.WorkDir:
    """Mount the guest's stack of layers at `target`, a directory that is made if need be; returns
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
        # An interrupt comes after the mount as well: without its work directory it is of no use.
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
        # Where the kernel refuses in a user namespace, a program of the user's may do it.
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
    # What the layers mean must not depend on how the host's kernel was configured. In a user
    # namespace only userxattr may be written, which implies the rest (overlayfs.rst).
    flags = "index=off,userxattr" if state.isolated else "index=off,redirect_dir=off,metacopy=off"
    with contextlib.ExitStack() as stack:
        options = f"{_options(stack, lower=lower, upper=upper, work=work)},{flags}"
        mnt.mount(state.tag, target, "overlay", mnt.MS_NODEV | mnt.MS_NOSUID, options)


def _mount_fuse(
    labdir: str, name: str, target: str, lower: list[str], upper: str, work: str
) -> None:
    """By fuse-overlayfs(1), which ends when the tree is unmounted. The guest's process is in a
    user namespace below ours: hence allow_other."""

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
    """fuse-overlayfs names its mounts itself: a file tells that this one is ours."""
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
    """Was the guest's tree mounted by fuse-overlayfs, when it last was?"""
    return bool(_fuse_mount(labdir, name))


def umount(labdir: str, state: State, name: str) -> bool:
    """Unmount the guest's tree, even if it is in use; False when it was not mounted. What the
    overlays leave of work directories stays until `workdir.drop`."""
    umount_next(labdir, state, name)
    gone = False
    while is_mounted(labdir, state, name):
        mnt.umount(os.path.realpath(os.path.join(labdir, "mount", name)), detach=True)
        gone = True
    return gone


def next_place(labdir: str, name: str) -> str:
    """Where a stack is mounted before it takes its place."""
    return os.path.join(labdir, "run", name, "next")


def umount_next(labdir: str, state: State, name: str) -> None:
    """Unmount what a killed command left at `next_place`."""
    _umount_all(state, os.path.realpath(next_place(labdir, name)))


def _umount_all(state: State, place: str) -> None:
    while (found := mnt.mounted_at(place)) is not None:
        if found.source not in (state.tag, FUSE):
            raise Conflict(f"'{place}' is a mount point that this lab did not make")
        mnt.umount(place, detach=True)


def _match_top(master: str, upper: str) -> None:
    """A new upper directory takes the master's mode and owner: it is the guest's `/`."""
    with os.scandir(upper) as entries:
        if next(entries, None) is not None:
            return
    want, have = os.stat(master), os.stat(upper)
    if (want.st_uid, want.st_gid) != (have.st_uid, have.st_gid):
        with contextlib.suppress(PermissionError):
            os.chown(upper, want.st_uid, want.st_gid)
    os.chmod(upper, want.st_mode & 0o7777)


def _options(stack: contextlib.ExitStack, *, lower: list[str], upper: str, work: str) -> str:
    """overlayfs' mount options. Paths that would need quoting, or are too long together, are given
    by descriptor: the kernel looks them up once, at the mount."""

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
