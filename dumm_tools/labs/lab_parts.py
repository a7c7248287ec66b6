"""The parts of a saved lab: which files are where in its archive (`lab_archive`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from dumm_tools import names
from dumm_tools.errors import Conflict, NotFound
from dumm_tools.files import changes, mounts, overlay
from dumm_tools.labs import lab_archive
from dumm_tools.labs.lab_archive import Image
from dumm_tools.linux import openat2
from dumm_tools.model import State
from dumm_tools.running import startup_file
from dumm_tools.trees import layer, layer_tar, tarring

_HINT = "dumm-guest set --files, or --no-files"


class Part(NamedTuple):
    """A part of the archive: its path in the lab, and its members."""

    path: str
    members: Callable[[str], Iterator[bytes]]


class Findings(NamedTuple):
    """Files that could not be saved as they are."""

    left_out: list[str]
    changed: list[str]


def images(found_images: Sequence[tuple[Image, str]], found: Findings) -> Iterator[Part]:
    for image, path in found_images:
        place = f"{image.kind}/{image.name}"
        if image.within and image.kind == "kernels":
            yield Part(place, partial(tarring.tree, path))
        elif image.within:
            yield _tree(path, place, layer.KERNEL, found)


def unused(name: str, taken: Sequence[str]) -> str:
    """The name, or one like it, that is not taken."""
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name}-{number}"
    return free


# ---- files of guests ----


def own(labdir: str, state: State, found: Findings) -> Iterator[Part]:
    """The own files of guests, and their startup scripts."""
    for name in state.guests:
        own = mounts.paths(labdir, name)[1]
        if os.path.isdir(own):
            yield _tree(own, f"host/{name}", changes.marks(labdir, state, name), found)
        script = startup_file.read(labdir, name)
        if script is not None:
            yield Part(f"startup/{name}", partial(tarring.text, data=script))


def templates(labdir: str, state: State, chosen: list[str], found: Findings) -> Iterator[Part]:
    place = os.path.join(labdir, "templates")
    for template in sorted(os.listdir(place)) if os.path.isdir(place) else ():
        inside = os.path.join(place, template)
        if not names.is_pack(template) or not os.path.isdir(inside):
            continue
        yield Part(f"templates/{template}", tarring.directory)
        for name in sorted(os.listdir(inside)):
            known = name in chosen if chosen else names.is_guest(name)
            path = os.path.join(inside, name)
            if known and os.path.isdir(path) and not os.path.islink(path):
                marks = changes.marks(labdir, state, name)
                yield _tree(path, f"templates/{template}/{name}", marks, found)


def _tree(root: str, path: str, marks: layer.Marks, found: Findings) -> Part:
    how = _reading(found).but(marks=marks)
    return Part(path, lambda name: layer_tar.members(root, name, how))


def _reading(found: Findings) -> layer_tar.Reading:
    skip = len(lab_archive.TOP) + 1
    return layer_tar.Reading(
        left_out=lambda name: found.left_out.append(name[skip:]),
        changed=lambda name: found.changed.append(name[skip:]),
    )


# ---- overlays, disks and files for guests, which may be anywhere ----


def places(labdir: str, state: State) -> dict[str, str]:
    """Where overlays, disks and the files for guests are in the archive: as in the working
    directory, if they are in it, and not in each other."""
    found: dict[str, str] = {}
    layers, disks = lab_archive.overlays(state), lab_archive.disk_files(state)
    given = [path for path in lab_archive.given_files(state) if path not in (*layers, *disks)]
    for folder, paths in (("overlays", layers), ("disks", disks), ("files", given)):
        others = [*found.values()]
        for path in paths:
            place = os.path.relpath(path, labdir)
            if _is_inside(labdir, path) and not _overlaps(place, others):
                found[path] = place
        while folder in found.values():
            folder += "-"
        for path in paths:
            if path not in found:
                taken = [*found.values()]
                taken += [above for place in taken for above in _above(place)]
                found[path] = unused(f"{folder}/{os.path.basename(path)}", taken)
    return found


def _above(place: str) -> list[str]:
    """The directories that a place in the archive is in."""
    parts = place.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _overlaps(place: str, others: list[str]) -> bool:
    return place in others or _is_in(place, others) or any(_is_in(o, [place]) for o in others)


def _is_inside(labdir: str, path: str) -> bool:
    """Whether a path in the working directory can be the same in another one."""
    first = os.path.relpath(path, labdir).split("/")[0]
    return first not in lab_archive.TAKEN and not first.startswith(".")


def _is_in(path: str, directories: list[str]) -> bool:
    return any(path.startswith(f"{directory}/") for directory in directories)


def outside(labdir: str, state: State, where: dict[str, str], found: Findings) -> Iterator[Part]:
    """Overlays, disks and given files: a guest that writes to a directory above one of them may put
    a link there at any time."""
    reading = _reading(found).but(open=openat2.open_plain)
    layers = lab_archive.overlays(state)
    users = {layer: guest for guest in state.guests.values() for layer in guest.overlays}
    for path in layers:
        with contextlib.ExitStack() as stack:
            overlay.open_layer(stack, users[path], path)
        if not _is_in(where[path], [where[other] for other in layers]):
            marks = changes.marks(labdir, state, users[path].name)
            how = partial(layer_tar.members, path, how=reading.but(marks=marks))
            yield Part(where[path], how)
    disks = lab_archive.disk_files(state)
    for path in disks:
        if not os.path.isfile(path):
            raise NotFound(f"no such file '{path}'")
        yield Part(where[path], partial(layer_tar.plain_file, path, how=reading))
    for path in lab_archive.given_files(state):
        if path in (*layers, *disks):
            continue  # it is in the archive already
        if not os.path.isdir(path) and not os.path.isfile(path):
            raise NotFound(f"cannot find files '{path}'", hint=_HINT)
        if os.path.realpath(path) != path:
            raise Conflict(f"part of the path '{path}' has been replaced with a link", hint=_HINT)
        if _is_in(where[path], [*where.values()]):
            continue
        if os.path.isdir(path):
            yield Part(where[path], partial(layer_tar.members, path, how=reading))
        else:
            yield Part(where[path], partial(layer_tar.plain_file, path, how=reading, mode=None))
