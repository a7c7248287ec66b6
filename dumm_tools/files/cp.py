"""Copying files between the host and guests, and between guests (`dumm-fs cp`).

A path in a guest is resolved as the guest itself would: its links, including absolute ones, and its
`..` stay in its tree. The copying is done by `copying.py`.

A running guest resolves each name anew (hostfs), except for files that its processes have open,
which stay the same until they are closed. Files are therefore replaced and never written to in
place: a process of the guest sees either the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dumm_tools import names
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.files import choice, mounts
from dumm_tools.running import guest_views, liveness, turn
from dumm_tools.statefile import load, transaction
from dumm_tools.trees import copying
from dumm_tools.trees.copy_job import Job

Report = Callable[[str], None]
OnError = Callable[[DummError], None]

_LINKS_MAX = 40  # same as the kernel's, path_resolution(7)
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR})
_STREAM = re.compile(r"/dev/(stdout|stderr|fd/\d+)|/proc/self/fd/\d+")


class Operand(NamedTuple):
    """A path on the host (`guest` is None) or in a guest."""

    said: str
    guest: str | None
    path: str


def operand(said: str) -> Operand:
    """Parse GUEST:PATH; a colon after a slash belongs to a local name. Usage."""
    head, path = _divided(said)
    if head is None:
        if not said:
            raise Usage("an empty path")
        return Operand(said, None, said)
    if "," in head:
        raise Usage(f"'{said}' is in several guests, which only the last operand may be")
    return Operand(said, names.guest(head), f"/{path}")


def _divided(said: str) -> tuple[str | None, str]:
    """The text before the colon, and the rest; None and everything for a local name."""
    head, colon, path = said.partition(":")
    return (head, path) if colon and "/" not in head else (None, said)


def targets(labdir: str, target: str, *, everyone: bool = False) -> list[str]:
    """The targets that are meant by GUEST,GUEST...:PATH or, for all guests, by :PATH. Usage,
    NotFound."""
    head, path = _divided(target)
    if everyone:
        if head != "":
            raise Usage(
                f"'{target}' is not a path in all guests", hint="with --all, DST is written :PATH"
            )
        guests = sorted(load(labdir).guests)
    elif head is None or "," not in head:
        return [target]
    else:
        guests = list(dict.fromkeys(map(names.guest, head.split(","))))
        state = load(labdir)
        for guest in guests:
            guest_views.get(state, guest)
    return [f"{guest}:{path}" for guest in guests]


def copy(
    labdir: str,
    sources: Sequence[str],
    target: str,
    *,
    on_error: OnError,
    warn: Report,
    progress: Report = lambda _: None,
    keep_mode: bool = False,
) -> None:
    """Copy files and trees; failures are reported to `on_error`, and the rest is copied. Files that
    a guest's root user made setuid lose that on the host, unless `keep_mode` is set.

    NotFound if a guest or a path does not exist, Usage if neither side is in a guest.
    """
    froms, to = [operand(s) for s in sources], operand(target)
    if to.guest is None and all(f.guest is None for f in froms):
        raise Usage(
            "neither source nor target is in a guest",
            hint="write GUEST:PATH for a file in a guest, ./NAME for a local name with a colon",
        )
    with contextlib.ExitStack() as stack:
        roots = {
            guest: stack.enter_context(_root_of(labdir, guest))
            for guest in {o.guest for o in (*froms, to)}
            if guest is not None
        }

        def place(of: Operand) -> _Place:
            return _Place(roots[of.guest] if of.guest is not None else None)

        if to.guest is None and any(f.guest is not None for f in froms):
            _refuse_link(to)
        if to.guest is None and len(froms) == 1 and _is_stream(to.path):
            _copy_into(place(froms[0]), froms[0], to)
            return
        top, name = _target(place(to), to, len(froms) > 1)
        stack.callback(os.close, top)

        def report(error: OSError) -> None:
            on_error(DummError(f"cannot copy '{error.filename}': {_text(error)}"))

        def skipped(what: str) -> None:
            warn(f"{what}: skipped")

        jobs = {
            trusted: Job(top, skipped, report, progress, replace=True, trusted=trusted)
            for trusted in (True, False)
        }
        for each in froms:
            job = jobs[keep_mode or to.guest is not None or each.guest is None]
            _one(job, place(each), each, name, on_error)


def _refuse_link(to: Operand) -> None:
    """Raise Conflict if a guest's file would be written through a link, which may have come from a
    guest in an earlier copy. The standard streams of a process are links that belong to nobody."""
    if to.path.rstrip("/") != to.path or _STREAM.fullmatch(to.path):
        return
    if os.path.islink(to.path):
        raise Conflict(
            f"'{to.said}' is a symbolic link, which a guest's file could follow anywhere",
            hint="remove it, or name the file that it points to",
        )


def _is_stream(path: str) -> bool:
    """Whether it is a device or a FIFO of the host, which data is written to instead of being
    replaced."""
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)
    return False


def _copy_into(place: _Place, source: Operand, to: Operand) -> None:
    try:
        fd, name = place.open_parent(source.path)
    except FileNotFoundError:
        raise NotFound(f"no such file '{source.said}'") from None
    try:
        target = os.open(to.path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            copying.pour(fd, name, target)
        finally:
            os.close(target)
    except BrokenPipeError:
        raise
    except FileNotFoundError:
        raise NotFound(f"no such file '{source.said}'") from None
    except OSError as e:
        raise DummError(f"cannot copy '{source.said}' to '{to.said}': {_text(e)}") from None
    finally:
        os.close(fd)


def _text(error: OSError) -> str:
    return error.strerror or str(error)


class _Place(NamedTuple):
    """Where paths are resolved: in a guest's root directory, or on the host."""

    root: int | None

    def open(self, path: str, flags: int) -> int:
        """Open a path."""
        if self.root is None:
            return os.open(path, flags | os.O_CLOEXEC)
        from dumm_tools.linux import openat2

        return openat2.open_in_root(self.root, path, flags)

    def open_parent(self, path: str) -> tuple[int, str]:
        """The directory that contains a path without a trailing slash, and the name in it."""
        parent, name = os.path.split(path)
        return self.open(parent or ".", os.O_PATH | os.O_DIRECTORY), name


