"""mount(2), umount2(2), and the contents of /proc/self/mountinfo."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import NamedTuple

MS_NOSUID = 2  # linux/mount.h
MS_NODEV = 4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2  # include/linux/fs.h
UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def _check(result: int | bool, subject: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2); `data` may be at most a page (4095 bytes)."""
    _check(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(data)
        ),
        target,
    )


def umount(target: str, *, detach: bool = False) -> None:
    """umount2(2) without following links; with `detach` even while the mount is in use."""
    _check(
        _libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0)), target
    )


_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429  # asm-generic/unistd.h, the same on all architectures
_OPEN_TREE_CLONE = 1  # linux/mount.h
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000  # linux/fcntl.h
_SYS_MOUNT_SETATTR = 442
_AT_EMPTY_PATH = 0x1000
_MOUNT_ATTR_RDONLY = 1
_libc.syscall.restype = ctypes.c_long


def clone_tree(path: str, *, recursive: bool = False) -> int:
    """Return a descriptor of a detached copy of the mount at `path` (open_tree(2)), including the
    mounts below it if `recursive`."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    fd = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    _check(fd < 0, path)
    return int(fd)


def close_for_writing(tree: int) -> None:
    """Make a mount returned by `clone_tree` read-only (mount_setattr(2)): the mode and owner of
    files opened there cannot be changed, while FIFOs can still be written to."""
    _set_attributes(tree, on=_MOUNT_ATTR_RDONLY)


def open_for_writing(tree: int) -> None:
    """Make a mount returned by `clone_tree` writable."""
    _set_attributes(tree, off=_MOUNT_ATTR_RDONLY)


def make_private(tree: int) -> None:
    """Make a mount returned by `clone_tree` independent of the original: what is mounted on one of
    them later does not appear on the other (mount_namespaces(7))."""
    _set_attributes(tree, propagation=MS_PRIVATE)


def _set_attributes(tree: int, *, on: int = 0, off: int = 0, propagation: int = 0) -> None:
    wanted = struct.pack("=4Q", on, off, propagation, 0)
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, wanted, ctypes.c_size_t(len(wanted))
    )
    _check(result, "a mount")


def attach(tree: int, target: str) -> None:
    """Attach a mount returned by `clone_tree` at `target` (move_mount(2))."""
    result = _libc.syscall(
        _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
    )
    _check(result, target)


class Mounted(NamedTuple):
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    target: str
    kind: str
    source: str
    id: int


def mounted_at(target: str) -> Mounted | None:
    """The topmost mount at the mount point `target` (an absolute path without links)."""
    wanted = b" %s " % _escape(os.fsencode(target))
    with open("/proc/self/mountinfo", "rb") as file:
        text = file.read()
    # Search backwards, not line by line: a lab has a mount per guest, and each start searches.
    at = len(text)
    while (at := text.rfind(wanted, 0, at)) >= 0:
        start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at)
        before, _, after = text[start:end].partition(b" - ")
        fields = before.split(b" ")
        if b" %s " % fields[4] == wanted:  # not the root or source of a mount
            kind, source = after.split(b" ")[:2]
            return Mounted(target, kind.decode(), os.fsdecode(_unescape(source)), int(fields[0]))
    return None


def overlays() -> dict[str, str]:
    """The lower layers of all overlays in the mount namespaces of processes that we may inspect,
    each with a mount point that uses it."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or we may not inspect it
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                for line in file:
                    before, _, after = line.partition(b" - ")
                    if after.startswith(b"overlay "):
                        at = os.fsdecode(_unescape(before.split(b" ")[4]))
                        found.update((os.fsdecode(layer), at) for layer in _lower(after))
    return found


def _lower(fields: bytes) -> list[bytes]:
    """The lower layers in the options of an overlay; names with colons or commas are not
    recognized."""
    options = fields.rstrip().rpartition(b" ")[2].split(b",")
    found = [o.partition(b"=")[2] for o in options if o.startswith((b"lowerdir=", b"lowerdir+="))]
    return [_unescape(path) for each in found for path in each.split(b":")]


def points_in(directory: str) -> list[str]:
    """Where something is mounted in a tree, its top included: absolute paths without links."""
    top = os.fsencode(os.path.realpath(directory)).rstrip(b"/")
    with open("/proc/self/mountinfo", "rb") as file:
        points = [_unescape(line.split(b" ", 5)[4]) for line in file]
    return [os.fsdecode(p) for p in points if p.rstrip(b"/") == top or p.startswith(top + b"/")]


def _escape(path: bytes) -> bytes:
    """A mount point in the form used by mountinfo (show_mountinfo, fs/proc_namespace.c)."""
    for byte in b"\\ \t\n":
        path = path.replace(b"%c" % byte, b"\\%03o" % byte)
    return path


def _unescape(field: bytes) -> bytes:
    if b"\\" not in field:
        return field
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(code, char)
    return field
