"""Making masters from what others have: directories, archives, container images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from dumm_tools import names
from dumm_tools.errors import NotFound, Usage
from dumm_tools.images import cache, container, master, startup
from dumm_tools.trees import copying, untar

Report = Callable[[str], None]

_ARCHIVE_NAME = re.compile(
    r"(.+?)\.(tar(\.\w+)?|tgz|tbz2?|txz|tzst|oci|cpio(\.\w+)?)", re.IGNORECASE
)


def import_(
    source: str,
    name: str | None = None,
    *,
    may_exist: bool = False,
    progress: Report | None = None,
    warn: Report | None = None,
) -> str:
    """Make a master from a directory, a tar or cpio archive or a container image, or one of these
    archives on stdin (`-`); return its name.

    Nothing is followed or written outside the new tree. Device nodes are skipped.
    """
    if name is None:
        name = _name_for(source)
    names.pack(name, "master name")
    if source != "-" and not os.path.exists(source):
        raise NotFound(f"no such file '{source}'")
    command = None
    with cache.build("masters", name, may_exist=may_exist, progress=progress) as target:
        if target is None:
            return name
        if source == "-" or not os.path.isdir(source):
            left, command = _of_archive(source, target, progress)
        elif container.is_image(source):
            left, command = container.unpack(source, source, target, progress)
        else:
            master.resolve(os.path.abspath(source))  # refuses an empty one early
            ours = os.path.dirname(cache.directory("masters"))
            left = copying.copy_tree(source, target, skip=(ours,), live=True)
        # A tree collected in a private directory is not meant to lock out everyone.
        os.chmod(target, os.stat(target).st_mode & 0o7777 | 0o555)
        master.resolve(target)
        startup.record(name, command)
    if left and warn:
        warn(f"skipped {left} device nodes and sockets: guests make their own")
    return name


def _of_archive(
    source: str, target: str, progress: Report | None
) -> tuple[int, startup.Command | None]:
    """Unpack an archive, or the image in it. Return how many device nodes were skipped, and the
    image's command."""
    label = "standard input" if source == "-" else source
    if source == "-" and os.isatty(0):
        raise Usage("standard input is a terminal, not an archive")
    with open(0 if source == "-" else source, "rb", buffering=0, closefd=source != "-") as stream:
        left = untar.extract(stream, label, target, progress)
    if not container.is_image(target):
        return left, None
    with cache.scratch("masters", "image") as work:
        inside = os.path.join(work, "image")
        os.mkdir(inside)
        for entry in os.listdir(target):
            os.rename(os.path.join(target, entry), os.path.join(inside, entry))
        return container.unpack(inside, label, target, progress)


def _name_for(source: str) -> str:
    """The default name: that of the directory or the archive."""
    if source == "-":
        raise Usage("an archive on standard input needs a name", hint="--name NAME")
    base = os.path.basename(os.path.abspath(source))
    archive = _ARCHIVE_NAME.fullmatch(base)
    return archive[1] if archive and not os.path.isdir(source) else base
