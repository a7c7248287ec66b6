"""Guests' roots: copy-on-write overlays, mounted at mount/NAME (kernel overlayfs).

Layers from the top: host/NAME takes the writes, the master lies below and is never written.
The mount's source is the working set's tag: what does not bear it is not ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil

from dumm_tools import proc
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import mount as mnt
from dumm_tools.model import Guest, State

FUSE = "fuse-overlayfs"
#: What the kernel says when it has no overlayfs, or not for us, or not on this file system.
_REFUSALS = (errno.EPERM, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP)
#: A page: the most that mount(2) takes as options, with the final NUL.
_OPTIONS_MAX = 4095
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%~ ")


def paths(root: str, name: str) -> tuple[str, str, str]:
    """Where a guest's merged tree, its own files, and overlayfs' work directory are."""
    return (
        os.path.join(root, "mount", name),
        os.path.join(root, "host", name),
        os.path.join(root, "run", name, "work"),
    )


def is_mounted(root: str, state: State, name: str) -> bool:
    """Is the guest's tree mounted? Conflict when something that is not ours is mounted there."""
    target = os.path.realpath(os.path.join(root, "mount", name))
    found = mnt.mounted_at(target)
    if found is None:
        return False
    if found.source != state.tag and _fuse_mount(root, name) != f"{found.kind} {found.id}":
        raise Conflict(f"'{target}' is a mount point that is not ours")
    return True


def mount(root: str, state: State, guest: Guest, master: str) -> bool:
    """Mount the guest's tree over `master`; False when it is mounted already."""
    if is_mounted(root, state, guest.name):
        return False
    target, upper, work = paths(root, guest.name)
    for directory in (target, upper, work):
        os.makedirs(directory, exist_ok=True)
    _match_top(master, upper)
    forced = os.environ.get("DUMM_OVERLAY") == FUSE
    try:
        if forced:
            _mount_fuse(root, guest.name, [master])
        else:
            _mount_kernel(state, target, [master], upper, work)
    except OSError as e:
        # Where the kernel refuses in a user namespace, a program of the user's may do it.
        if not forced and state.isolated and e.errno in _REFUSALS and shutil.which(FUSE):
            _mount_fuse(root, guest.name, [master])
            return True
        hint = "overlayfs is needed, on a file system that can carry it: dumm-fs check"
        raise DummError(
            f"cannot mount '{target}': {e.strerror}", hint=hint if e.errno in _REFUSALS else None
        ) from None
    return True


def _mount_kernel(state: State, target: str, lower: list[str], upper: str, work: str) -> None:
    # What the layers mean must not depend on how the host's kernel was configured. In a user
    # namespace only userxattr may be written, which implies the rest (overlayfs.rst).
    flags = "index=off,userxattr" if state.isolated else "index=off,redirect_dir=off,metacopy=off"
    with contextlib.ExitStack() as stack:
        options = f"{_options(stack, lower=lower, upper=upper, work=work)},{flags}"
        mnt.mount(state.tag, target, "overlay", mnt.MS_NODEV | mnt.MS_NOSUID, options)


def _mount_fuse(root: str, name: str, lower: list[str]) -> None:
    """By fuse-overlayfs(1), which ends when the tree is unmounted. The guest's process is in a
    user namespace below ours: hence allow_other. It names its mounts itself, so what tells that
    this one is ours is kept in a file."""
    target, upper, work = paths(root, name)

    def quoted(path: str) -> str:
        return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")

    options = [
        f"lowerdir={':'.join(quoted(d) for d in lower)}",
        f"upperdir={quoted(upper)}",
        f"workdir={quoted(work)}",
        "allow_other,nosuid,nodev",
    ]
    proc.run([FUSE, "-o", ",".join(options), target], quiet=True)
    found = mnt.mounted_at(os.path.realpath(target))
    with open(os.path.join(root, "run", name, "fuse"), "w", encoding="ascii") as file:
        file.write(f"{found.kind} {found.id}" if found else "")


def _fuse_mount(root: str, name: str) -> str:
    try:
        with open(os.path.join(root, "run", name, "fuse"), encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def umount(root: str, state: State, name: str) -> bool:
    """Unmount the guest's tree, even if it is in use; False when it was not mounted."""
    gone = False
    while is_mounted(root, state, name):
        mnt.umount(os.path.realpath(os.path.join(root, "mount", name)), detach=True)
        gone = True
    return gone


def _match_top(master: str, upper: str) -> None:
    """A new upper directory takes the master's mode and owner: it is the guest's `/`."""
    if os.listdir(upper):
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
