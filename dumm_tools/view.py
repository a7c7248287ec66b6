"""What `list`, `show` and `is-running` say of guests; quick to import."""

from __future__ import annotations

import os
from collections.abc import Callable

from dumm_tools import live
from dumm_tools.errors import NotFound
from dumm_tools.model import Guest, GuestState, Record, State
from dumm_tools.state import load


class GuestView(Record):
    """A guest as `list` and `show` say it: intent and kernel truth in one."""

    guest: Guest
    state: GuestState
    pid: int | None
    kernel: str | None
    master: str | None
    ifaces: list[str]


def get(state: State, name: str) -> Guest:
    """The guest of that name; NotFound."""
    if name not in state.guests:
        raise NotFound(f"no guest '{name}'")
    return state.guests[name]


def view(root: str, state: State, guest: Guest) -> GuestView:
    """Merge record and kernel truth."""
    now = live.guest_state(root, state, guest)
    known = live.pid_of(root, guest.name) if now not in ("stopped", "crashed") else None
    return GuestView(
        guest,
        now,
        known[0] if known else None,
        guest.kernel or _link(root, "linux"),
        guest.master or _link(root, "master"),
        [i.name for i in state.ifaces_of(guest.name)],
    )


def _link(root: str, name: str) -> str | None:
    path = os.path.join(root, name)
    return os.path.basename(os.path.realpath(path)) if os.path.lexists(path) else None


def list_(root: str) -> list[GuestView]:
    """All guests, by name."""
    state = load(root)
    return [view(root, state, g) for _, g in sorted(state.guests.items())]


def show(root: str, name: str) -> GuestView:
    """One guest; NotFound."""
    state = load(root)
    return view(root, state, get(state, name))


def all_names(root: str, wanted: Callable[[GuestState], bool]) -> list[str]:
    """The names of the guests whose state is wanted."""
    state = load(root)
    return [n for n, g in sorted(state.guests.items()) if wanted(live.guest_state(root, state, g))]


def is_running(root: str, name: str) -> bool:
    """Does the guest run (and was it ready)?"""
    state = load(root)
    return live.guest_state(root, state, get(state, name)) in ("running", "paused")
