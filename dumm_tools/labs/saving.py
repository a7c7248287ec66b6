"""Save a lab as one archive (`lab_archive`).

The lab is not entered: what is read are its directories, with the owners that the lab's namespaces
give the files, and programs that need threads may be run. Guests may be running.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from dumm_tools import names
from dumm_tools.errors import Conflict
from dumm_tools.files import given
from dumm_tools.guests import disks
from dumm_tools.images import cache, digest, facts, kernel, master
from dumm_tools.labs import description, lab_archive, lab_parts
from dumm_tools.labs.lab_archive import FACTS, Contents, Image
from dumm_tools.model import State
from dumm_tools.running import guest_views, liveness
from dumm_tools.statefile import load
from dumm_tools.trees import archive_file, tarring

Report = Callable[[str], None]

_SHOWN = 3


def save(
    labdir: str,
    target: str,
    only: Sequence[str] = (),
    *,
    with_masters: bool = False,
    progress: Report | None = None,
    warn: Report,
    note: Report,
) -> None:
    """Write the lab, or the guests `only` with their interfaces and bridges, to a file, whole or
    not at all, or to stdout (`-`)."""
    state = load(labdir)
    chosen = [guest_views.get(state, name).name for name in dict.fromkeys(only)]
    if chosen:
        _narrow(state, chosen)
    running = [name for name in sorted(state.guests) if liveness.alive(labdir, name)]
    found = lab_parts.Findings([], [])
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(archive_file.output(target))
        images = _images(labdir, state, with_masters, progress)
        for image, path in images if with_masters else ():
            stack.enter_context(cache.held(image.kind, path))
        places = lab_parts.places(labdir, state)
        parts = [
            *lab_parts.own(labdir, state, found),
            *lab_parts.templates(labdir, state, chosen, found),
            *lab_parts.outside(labdir, state, places, found),
            *lab_parts.images(images, found),
        ]
        contents = Contents(
            _portable(state, places),
            description.default(labdir, "linux"),
            description.default(labdir, "master"),
            [image for image, _ in images],
        )
        lab_archive.Layout(contents)  # what cannot be restored is not saved
        archive_file.write(tarring.ended(_members(contents, parts)), fd, progress)
    if state.fresh is not None:
        warn(f"template '{state.template}' is loaded with --fresh: saved as it was before")
    if running:
        note(f"saved while running, perhaps without what was written last: {_some(running)}")
    if found.changed:
        warn(f"changed while being saved: {_some(found.changed)}")
    if found.left_out:
        warn(f"skipped devices, sockets and very deep files: {_some(found.left_out)}")


def _some(found: list[str]) -> str:
    text = ", ".join(found[:_SHOWN])
    return text + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _members(contents: Contents, parts: list[lab_parts.Part]) -> Iterator[bytes]:
    yield from tarring.text(f"{lab_archive.TOP}/{lab_archive.FILE}", lab_archive.encode(contents))
    for part in sorted(parts, key=lambda part: os.fsencode(part.path)):
        yield from part.members(f"{lab_archive.TOP}/{part.path}")


def _narrow(state: State, chosen: list[str]) -> None:
    """Leave in the state only these guests, their interfaces, and the bridges of these."""
    state.guests = {name: state.guests[name] for name in sorted(chosen)}
    state.ifaces = {name: i for name, i in state.ifaces.items() if i.guest in state.guests}
    used = {iface.bridge for iface in state.ifaces.values()}
    state.bridges = {name: bridge for name, bridge in state.bridges.items() if name in used}


def _portable(state: State, places: dict[str, str]) -> State:
    """The state without anything that only exists here."""
    kept = {key: value for key, value in state.extra.items() if key not in ("holder", "opened")}
    new = state.but(id="0" * 12, lock_inode=0, isolated=False, fresh=None, extra=kept)
    new.guests = {}
    for name, guest in state.guests.items():
        files = [disks.parse(text) for text in guest.disks]
        sources = [given.parse(text) for text in guest.files]
        new.guests[name] = guest.but(
            boot=None,
            overlays=[f"/{places[path]}" for path in guest.overlays],
            disks=[disks.written(d._replace(path=f"/{places[d.path]}")) for d in files],
            files=[given.written(g._replace(source=f"/{places[g.source]}")) for g in sources],
        )
    return new


# ---- masters and packs ----


def _images(
    labdir: str, state: State, with_masters: bool, progress: Report | None
) -> list[tuple[Image, str]]:
    """The masters and packs that the lab needs, with their paths."""
    kernels = {description.default(labdir, "linux"), *(g.kernel for g in state.guests.values())} - {
        None
    }
    masters = {
        description.default(labdir, "master"),
        *(g.master for g in state.guests.values()),
    } - {None}
    found: list[tuple[Image, str]] = []
    wanted: list[tuple[cache.Kind, set[str | None]]] = [("kernels", kernels), ("masters", masters)]
    for kind, specs in wanted:
        for spec in sorted(filter(None, specs)):
            path = kernel.resolve(spec).path if kind == "kernels" else master.resolve(spec).path
            if with_masters and not os.path.isdir(path):
                hint = f"dumm-fs kernel import {path}"
                raise Conflict(f"kernel '{path}' is not a pack, which could be saved", hint=hint)
            name = _name(spec, [image.name for image, _ in found if image.kind == kind])
            known = facts.read(path) if kind == "masters" else {}
            kept = {key: known[key] for key in FACTS & known.keys() if with_masters}
            checksum = digest.of(kind, path, progress)
            found.append((Image(kind, spec, name, checksum, with_masters, kept), path))
    return found


def _name(spec: str, taken: list[str]) -> str:
    """The name for a master or a pack that is called `spec`, perhaps a path."""
    base = os.path.basename(spec)
    base = base if names.is_pack(base) else "imported"
    return lab_parts.unused(base, taken)
