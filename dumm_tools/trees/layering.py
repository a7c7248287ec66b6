"""Layers of a container image, unpacked one upon the other into one directory.

A layer is a tar archive in which `.wh.NAME` says that NAME of the layers below is gone, and
`.wh..wh..opq` that everything of theirs in this directory is (OCI image specification, "Image Layer
Filesystem Changeset"). Since both concern the layers below only, wherever they are in the archive,
it is read twice.
"""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable
from typing import BinaryIO

from dumm_tools.linux import openat2
from dumm_tools.trees import members, tree, untar, within

Report = Callable[[str], None]

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
#: Notes of aufs for itself, and the mark above.
_SPECIAL = b".wh..wh."
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def apply(layer: int, label: str, target: str, progress: Report | None = None) -> tuple[int, str]:
    """Unpack the open archive `layer` on what `target` contains. Return how many device nodes were
    skipped, and the SHA-256 of the archive without its compression."""
    top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        digest = members.read(
            _from_start(layer), label, lambda member: _white_out(top, target, member)
        )
    finally:
        os.close(top)
    return untar.extract(_from_start(layer), label, target, progress, upon=is_whiteout), digest


def is_whiteout(name: str) -> bool:
    """Whether the name of a member is only a mark."""
    *above, last = os.fsencode(name).split(b"/")
    return last.startswith(_WHITEOUT) or any(part.startswith(_SPECIAL) for part in above)


def _from_start(fd: int) -> BinaryIO:
    os.lseek(fd, 0, os.SEEK_SET)
    return open(os.dup(fd), "rb", buffering=0)


def _white_out(top: int, target: str, member: tarfile.TarInfo) -> None:
    if not is_whiteout(member.name):
        return
    *above, mark = within.parts(member.name) or (b"",)
    directory = os.fsdecode(b"/".join(above)) or "."
    try:
        at = openat2.open_in_root(top, directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:
        if e.errno in _NOT_THERE:
            return
        raise
    try:
        if mark == _OPAQUE:
            for name in os.listdir(at):
                tree.remove_at(at, name)
            return
        hidden = os.fsdecode(mark.removeprefix(_WHITEOUT))
        if mark.startswith(_SPECIAL) or hidden in ("", ".", ".."):
            return
        tree.remove_at(at, hidden)
    finally:
        os.close(at)
