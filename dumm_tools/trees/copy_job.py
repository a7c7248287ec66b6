"""The policies of a copy (`copying`), and the attributes of the copied files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from dumm_tools.model import Record
from dumm_tools.trees import attributes, layer

#: How to open a directory, never through a link.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Attributes that may grant privileges: security.capability, and those that only root can set.
_RIGHTS = ("security.", "trusted.")

Where = tuple[str, ...]


def _nothing(_: object) -> None:
    """Report nothing."""


class Job(Record):
    """A copy into the directory `top`; several sources may go there and keep their hard links.

    Devices and sockets are not copied but reported to `skipped`. Failures below a directory are
    reported to `error`; if that is None, the first one ends the copy.
    """

    top: int
    skipped: Callable[[str], None] = _nothing
    error: Callable[[OSError], None] | None = None
    progress: Callable[[str], None] = _nothing
    #: Existing files are replaced, each one atomically.
    replace: bool = False
    #: Files that are not trusted lose all privileges beyond those of their owner: setuid, setgid,
    #: and attributes that grant some.
    trusted: bool = True
    #: The source is a layer: its marks on other layers are copied too, and so are sockets and, if
    #: permitted, devices.
    marks: layer.Marks | None = None
    #: Files that are deleted before their turn are not an error.
    live: bool = False
    #: Directories on devices other than this are copied empty.
    device: int | None = None
    #: Directories, as (device, inode), that are not copied at all.
    excluded: frozenset[tuple[int, int]] = frozenset()
    #: User and group that everything belongs to; None for those of the source.
    owner: tuple[int, int] | None = None
    #: Only what differs is replaced, and existing directories keep their attributes. Links to
    #: directories at the destination are followed, with `top` as the root directory.
    update: bool = False

    #: The first copy of each file that has several names, by (device, inode).
    links: dict[tuple[int, int], Where] = {}
    count: int = 0


class Entry(NamedTuple):
    """A file to copy: its directory and name, those of the copy, the copy's parent relative to the
    top, and the name for messages."""

    src: int
    name: str
    dst: int
    as_name: str
    where: Where
    shown: str


def mode(job: Job, info: os.stat_result) -> int:
    """The mode of a copy."""
    found = stat.S_IMODE(info.st_mode)
    return found if job.trusted else found & ~(stat.S_ISUID | stat.S_ISGID)


def owner(job: Job, info: os.stat_result) -> tuple[int, int] | None:
    """The owner and group of a copy; None: ours."""
    return job.owner or ((info.st_uid, info.st_gid) if os.geteuid() == 0 else None)


def finish(job: Job, old: int, new: int, info: os.stat_result) -> None:
    """Give an open copy the attributes of what was copied."""
    values = [
        (name, os.getxattr(old, name))
        for name in attributes.listed(old)
        if job.trusted or not name.startswith(_RIGHTS)
    ]
    if stat.S_ISDIR(info.st_mode):
        mark_opaque(job, old, new)
    times = (info.st_atime_ns, info.st_mtime_ns)
    attributes.finish(new, owner(job, info), values, mode(job, info), times)


def mark_opaque(job: Job, old: int, new: int) -> None:
    """Mark a directory as opaque if the one copied is."""
    if job.marks and layer.is_opaque(old, job.marks):
        layer.make_opaque(new, job.marks)
