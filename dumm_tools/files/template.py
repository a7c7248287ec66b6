"""Templates: a layer for each guest, loaded over the whole lab and taken away again.

templates/T/NAME holds what guest NAME gets. While T is loaded it lies on top of every stack, so
what guests write goes into it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from dumm_tools import names
from dumm_tools.errors import Conflict, DummError, NotFound
from dumm_tools.files import changes, exchange, mounts, stack
from dumm_tools.model import Guest, State
from dumm_tools.running import liveness, turn
from dumm_tools.statefile import load, transaction
from dumm_tools.trees import tree


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


def load_(root: str, name: str, *, on_error: stack.OnError = stack.raised) -> None:
    """Put a template on top of all guests' stacks, in the place of the one that is loaded; guests
    that do not do their part are told to `on_error`."""
    load(root)
    _known(root, name, f"dumm-fs template save {name}")
    with turn.of_templates(root):
        _set(root, name, on_error)


def unload(root: str, *, on_error: stack.OnError = stack.raised) -> None:
    """Take the loaded template away; Conflict when none is."""
    load(root)
    with turn.of_templates(root):
        loaded = load(root).template
        _set(root, None, on_error)
    if loaded is None:
        raise Conflict("no template is loaded")


def _set(root: str, name: str | None, on_error: stack.OnError) -> None:
    state = load(root)

    def edit(state: State, _guests: list[Guest]) -> None:
        state.template = name

    # Another command may have been killed in the middle.
    same = state.template == name
    guests = [g for g in state.guests if not same or mounts.is_unsettled(root, g)]
    if guests or not same:
        stack.restack(root, guests, lambda *_: None, edit, whole=True, on_error=on_error)


def save(root: str, name: str) -> None:
    """Keep what guests changed as a template: of the loaded template, else of host/NAME. Conflict
    when there is one of that name. Guests may run, and change their files meanwhile."""
    names.pack(name, "template name")
    state = load(root)
    final = _place(root, name)
    if os.path.lexists(final):
        raise Conflict(f"template '{name}' exists already")
    os.makedirs(_place(root), 0o700, exist_ok=True)
    with changes.staged(final) as scratch:
        for guest in state.guests:
            source = (
                mounts.template_layer(root, state.template, guest)
                if state.template
                else mounts.paths(root, guest)[1]
            )
            os.mkdir(os.path.join(scratch, guest))
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                marks = changes.marks(root, state, guest)
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
    """Delete a template; Conflict while it is loaded, or a guest may still have it."""
    for guest in load(root).guests:
        if mounts.is_unsettled(root, guest):
            with contextlib.suppress(DummError, OSError), turn.taken(root, guest, turn.PROMPT):
                exchange.settle(root, guest, turn.PROMPT)
    with transaction(root) as change:
        place = _known(root, name) and _place(root, name)
        if change.state.template == name:
            raise Conflict(f"template '{name}' is loaded", hint="dumm-fs template unload")
        for guest in change.state.guests:
            if mounts.is_unsettled(root, guest) and liveness.alive(root, guest):
                raise Conflict(f"guest '{guest}' may still have template '{name}'")
        tree.refuse_mounts(place)
        # Gone at once, and as a whole, however long the rest takes, or if we are killed.
        gone = changes.temporary(place)
        os.rename(place, gone)
    changes.sweep(place)
