"""Masters: read-only root trees that guests share. Any directory tree can be one.

Those in the cache have a name and a lock; a directory elsewhere is used as it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, cast, get_args

from dumm_tools.errors import Conflict, DummError
from dumm_tools.images import cache, facts, startup
from dumm_tools.model import RootFS

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


class Master(NamedTuple):
    """A root tree: its absolute path, and its lock if it is in the cache (`cache.hold`)."""

    path: str
    lock: str | None


class Stored(NamedTuple):
    """A master of the cache. `command` is that of the container image that it was made from, and
    `rootfs` the way in which guests reach their root file system."""

    name: str
    path: str
    rootfs: RootFS
    command: startup.Command | None = None


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
        raise cache.missing("masters", spec, "dumm-fs master build busybox") from None
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
    themselves: as the master was made for, or by virtiofs if it contains a distribution, which
    needs files of several owners."""
    recorded: object = facts.read(path).get("rootfs")
    for each in get_args(RootFS):
        if recorded == each:
            return cast("RootFS", each)
    distribution = any(os.path.lexists(os.path.join(path, name)) for name in _DISTRIBUTION)
    return "virtiofs" if distribution else "hostfs"


@contextlib.contextmanager
def build(
    name: str,
    kind: RootFS | None,
    *,
    may_exist: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Iterator[str | None]:
    """Yield an empty directory that becomes the master `name` if the block succeeds, or None if
    there is one (`cache.build`). In both cases record how its guests reach their root file system,
    unless `kind` is None."""
    with cache.build("masters", name, may_exist=may_exist, progress=progress) as target:
        yield target
        if target is not None and kind is not None:
            facts.record(name, rootfs=kind)
    if target is None and kind is not None:
        with cache.held("masters", os.path.join(cache.directory("masters"), name)):
            facts.record(name, rootfs=kind)


def list_() -> list[Stored]:
    """All masters of the cache, sorted by name."""
    place = cache.directory("masters")
    paths = ((name, os.path.join(place, name)) for name in cache.names("masters"))
    return [Stored(name, path, rootfs(path), startup.command_of(path)) for name, path in paths]


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
