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


def _known(root: str, name: str) -> str:
    names.pack(name, "template name")
    if not os.path.isdir(_place(root, name)):
        raise NotFound(f"no template '{name}'", hint=f"dumm-fs template save {name}")
    return name


def load_(root: str, name: str) -> None:
    """Put a template on top of all guests' stacks, in the place of the one that is loaded."""
    _known(root, name)
    with transaction(root) as change:
        _set(root, change, name)


def unload(root: str) -> None:
    """Take the loaded template away; Conflict when none is."""
    with transaction(root) as change:
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
    when there is one of that name."""
    names.pack(name, "template name")
    with transaction(root) as change:
        state = change.state
        final = _place(root, name)
        if os.path.lexists(final):
            raise Conflict(f"template '{name}' exists already")
        scratch = _place(root, f".{name}.new")
        with contextlib.suppress(FileNotFoundError):
            tree.remove(scratch)
        os.makedirs(scratch, 0o700)
        try:
            for guest in state.guests:
                source = (
                    overlay.template_layer(root, state.template, guest)
                    if state.template
                    else overlay.paths(root, guest)[1]
                )
                os.mkdir(os.path.join(scratch, guest))
                if os.path.isdir(source):
                    marks = files.marks(root, state, guest)
                    tree.copy(source, os.path.join(scratch, guest), marks=marks)
            os.rename(scratch, final)
        except BaseException:
            with contextlib.suppress(OSError):
                tree.remove(scratch)
            raise


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
    _known(root, name)
    with transaction(root) as change:
        if change.state.template == name:
            raise Conflict(f"template '{name}' is loaded", hint="dumm-fs template unload")
        tree.remove(_place(root, name))
