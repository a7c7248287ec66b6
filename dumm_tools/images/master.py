"""Masters: read-only root trees that guests share. Any directory tree can be one.

Those in the cache have a name and a lock; a directory elsewhere is used as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dumm_tools import names
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.images import cache
from dumm_tools.model import RootFS

Report = Callable[[str], None]

BUSYBOX = "busybox"
#: Files that only distributions have: os-release(5), the data bases of dpkg, apk and rpm.
_DISTRIBUTION = (
    "etc/os-release",
    "usr/lib/os-release",
    "var/lib/dpkg/status",
    "lib/apk/db/installed",
    "usr/lib/apk/db/installed",
    "var/lib/rpm",
    "usr/lib/sysimage/rpm",
)
_TAR_NAME = re.compile(r"(.+?)\.(tar(\.\w+)?|tgz|tbz2?|txz|tzst)")


class Master(NamedTuple):
    """A root tree: its absolute path, and its lock if it is in the cache (`cache.hold`)."""

    path: str
    lock: str | None


class Stored(NamedTuple):
    """A master of the cache."""

    name: str
    path: str


def resolve(spec: str) -> Master:
    """The master that `spec` refers to: a name in the cache, or a directory.

    NotFound if there is none, DummError if it is empty or not a directory.
    """
    path = cache.find("masters", spec) or os.path.abspath(spec)
    try:
        if not spec or "\0" in spec:
            raise FileNotFoundError
        with os.scandir(path) as entries:
            if next(entries, None) is None:
                raise DummError(f"master '{spec}' is empty")
    except FileNotFoundError:
        raise NotFound(f"no master '{spec}'", hint="dumm-fs master build busybox") from None
    except NotADirectoryError:
        raise DummError(
            f"master '{spec}' is not a directory", hint="use 'dumm-fs master import' for archives"
        ) from None
    return Master(path, cache.lock_of("masters", path))


def default() -> Master | None:
    """The master called busybox if it exists, or else the only one, or else None."""
    found = cache.names("masters")
    if BUSYBOX in found:
        return resolve(BUSYBOX)
    return resolve(found[0]) if len(found) == 1 else None


def rootfs(path: str) -> RootFS:
    """How guests with the master at `path` reach their root file system unless they say it
    themselves: a distribution needs files of several owners."""
    distribution = any(os.path.lexists(os.path.join(path, name)) for name in _DISTRIBUTION)
    return "virtiofs" if distribution else "hostfs"


def list_() -> list[Stored]:
    """All masters of the cache, sorted by name."""
    place = cache.directory("masters")
    return [Stored(name, os.path.join(place, name)) for name in cache.names("masters")]


def mounted_over() -> dict[str, str]:
    """Masters with trees of guests mounted on top of them, and the mount points. Only the user who
    made a lab sees its mounts, not a process that has become root of another user namespace."""
    from dumm_tools.linux import mount

    return mount.overlays()


def delete(name: str, over: Mapping[str, str]) -> None:
    """Delete a master: NotFound if there is none, Conflict while guests use it, even if they are
    stopped and their trees are mounted (`over`): these would be empty from then on."""
    path = cache.find("masters", name)
    at = over.get(os.path.realpath(path)) if path else None
    if at is not None:
        raise Conflict(
            f"master '{name}' is in use: '{at}' is mounted over it",
            hint="dumm-guest delete, or dumm-fs umount",
        )
    cache.delete("masters", name)


def import_(
    source: str,
    name: str | None = None,
    *,
    may_exist: bool = False,
    progress: Report | None = None,
    warn: Report | None = None,
) -> str:
    """Make a master from a directory, a tar archive, or one on stdin (`-`); return its name.

    Nothing is followed or written outside the new tree. Device nodes are skipped.
    """
    if name is None:
        name = _name_for(source)
    names.pack(name, "master name")
    if source != "-" and not os.path.exists(source):
        raise NotFound(f"no such file '{source}'")
    with cache.build("masters", name, may_exist=may_exist, progress=progress) as target:
        if target is None:
            return name
        if source != "-" and os.path.isdir(source):
            from dumm_tools.trees import copying

            resolve(os.path.abspath(source))  # refuses an empty one early
            ours = os.path.dirname(cache.directory("masters"))
            left = copying.copy_tree(source, target, skip=(ours,), live=True)
        else:
            left = _unpack(source, target, progress)
        # A tree collected in a private directory is not meant to lock out everyone.
        os.chmod(target, os.stat(target).st_mode & 0o7777 | 0o555)
        resolve(target)
    if left and warn:
        warn(f"skipped {left} device nodes and sockets: guests make their own")
    return name


def _unpack(source: str, target: str, progress: Report | None) -> int:
    from dumm_tools.trees import untar

    if source == "-":
        if os.isatty(0):
            raise Usage("standard input is a terminal, not an archive")
        with open(0, "rb", buffering=0, closefd=False) as stream:
            return untar.extract(stream, "standard input", target, progress)
    with open(source, "rb", buffering=0) as stream:
        return untar.extract(stream, source, target, progress)


def _name_for(source: str) -> str:
    """The default name: that of the directory or the archive."""
    if source == "-":
        raise Usage("an archive on standard input needs a name", hint="--name NAME")
    base = os.path.basename(os.path.abspath(source))
    archive = _TAR_NAME.fullmatch(base)
    return archive[1] if archive and not os.path.isdir(source) else base
