"""Templates: a layer for each guest, loaded over the whole lab and taken away again.

templates/T/NAME holds what guest NAME gets. While T is loaded it lies on top of every stack, so
what guests write goes into it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from dumm_tools import files, names, overlay, stack, tree
from dumm_tools.errors import Conflict, NotFound
from dumm_tools.state import Transaction, load, transaction


@dataclass(frozen=True, slots=True)
class TemplateView:
    """A template, whether it is loaded, and the guests it has files for."""

    name: str
    loaded: bool
    guests: list[str]


def _place(root: str, name: str = "") -> str:
    return os.path.join(root, "templates", name)


def _known(root: str, name: str, hint: str | None = None) -> str:
    names.pack(name, "template name")
    if not os.path.isdir(_place(root, name)):
        raise NotFound(f"no template '{name}'", hint=hint)
    return name


def load_(root: str, name: str) -> None:
    """Put a template on top of all guests' stacks, in the place of the one that is loaded."""
    with transaction(root) as change:
        _known(root, name, f"dumm-fs template save {name}")
        stack.settle(root, change.state)
        _set(root, change, name)


def unload(root: str) -> None:
    """Take the loaded template away; Conflict when none is."""
    with transaction(root) as change:
        stack.settle(root, change.state)
        if change.state.template is None:
            raise Conflict("no template is loaded")
        _set(root, change, None)


def _set(root: str, change: Transaction, name: str | None) -> None:
    state = change.state
    if state.template == name:
        return

    def edit() -> None:
        state.template = name

    stack.restack(root, change, list(state.guests.values()), edit)


def save(root: str, name: str) -> None:
    """Keep what guests changed as a template: of the loaded template, else of host/NAME. Conflict
    when there is one of that name. Guests may run, and change their files meanwhile."""
    names.pack(name, "template name")
    state = load(root)
    final = _place(root, name)
    if os.path.lexists(final):
        raise Conflict(f"template '{name}' exists already")
    os.makedirs(_place(root), 0o700, exist_ok=True)
    with files.staged(final) as scratch:
        for guest in state.guests:
            source = (
                overlay.template_layer(root, state.template, guest)
                if state.template
                else overlay.paths(root, guest)[1]
            )
            os.mkdir(os.path.join(scratch, guest))
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                marks = files.marks(root, state, guest)
                tree.copy(source, os.path.join(scratch, guest), marks=marks, live=True)


def list_(root: str) -> list[TemplateView]:
    """All templates, by name."""
    state = load(root)
    place = _place(root)
    found = []
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
        if not name.startswith(".") and os.path.isdir(_place(root, name)):
            guests = sorted(os.listdir(_place(root, name)))
            found.append(TemplateView(name, name == state.template, guests))
    return found


def delete(root: str, name: str) -> None:
    """Delete a template; Conflict while it is loaded."""
    with transaction(root) as change:
        place = _known(root, name) and _place(root, name)
        stack.settle(root, change.state)
        if change.state.template == name:
            raise Conflict(f"template '{name}' is loaded", hint="dumm-fs template unload")
        tree.refuse_mounts(place)
        # Gone at once, and as a whole, however long the rest takes, or if we are killed.
        gone = files.temporary(place)
        os.rename(place, gone)
    files.sweep(place)
