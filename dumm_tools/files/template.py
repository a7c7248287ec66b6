"""Templates: a layer for each guest, loaded for the whole lab and unloaded again.

templates/T/NAME contains the layer of guest NAME. While T is loaded, it is on top of every stack,
so guests write to it.
"""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from dumm_tools import missing, names
from dumm_tools.errors import Conflict, DummError, NotFound
from dumm_tools.files import changes, copies, exchange, mounts, stack
from dumm_tools.model import Guest, State
from dumm_tools.running import blocks, liveness, turn
from dumm_tools.statefile import load, transaction
from dumm_tools.trees import comparing, copying, staging, tree

#: The option of `load` for a copy.
FRESH = "--fresh"
#: The loaded template, among the changes of blocks.
SUBJECT = ("template",)


class TemplateView(NamedTuple):
    """A template, whether it is loaded, and the guests that it has files for; `fresh`: whether
    guests write to a copy of it."""

    name: str
    loaded: bool
    guests: list[str]
    fresh: bool


def _place(labdir: str, name: str = "") -> str:
    return os.path.join(labdir, "templates", name)


def known(labdir: str, name: str) -> str:
    """The name of a template; NotFound if there is none."""
    return _known(labdir, name, f"dumm-fs template load {name} --create, or template save {name}")


def _known(labdir: str, name: str, hint: str | None = None) -> str:
    names.pack(name, "template name")
    if not os.path.isdir(_place(labdir, name)):
        known = [each.name for each in list_(labdir)]
        raise NotFound(f"no template '{name}'", hint=missing.similar(name, known, hint))
    return name


