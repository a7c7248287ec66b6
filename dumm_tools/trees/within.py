"""The directory that an archive of unknown origin is unpacked into, and no other.

Each name is resolved from the directory's own descriptor without following links, so `..`, an
absolute name, or a link planted earlier in the archive cannot lead out. An archive that tries is
refused as a whole. Names are bytes and need not be UTF-8.

A layer of a container image goes upon the layers below: there, members replace what has their name,
and the directories above them may be links of an earlier layer, which are resolved as in a guest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile

from dumm_tools.errors import DummError
from dumm_tools.model import Record
from dumm_tools.trees import tree

Parts = tuple[bytes, ...]

#: How to open a directory, never through a link.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 300


class Target(Record):
    """An open directory, which the archive is unpacked into. `parent` caches the last directory
    used."""

    top: int
    is_layer: bool = False
    parent: tuple[Parts, int] | None = None


def encoded(text: str) -> bytes:
    """A name or an attribute of a member as it is in the archive."""
    return text.encode("utf-8", "surrogateescape")


def parts(name: str) -> Parts:
    """The components of a member's name in a layer; DummError if it leads elsewhere."""
    found = tuple(p for p in encoded(name).split(b"/") if p not in (b"", b"."))
    if len(found) > _DEEPEST:
        raise DummError(f"directories are nested too deeply: '{name[:60]}...'")
    if b".." in found:
        raise DummError(f"refused: a name in the archive leads out of it, {name!r}")
    return found


def parts_in(target: Target, name: str) -> Parts:
    """The components of a member's name; in a layer, an absolute one begins at its top."""
    if name.startswith("/") and not target.is_layer:
        raise DummError(f"refused: the archive has an absolute name, {name!r}")
    return parts(name)


def directory(target: Target, parts: Parts, make: bool = True) -> int:
    """A descriptor of the directory `parts`, created if missing; the target owns it."""
    if target.parent and target.parent[0] == parts:
        return target.parent[1]
    if target.is_layer:
        found = _directory_in_layer(target, parts, make)
        forget(target)
        target.parent = (parts, found)
        return found
    at = os.dup(target.top)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=at)
            below = os.open(part, DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
    except OSError as e:
        os.close(at)
        if e.errno in (errno.ENOTDIR, errno.ELOOP):
            where = os.fsdecode(b"/".join(parts))
            raise DummError(
                f"refused: {where!r} is used as a directory in the archive, but is a link or file"
            ) from None
        raise
    forget(target)
    target.parent = (parts, at)
    return at


def _directory_in_layer(target: Target, parts: Parts, make: bool) -> int:
    """Likewise in a layer: links of the layers below it are resolved as in a guest."""
    from dumm_tools.linux import openat2

    def resolved(path: Parts) -> int:
        text = os.fsdecode(b"/".join(path)) or "."
        return openat2.open_in_root(target.top, text, os.O_RDONLY | os.O_DIRECTORY)

    try:
        return resolved(parts)
    except OSError:
        if not make:
            raise
    at = resolved(())
    for number, part in enumerate(parts, 1):
        try:
            below = resolved(parts[:number])
        except OSError:
            replace_by_directory(at, part)
            os.mkdir(part, 0o755, dir_fd=at)
            below = os.open(part, DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    return at


def replace_by_directory(at: int, name: bytes) -> None:
    """Remove anything but a directory that a lower layer has under this name."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=at)


def forget(target: Target) -> None:
    """Close the directory used last; it may have been replaced."""
    if target.parent:
        os.close(target.parent[1])
        target.parent = None


def clear(target: Target, at: int, name: bytes) -> None:
    """Make way for a member that occurs again; nothing is ever written through an old one."""
    if target.is_layer:
        tree.remove_at(at, os.fsdecode(name))
        return
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        raise DummError(
            f"refused: {os.fsdecode(name)!r} is a directory in the archive, then something else"
        ) from None


def hard_link(target: Target, parts: Parts, member: tarfile.TarInfo) -> None:
    """Make the hard link that a member is, to an earlier one."""
    first = parts_in(target, member.linkname)
    if first == parts or not first:
        return
    missing = DummError(
        f"refused: {member.name!r} is a link to {member.linkname!r}, which is not in the archive"
    )
    try:
        origin = os.dup(directory(target, first[:-1], make=False))
    except FileNotFoundError:
        raise missing from None
    try:
        if stat.S_ISDIR(os.stat(first[-1], dir_fd=origin, follow_symlinks=False).st_mode):
            raise DummError(f"refused: {member.name!r} is a hard link to a directory")
        at = directory(target, parts[:-1])
        clear(target, at, parts[-1])
        os.link(first[-1], parts[-1], src_dir_fd=origin, dst_dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        raise missing from None
    finally:
        os.close(origin)
