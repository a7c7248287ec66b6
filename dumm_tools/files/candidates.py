"""The paths that a word may become, for completion.

A guest's files are read on the host, as the guest sees them, so it need not run and is not asked.
The files may be hostile: whatever their number, only so many are looked at, links stay in the
guest's tree, and names that cannot be typed are left out.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from dumm_tools.files import changes, choice, mounts
from dumm_tools.linux import openat2
from dumm_tools.running import guest_views
from dumm_tools.statefile import load
from dumm_tools.trees import layer

#: Most paths that are offered, and entries of a directory that are looked at.
_MOST = 500
_LOOKED_AT = 20_000
#: Most symbolic links on the way to a directory, as in the kernel (path_resolution(7)).
_LINKS_MAX = 40

#: A stack of layers, top first: paths and descriptors.
Stack = Sequence[str | int]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC


def in_guest(labdir: str, name: str, beginning: str) -> list[str]:
    """The paths in a guest that begin with `beginning`, sorted; directories end in a slash.
    NotFound, OSError if the path leads nowhere."""
    state = load(labdir)
    guest = guest_views.get(state, name)
    head, slash, last = beginning.rpartition("/")
    if mounts.is_mounted(labdir, state, name):
        found = _mounted(mounts.paths(labdir, name)[0], head, last)
    else:
        master = choice.resolve_master(labdir, guest).path
        with contextlib.ExitStack() as opened:
            layers = mounts.opened_layers(opened, labdir, state, guest, master)
            stack = [each for each in layers if isinstance(each, int) or os.path.isdir(each)]
            found = _layered(stack, changes.marks(labdir, state, name), head, last)
    return _sorted(head + slash, found)


def here(beginning: str) -> list[str]:
    """The entries of the current directory that begin with `beginning`."""
    try:
        fd = os.open(".", _DIRECTORY)
    except OSError:
        return []
    try:
        found = [(name, os.path.isdir(name)) for name in _matching(fd, beginning)]
    finally:
        os.close(fd)
    return [path for path in _sorted("", found) if ":" not in path]


def _sorted(before: str, found: Iterable[tuple[str, bool]]) -> list[str]:
    typeable = [each for each in islice(found, _MOST) if each[0].isprintable()]
    return [f"{before}{name}{'/' * is_directory}" for name, is_directory in sorted(typeable)]


def _matching(fd: int, beginning: str) -> Iterator[str]:
    with os.scandir(fd) as entries:
        for each in islice(entries, _LOOKED_AT):
            if each.name.startswith(beginning):
                yield each.name


def _mounted(tree: str, directory: str, beginning: str) -> list[tuple[str, bool]]:
    """Entries of a directory in a tree, and whether each is, or leads to, a directory."""
    top = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2.open_in_root(top, f"/{directory}", _DIRECTORY)
        try:
            return [
                (name, _is_directory(top, f"/{directory}/{name}"))
                for name in islice(_matching(fd, beginning), _MOST)
            ]
        finally:
            os.close(fd)
    finally:
        os.close(top)


def _is_directory(top: int, path: str) -> bool:
    try:
        fd = openat2.open_in_root(top, path, os.O_PATH)
    except OSError:
        return False
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _layered(
    stack: Stack, marks: layer.Marks, directory: str, beginning: str
) -> list[tuple[str, bool]]:
    """The same for a stack of layers that is not mounted: that of a guest that does not run."""
    found: dict[str, bool] = {}
    with _directory(stack, marks, _parts(directory)) as merged:
        for fd in merged.fds:
            for name in islice(_matching(fd, beginning), _MOST):
                raw = os.fsencode(name)
                if name not in found and not layer.is_mark(raw, marks) and merged.look(raw):
                    found[name] = _leads_to_directory(stack, marks, directory, name)
    return list(found.items())


def _leads_to_directory(stack: Stack, marks: layer.Marks, directory: str, name: str) -> bool:
    try:
        with _directory(stack, marks, [*_parts(directory), os.fsencode(name)]):
            return True
    except OSError:
        return False


def _parts(path: str) -> list[bytes]:
    return [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]


def _directory(stack: Stack, marks: layer.Marks, parts: list[bytes]) -> layer.Directory:
    """A directory of the merged tree; links, also in the middle of the path, are followed as in the
    guest. FileNotFoundError."""
    todo, links = list(parts), 0
    done: list[bytes] = []
    here = layer.Directory.open(stack, marks)
    while todo:
        part = todo.pop(0)
        if part == b"..":
            todo, done = [*done[:-1], *todo], []
        else:
            seen = here.look(part)
            if seen is not None and stat.S_ISDIR(seen[1].st_mode):
                with here:
                    here = here.below(part)
                done.append(part)
                continue
            links += 1
            if seen is None or not stat.S_ISLNK(seen[1].st_mode) or links > _LINKS_MAX:
                with here:
                    raise FileNotFoundError(os.fsdecode(part))
            target = os.readlink(part, dir_fd=seen[0])
            base = [] if target.startswith(b"/") else done
            todo, done = [*base, *_parts(os.fsdecode(target)), *todo], []
        with here:
            here = layer.Directory.open(stack, marks)
    return here
