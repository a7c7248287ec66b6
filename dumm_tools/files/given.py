"""Files that the user gives a guest (`dumm-guest create --files`): before each start, a directory
of the host is copied over the guest's own files, where they differ.

They are recorded as the absolute path of a directory or a file, then, unless it is `/`, a colon and
the path in the guest. Links are followed neither on the host, when the files are copied, nor out of
the guest's tree.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.trees import copying
from dumm_tools.trees.copy_job import Job

#: The root user in guests, as the host sees it.
_ROOT = (0, 0)


class Given(NamedTuple):
    """A directory or file on the host, and its path in the guest."""

    source: str
    place: str = "/"


def parse(text: str) -> Given:
    """The files in their written form: the path in the guest begins after the last `:/`."""
    source, colon, place = text.rpartition(":/")
    if not colon:
        return Given(text)
    return Given(source, posixpath.normpath("/" + place.lstrip("/")))


def written(given: Given) -> str:
    """The written form of files."""
    if given.place == "/" and ":/" not in given.source:
        return given.source
    return f"{given.source}:{given.place}"


def checked(labdir: str, texts: Sequence[str]) -> list[str]:
    """The records of files that a user names. Usage, NotFound."""
    return [written(_checked(labdir, text)) for text in texts]


def _checked(labdir: str, text: str) -> Given:
    given = parse(text)
    if not given.source:
        raise Usage(f"--files '{text}' names no directory")
    given = given._replace(source=os.path.realpath(given.source))
    try:
        mode = os.stat(given.source).st_mode
    except OSError as e:
        raise NotFound(f"cannot find files '{given.source}': {e.strerror}") from None
    if stat.S_ISDIR(mode):
        if f"{labdir}/".startswith(given.source.rstrip("/") + "/"):
            raise Usage(f"'{given.source}' contains the working set, and the guest's own files")
    elif not stat.S_ISREG(mode):
        raise Usage(f"'{given.source}' is neither a directory nor a regular file")
    elif given.place == "/":
        raise Usage(
            f"'{given.source}' is a file, which needs a path in the guest",
            hint=f"--files '{given.source}:/PATH/{os.path.basename(given.source)}'",
        )
    return given


def put(tree: str, name: str, texts: Sequence[str], warn: Callable[[str], None]) -> None:
    """Copy a guest's files to its mounted tree, where they differ. DummError, NotFound, Conflict;
    devices and sockets are left out and reported to `warn`."""

    def skipped(what: str) -> None:
        warn(f"guest '{name}': {what}: skipped")

    top = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = _ROOT if os.geteuid() == 0 else None
        job = Job(top, skipped, replace=True, owner=owner, update=True)
        for given in map(parse, texts):
            try:
                _put(job, given)
            except OSError as e:
                raise DummError(
                    f"cannot copy files '{given.source}' to guest '{name}': "
                    f"'{e.filename or given.place}': {e.strerror}"
                ) from None
    finally:
        os.close(top)


def _put(job: Job, given: Given) -> None:
    where = tuple(part for part in given.place.split("/") if part)
    above, name = os.path.split(given.source)
    at = _open_way(above, given.source)
    try:
        try:
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            raise _gone(given.source, errno.ENOENT) from None
        if is_directory:
            src = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            try:
                copying.update(job, src, where, given.source)
            finally:
                os.close(src)
        else:
            copying.update_file(job, at, name, where, given.source)
    finally:
        os.close(at)


def _open_way(path: str, source: str) -> int:
    """Open a directory whose path had no links when it was recorded, and follow none now."""
    from dumm_tools.linux import openat2

    try:
        return openat2.open_plain(path, os.O_PATH | os.O_DIRECTORY)
    except OSError as e:
        raise _gone(source, e.errno or 0) from None


def _gone(source: str, number: int) -> DummError:
    hint = "dumm-guest set --files, or --no-files"
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and os.path.exists(source):
        return Conflict(f"part of the path '{source}' has been replaced with a link", hint=hint)
    return NotFound(f"cannot find files '{source}': {os.strerror(number)}", hint=hint)
