"""Changes for the time of a command that were not undone, since that was killed."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from dumm_tools import statefile
from dumm_tools.files import template
from dumm_tools.model import Guest, State
from dumm_tools.net.shape import short_text
from dumm_tools.running import blocks
from dumm_tools.running.blocks import Change


class Left(NamedTuple):
    """A change that is still in force, and the command that undoes it."""

    text: str
    remedy: str


def of(labdir: str) -> list[Left]:
    """All of them."""
    changes = blocks.left(labdir)
    if not changes:
        return []
    state = statefile.load(labdir)
    return [_described(state, change) for change in changes if _is_in_force(state, change)]


def _is_in_force(state: State, change: Change) -> bool:
    kind, *names = change.subject
    if kind == "overlay":
        guest = state.guests.get(names[0])
        if guest is None or names[1] not in guest.overlays:
            return False
        return not change.before or bool(_above(guest, change))
    if change.before == change.after:
        return False
    if kind == "template":
        return template.words(state) == change.after
    iface = state.ifaces.get(names[0])
    return iface is not None and iface.shape.get(names[1], 0) == change.after


def _above(guest: Guest, change: Change) -> list[str]:
    """The layers below one that was moved to the top from below them."""
    if guest.overlays.index(change.subject[2]):  # something else was changed since
        return []
    return guest.overlays[1 : 1 + (change.position or 0)]


def _described(state: State, change: Change) -> Left:
    kind, *names = change.subject
    if kind == "template":
        undo = ["fs", "template", "unload"]
        if change.before is not None:
            undo = ["fs", "template", "load", *str(change.before).split()]
        name = str(change.after).partition(" ")[0]
        return _left(f"template '{name}' is still loaded", undo)
    if kind == "overlay":
        guest, layer = names
        if change.before:
            above = reversed(_above(state.guests[guest], change))
            again = [["fs", "overlay", "add", guest, each] for each in above]
            return _left(f"'{layer}' is still the top layer of guest '{guest}'", *again)
        undo = ["fs", "overlay", "del", guest, layer]
        return _left(f"'{layer}' is still a layer of guest '{guest}'", undo)
    name, key = names
    earlier = short_text(float(change.before or 0))
    undo = ["iface", "shape", name, f"--{key}", earlier]
    return _left(f"the {key} of '{name}' is still {short_text(float(change.after or 0))}", undo)


def _left(text: str, *undo: list[str]) -> Left:
    remedy = " && ".join(f"dumm-{shlex.join(words)}" for words in undo)
    return Left(f"{text}: the command that did so was killed", remedy)