def load_(
    labdir: str,
    name: str,
    *,
    create: bool = False,
    fresh: bool = False,
    on_error: stack.OnError = stack.raised,
    warn: stack.Warn = stack.silent,
) -> None:
    """Put a template on top of all guests' stacks, replacing the loaded one; an empty new one, if
    it does not exist and with `create`; with `fresh` a copy of it, which is dropped when something
    else is loaded. Guests that do not do their part are reported to
    `on_error`, programs that do not see it to `warn`."""
    load(labdir)
    names.pack(name, "template name")
    with turn.of_templates(labdir), contextlib.ExitStack() as undo:
        if create and not os.path.isdir(place := _place(labdir, name)):
            os.makedirs(_place(labdir), 0o700, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # not a directory: reported below
                os.mkdir(place, 0o700)
                undo.callback(_discard, labdir, name)
        known(labdir, name)
        blocks.forget(labdir, [SUBJECT])
        undo.callback(copies.drop, labdir)
        _set(labdir, name, copies.make(labdir, name) if fresh else None, on_error, warn)
        undo.pop_all()


def block(labdir: str, name: str, *, fresh: bool = False) -> blocks.Block:
    """Note that a template is about to be loaded for the time of a command."""
    after = f"{name} {FRESH}" if fresh else name
    return blocks.begin(labdir, lambda: [blocks.Change(SUBJECT, words(load(labdir)), after)])


def words(state: State) -> str | None:
    """The loaded template as the words of `load`; None if there is none."""
    return f"{state.template} {FRESH}" if state.fresh is not None else state.template


def put_back(
    labdir: str,
    block: blocks.Block,
    *,
    on_error: stack.OnError = stack.raised,
    warn: stack.Warn = stack.silent,
) -> None:
    """Undo the loading of a template: load the earlier one, if there was one. If another command
    has loaded something else since, that stays."""
    with blocks.ending(labdir, block) as look, turn.of_templates(labdir):
        for change in look():
            if words(load(labdir)) == change.after:
                earlier, _, option = str(change.before or "").partition(" ")
                if not earlier or not os.path.isdir(_place(labdir, earlier)):
                    _set(labdir, None, None, on_error, warn)  # none, or deleted meanwhile
                    continue
                copy = copies.make(labdir, earlier) if option else None
                _set(labdir, earlier, copy, on_error, warn)


def _discard(labdir: str, name: str) -> None:
    """Remove a template that nobody has written to."""
    place = _place(labdir, name)
    with contextlib.suppress(OSError):
        for guest in os.listdir(place):
            os.rmdir(os.path.join(place, guest))
        os.rmdir(place)


def unload(
    labdir: str,
    *,
    if_exists: bool = False,
    on_error: stack.OnError = stack.raised,
    warn: stack.Warn = stack.silent,
) -> None:
    """Unload the loaded template; Conflict if there is none, unless `if_exists`."""
    load(labdir)
    with turn.of_templates(labdir):
        loaded = load(labdir).template
        _set(labdir, None, None, on_error, warn)
    if loaded is None and not if_exists:
        raise Conflict("no template is loaded")


def _set(
    labdir: str, name: str | None, fresh: str | None, on_error: stack.OnError, warn: stack.Warn
) -> None:
    state = load(labdir)

    def edit(state: State, _guests: list[Guest]) -> None:
        state.template, state.fresh = name, fresh

    # Another command may have been killed halfway.
    same = (state.template, state.fresh) == (name, fresh)
    guests = [g for g in state.guests if not same or mounts.is_unsettled(labdir, g)]
    if guests or not same:
        stack.restack(
            labdir, guests, lambda *_: None, edit, whole=True, on_error=on_error, warn=warn
        )
    copies.drop(labdir)


def save(labdir: str, name: str, *, may_exist: bool = False) -> None:
    """Save the changes of guests as a template: those in the loaded template, or else in host/NAME.
    Conflict if the name is in use, unless `may_exist` and the template contains these changes.
    Guests may be running, and change their files meanwhile."""
    names.pack(name, "template name")
    state = load(labdir)
    final = _place(labdir, name)
    if os.path.lexists(final):
        if may_exist and os.path.isdir(final):
            _need_same(labdir, state, name)
            return
        raise Conflict(f"template '{name}' already exists")
    os.makedirs(_place(labdir), 0o700, exist_ok=True)
    with changes.staged(final) as scratch:
        for guest in state.guests:
            os.mkdir(os.path.join(scratch, guest))
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                marks = changes.marks(labdir, state, guest)
                source = _changes_of(labdir, state, guest)
                copying.copy_tree(source, os.path.join(scratch, guest), marks=marks, live=True)


def _changes_of(labdir: str, state: State, guest: str) -> str:
    """The directory with the changes of a guest that are saved."""
    if state.loaded:
        return mounts.template_layer(labdir, state.loaded, guest)
    return mounts.paths(labdir, guest)[1]


def _need_same(labdir: str, state: State, name: str) -> None:
    """Raise Conflict unless a template is what `save` would make."""
    if name == state.loaded:
        return
    for guest in state.guests:
        there = mounts.template_layer(labdir, name, guest)
        found = comparing.difference(_changes_of(labdir, state, guest), there)
        if found is not None:
            raise Conflict(
                f"template '{name}' already exists, and '{os.fsdecode(found)}' of guest '{guest}'"
                " differs from it",
                hint=f"dumm-fs template delete {name}",
            )


def list_(labdir: str) -> list[TemplateView]:
    """All templates, by name."""
    state = load(labdir)
    place = _place(labdir)
    found = []
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
        if not name.startswith(".") and os.path.isdir(_place(labdir, name)):
            guests = sorted(os.listdir(_place(labdir, name)))
            is_loaded = name == state.template
            fresh = is_loaded and state.fresh is not None
            found.append(TemplateView(name, is_loaded, guests, fresh))
    return found


def delete(labdir: str, name: str, *, if_exists: bool = False) -> None:
    """Delete a template; Conflict while it is loaded, or a guest may still use it."""
    for guest in load(labdir).guests:
        if mounts.is_unsettled(labdir, guest):
            with contextlib.suppress(DummError, OSError), turn.taken(labdir, guest, turn.PROMPT):
                exchange.settle(labdir, guest, turn.PROMPT)
    with transaction(labdir) as change:
        place = _place(labdir, names.pack(name, "template name"))
        if if_exists and not os.path.lexists(place):
            return
        _known(labdir, name)
        if change.state.template == name:
            raise Conflict(f"template '{name}' is loaded", hint="dumm-fs template unload")
        for guest in change.state.guests:
            if mounts.is_unsettled(labdir, guest) and liveness.alive(labdir, guest):
                raise Conflict(f"guest '{guest}' may still use template '{name}'")
        tree.refuse_mounts(place)
        # It disappears at once and as a whole, even if the rest takes long or we are killed.
        staging.put_aside(place)
    staging.sweep(*os.path.split(place))
