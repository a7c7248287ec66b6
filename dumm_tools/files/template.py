"""Templates: a layer for each guest, loaded for the whole lab and unloaded again.

templates/T/NAME contains the layer of guest NAME. While T is loaded, it is on top of every stack,
so guests write to it.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from dumm_tools import names
from dumm_tools.errors import Conflict, DummError, NotFound
from dumm_tools.files import changes, exchange, mounts, stack
from dumm_tools.model import Guest, State
from dumm_tools.running import liveness, turn
from dumm_tools.statefile import load, transaction
from dumm_tools.trees import copying, staging, tree


class TemplateView(NamedTuple):
    """A template, whether it is loaded, and the guests that it has files for."""

    name: str
    loaded: bool
    guests: list[str]


def _place(labdir: str, name: str = "") -> str:
    return os.path.join(labdir, "templates", name)


def _known(labdir: str, name: str, hint: str | None = None) -> str:
    names.pack(name, "template name")
    if not os.path.isdir(_place(labdir, name)):
        raise NotFound(f"no template '{name}'", hint=hint)
    return name


def load_(
    labdir: str,
    name: str,
    *,
    on_error: stack.OnError = stack.raised,
    warn: stack.Warn = stack.silent,
) -> None:
    """Put a template on top of all guests' stacks, replacing the loaded one; guests that do not do
    their part are reported to `on_error`, programs that do not see it to `warn`."""
    load(labdir)
    _known(labdir, name, f"dumm-fs template save {name}")
    with turn.of_templates(labdir):
        _set(labdir, name, on_error, warn)


def unload(
    labdir: str, *, on_error: stack.OnError = stack.raised, warn: stack.Warn = stack.silent
) -> None:
    """Unload the loaded template; Conflict if there is none."""
    load(labdir)
    with turn.of_templates(labdir):
        loaded = load(labdir).template
        _set(labdir, None, on_error, warn)
    if loaded is None:
        raise Conflict("no template is loaded")


def _set(labdir: str, name: str | None, on_error: stack.OnError, warn: stack.Warn) -> None:
    state = load(labdir)

    def edit(state: State, _guests: list[Guest]) -> None:
        state.template = name

    # Another command may have been killed halfway.
    same = state.template == name
    guests = [g for g in state.guests if not same or mounts.is_unsettled(labdir, g)]
    if guests or not same:
        stack.restack(
            labdir, guests, lambda *_: None, edit, whole=True, on_error=on_error, warn=warn
        )


def save(labdir: str, name: str) -> None:
    """Save the changes of guests as a template: those in the loaded template, or else in host/NAME.
    Conflict if the name is in use. Guests may be running, and change their files meanwhile."""
    names.pack(name, "template name")
    state = load(labdir)
    final = _place(labdir, name)
    if os.path.lexists(final):
        raise Conflict(f"template '{name}' already exists")
    os.makedirs(_place(labdir), 0o700, exist_ok=True)
    with changes.staged(final) as scratch:
        for guest in state.guests:
            source = (
                mounts.template_layer(labdir, state.template, guest)
                if state.template
                else mounts.paths(labdir, guest)[1]
            )
            os.mkdir(os.path.join(scratch, guest))
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                marks = changes.marks(labdir, state, guest)
                copying.copy_tree(source, os.path.join(scratch, guest), marks=marks, live=True)


def list_(labdir: str) -> list[TemplateView]:
    """All templates, by name."""
    state = load(labdir)
    place = _place(labdir)
    found = []
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
        if not name.startswith(".") and os.path.isdir(_place(labdir, name)):
            guests = sorted(os.listdir(_place(labdir, name)))
            found.append(TemplateView(name, name == state.template, guests))
    return found


def delete(labdir: str, name: str) -> None:
    """Delete a template; Conflict while it is loaded, or a guest may still use it."""
    for guest in load(labdir).guests:
        if mounts.is_unsettled(labdir, guest):
            with contextlib.suppress(DummError, OSError), turn.taken(labdir, guest, turn.PROMPT):
                exchange.settle(labdir, guest, turn.PROMPT)
    with transaction(labdir) as change:
        place = _known(labdir, name) and _place(labdir, name)
        if change.state.template == name:
            raise Conflict(f"template '{name}' is loaded", hint="dumm-fs template unload")
        for guest in change.state.guests:
            if mounts.is_unsettled(labdir, guest) and liveness.alive(labdir, guest):
                raise Conflict(f"guest '{guest}' may still use template '{name}'")
        tree.refuse_mounts(place)
        # It disappears at once and as a whole, even if the rest takes long or we are killed.
        staging.put_aside(place)
    staging.sweep(*os.path.split(place))