@contextlib.contextmanager
def _root_of(labdir: str, name: str) -> Iterator[int]:
    """The root directory of a guest, running or not."""
    with turn.taken(labdir, name), transaction(labdir) as change:
        guest = guest_views.get(change.state, name)
        where = mounts.paths(labdir, name)[0]
        if not mounts.is_mounted(labdir, change.state, name):
            known = liveness.pid_of(labdir, name) if liveness.alive(labdir, name) else None
            if known is not None:
                # mount/NAME was unmounted; the guest has its own. Two mounts are never made of
                # the same layers.
                where = f"/proc/{known[0]}/root/guest"
            else:
                choice.mount(labdir, change.state, guest)
        fd = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _target(place: _Place, to: Operand, many: bool) -> tuple[int, str | None]:
    """The directory to copy into, and the name to use there: None for the names of the sources."""
    try:
        return place.open(to.path, os.O_PATH | os.O_DIRECTORY), None
    except OSError as e:
        if e.errno not in _NOT_THERE:
            raise DummError(f"cannot copy to '{to.said}': {_text(e)}") from None
    if many or to.path.endswith("/"):
        raise NotFound(f"no directory '{to.said}' to copy into")
    path = to.path
    try:
        for _ in range(_LINKS_MAX):
            at, name = place.open_parent(path)
            try:
                link = os.readlink(name, dir_fd=at)
            except OSError as e:
                if e.errno not in (errno.EINVAL, errno.ENOENT):
                    os.close(at)
                    raise
                return at, name
            os.close(at)
            path = os.path.join(os.path.dirname(path), link).rstrip("/")
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except FileNotFoundError:
        raise NotFound(f"no directory for '{to.said}'") from None
    except OSError as e:
        raise DummError(f"cannot copy to '{to.said}': {_text(e)}") from None


def _one(job: Job, place: _Place, source: Operand, name: str | None, on_error: OnError) -> None:
    own = os.path.basename(source.path.rstrip("/"))
    contents = own in ("", ".", "..")
    try:
        with contextlib.ExitStack() as stack:
            try:
                if contents or source.path.endswith("/"):
                    fd = place.open(source.path, os.O_RDONLY | os.O_DIRECTORY)
                else:
                    fd, own = place.open_parent(source.path)
                stack.callback(os.close, fd)
                if not contents and not source.path.endswith("/"):
                    os.stat(own, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                raise NotFound(f"no such file '{source.said}'") from None
            if contents:
                copying.copy_directory(job, fd, name, source.said)
            elif source.path.endswith("/"):
                copying.copy_directory(job, fd, name or own, source.said)
            else:
                copying.copy(job, fd, own, name or own, source.said)
    except OSError as e:
        shown = e.filename if str(e.filename).startswith(source.said) else source.said
        on_error(DummError(f"cannot copy '{shown}': {_text(e)}"))
    except DummError as e:
        on_error(e)
