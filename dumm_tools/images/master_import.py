"""Making masters from what others have: directories, archives, container images."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

from dumm_tools import names
from dumm_tools.errors import Conflict, NotFound, Usage
from dumm_tools.images import cache, container, facts, master, startup
from dumm_tools.model import RootFS
from dumm_tools.trees import comparing, copying, untar

Report = Callable[[str], None]

_ARCHIVE_NAME = re.compile(
    r"(.+?)\.(tar(\.\w+)?|tgz|tbz2?|txz|tzst|oci|cpio(\.\w+)?)", re.IGNORECASE
)


def import_(
    source: str,
    name: str | None = None,
    *,
    rootfs: RootFS | None = None,
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
    with master.build(name, rootfs, may_exist=may_exist, progress=progress) as target:
        if target is None:
            _need_same(source, name, progress)
            return name
        left, command = _fill(source, target, progress)
        # A tree collected in a private directory is not meant to lock out everyone.
        os.chmod(target, os.stat(target).st_mode & 0o7777 | 0o555)
        master.resolve(target)
        startup.record(name, command)
        _record(source, name)
    if left and warn:
        warn(f"skipped {left} device nodes and sockets: guests make their own")
    return name


def _fill(source: str, target: str, progress: Report | None) -> tuple[int, startup.Command | None]:
    """Return how many device nodes were skipped, and the image's command."""
    if source == "-" or not os.path.isdir(source):
        return _of_archive(source, target, progress)
    if container.is_image(source):
        return container.unpack(source, source, target, progress)
    master.resolve(os.path.abspath(source))  # refuses an empty one early
    return copying.copy_tree(source, target, skip=_ours(), live=True), None


def _ours() -> tuple[str, ...]:
    return (os.path.dirname(cache.directory("masters")),)


def _need_same(source: str, name: str, progress: Report | None) -> None:
    """Conflict unless the master `name` is what an import of the source would make."""
    path = os.path.join(cache.directory("masters"), name)
    label = "standard input" if source == "-" else source
    if _identity(source) == facts.read(path).get("archive", ()):
        return
    if source != "-" and os.path.isdir(source) and not container.is_image(source):
        found = comparing.difference(source, path, owners=False, skip=_ours())
        same_command = True
    else:
        with cache.scratch("masters", "compare") as work:
            tree = os.path.join(work, "tree")
            os.mkdir(tree)
            _, command = _fill(source, tree, progress)
            # Many archives have whole seconds only.
            found = comparing.difference(tree, path, unit=1_000_000_000)
            same_command = command == startup.command_of(path)
    if found is not None or not same_command:
        what = f"'{os.fsdecode(found)}'" if found is not None else "the command"
        raise Conflict(
            f"master '{name}' already exists, and {what} in '{label}' differs from it",
            hint="choose another name with --name",
        )
    _record(source, name)


def _record(source: str, name: str) -> None:
    """Keep what identifies an archive, so that it need not be unpacked to be recognized."""
    identity = _identity(source)
    if identity is not None:
        facts.record(name, archive=identity)


def _identity(source: str) -> list[object] | None:
    """The path, size and time of an archive; None for anything else."""
    try:
        info = os.stat(source)
    except OSError:  # standard input, or it has just been removed
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    return [os.path.realpath(source), info.st_size, info.st_mtime_ns]


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
