"""Mounting a stack of layers: by the kernel's overlayfs, or where it refuses by fuse-overlayfs(1),
whose mounts are noted in the lab.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping

from dumm_tools import proc
from dumm_tools.errors import DummError, NotFound
from dumm_tools.linux import mount as mnt
from dumm_tools.model import Guest, State

FUSE = "fuse-overlayfs"
#: The note of a mount in progress: a command may be killed before it knows more.
MOUNTING = "mounting"
#: Errors of a kernel that has no overlayfs, or not for us, or not on this file system.
_REFUSALS = (errno.EPERM, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP)
#: A page: the maximum length of the options of mount(2), including the final NUL.
_OPTIONS_MAX = 4095
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%~ ")


def open_layer(stack: contextlib.ExitStack, guest: Guest, layer: str) -> int:
    """Open an overlay of a guest, whose path had no links when it was recorded: another guest may
    write to a directory above it. NotFound."""
    from dumm_tools.linux import openat2

    try:
        fd = openat2.open_plain(layer, os.O_PATH | os.O_DIRECTORY)
    except OSError as e:
        replaced = ": a part of its path has become a link" if e.errno == errno.ELOOP else ""
        raise NotFound(
            f"layer '{layer}' of guest '{guest.name}' is gone{replaced}",
            hint=f"dumm-fs overlay del {guest.name} '{layer}'",
        ) from None
    stack.callback(os.close, fd)
    return fd


def mount(
    labdir: str,
    state: State,
    guest: Guest,
    target: str,
    stack: list[str],
    work: str,
    opened: Mapping[str, int],
) -> None:
    """Mount a stack of layers, top first, by the kernel or, if it refuses in a user namespace, by
    fuse-overlayfs. Those that are `opened` are taken by descriptor. DummError."""
    upper, lower = stack[0], stack[1:]
    forced = os.environ.get("DUMM_OVERLAY") == FUSE
    try:
        if forced:
            _mount_fuse(labdir, guest.name, target, lower, upper, work)
        else:
            _mount_kernel(state, target, lower, upper, work, opened)
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


def _mount_kernel(
    state: State, target: str, lower: list[str], upper: str, work: str, opened: Mapping[str, int]
) -> None:
    # The meaning of the layers must not depend on the configuration of the host's kernel. In a user
    # namespace, only userxattr may be set, which implies the rest (overlayfs.rst).
    flags = "index=off,userxattr" if state.isolated else "index=off,redirect_dir=off,metacopy=off"
    with contextlib.ExitStack() as stack:
        options = f"{_options(stack, lower, upper, work, opened)},{flags}"
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
    note(labdir, name, MOUNTING)
    proc.run([FUSE, "-o", ",".join(options), target], quiet=True)


def _fuse_note(labdir: str, name: str) -> str:
    return os.path.join(labdir, "run", name, "fuse")


def forget(labdir: str, name: str) -> None:
    """Remove the note."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_fuse_note(labdir, name))


def note(labdir: str, name: str, text: str) -> None:
    """Note what fuse-overlayfs has mounted for a guest: it chooses the mount's source itself."""
    with open(_fuse_note(labdir, name), "w", encoding="ascii") as file:
        file.write(text)


def noted(labdir: str, name: str) -> str:
    """The note; "" if there is none."""
    try:
        with open(_fuse_note(labdir, name), encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _options(
    stack: contextlib.ExitStack,
    lower: list[str],
    upper: str,
    work: str,
    opened: Mapping[str, int],
) -> str:
    """overlayfs' mount options. Paths that are opened, would need quoting, or are too long in
    total, are given by descriptor: the kernel resolves them once, at the mount."""

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
        fd = opened.get(path, -1)
        if fd < 0:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
        return f"/proc/self/fd/{fd}"

    def by_path(path: str) -> str:
        return by_descriptor(path) if path in opened else path

    plain = build(by_path)
    others = (path for path in (*lower, upper, work) if path not in opened)
    if len(plain) < _OPTIONS_MAX and all(set(path) <= _PLAIN for path in others):
        return plain
    return build(by_descriptor)
