"""The work directories of guests' overlays: an empty one for each mount, never reused.

overlayfs requires them to be on the file system of the layer that is written to. They are in
run/NAME/work or, if that is on another file system, next to the layer in DIR.dumm-work; a symbolic
link in run/NAME/work then points there.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import NamedTuple

from dumm_tools.errors import Conflict, DummError
from dumm_tools.running import liveness
from dumm_tools.trees import tree

_AWAY = ".dumm-work"
_NAME = re.compile(r"[0-9a-f]{12}")


class WorkDir(NamedTuple):
    """A work directory, and its entry in run/NAME/work: itself, or a link to it."""

    path: str
    entry: str


def place(labdir: str, name: str) -> str:
    """The directory of a guest's work directories, or of the links to them."""
    return os.path.join(labdir, "run", name, "work")


def make(labdir: str, name: str, upper: str) -> WorkDir:
    """Create one for a mount with `upper` as its top layer."""
    liveness.make_run_dir(labdir, name)
    directory = place(labdir, name)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    entry = os.path.join(directory, os.urandom(6).hex())
    device = os.stat(upper).st_dev
    if os.stat(directory).st_dev == device:
        os.mkdir(entry)
        return WorkDir(entry, entry)
    beside = f"{upper.rstrip('/')}{_AWAY}"
    if os.stat(os.path.dirname(beside)).st_dev != device:
        raise DummError(f"layer '{upper}' is the root of a file system: use a directory in it")
    path = os.path.join(beside, os.path.basename(entry))
    os.symlink(path, entry)  # first, so that a directory made elsewhere can be found again
    with contextlib.suppress(FileExistsError):
        os.mkdir(beside, 0o700)
    if not _is_made(entry, path):
        raise Conflict(f"'{beside}' already exists and does not belong to this lab")
    os.mkdir(path, 0o700)
    return WorkDir(path, entry)


def drop(labdir: str, name: str, keep: WorkDir | None = None) -> None:
    """Remove those of mounts that no longer exist: all except `keep`."""
    directory = place(labdir, name)
    for old in os.listdir(directory) if os.path.isdir(directory) else ():
        entry = os.path.join(directory, old)
        if keep is None or entry != keep.entry:
            remove(entry)


def remove(entry: str) -> None:
    """Remove one; if that is not possible now, it is left for the next time."""
    with contextlib.suppress(OSError, DummError):
        if os.path.islink(entry):
            path = os.readlink(entry)
            beside = os.path.dirname(path)
            if not _is_made(entry, path):
                return  # not one of our links
            if os.path.isdir(beside):
                tree.remove(path)
                with contextlib.suppress(OSError):  # another guest may have one in it
                    os.rmdir(beside)
            os.unlink(entry)
        else:
            tree.remove(entry)


def _is_made(entry: str, path: str) -> bool:
    """Whether the link `entry` to `path` is one created by `make`. The target of a link is removed,
    and a working set may have come from an archive."""
    beside, name = os.path.split(path)
    if not _NAME.fullmatch(name) or name != os.path.basename(entry) or not beside.endswith(_AWAY):
        return False
    try:
        found = os.lstat(beside)
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
