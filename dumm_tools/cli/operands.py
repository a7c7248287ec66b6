"""Operands used by several tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from dumm_tools.cli.words import Name, Names

if TYPE_CHECKING:
    from dumm_tools.model import State


def guests(*states: str) -> Name:
    """An operand that names a guest; completion offers those in one of `states`."""
    return Name("guest", _guests(states))


def guest_list(*states: str) -> Names:
    """The same for an option that names several guests."""
    return Names("guests", _guests(states))


def _guests(states: Sequence[str]) -> Callable[[State, str], Iterable[str]]:

    def choices(state: State, labdir: str) -> Iterable[str]:
        from dumm_tools.running import liveness

        for name, guest in state.guests.items():
            if not states or liveness.guest_state(labdir, state, guest) in states:
                yield name

    return choices


def listed(option: str, values: Iterable[str]) -> list[str]:
    """The names in the values of an option that takes lists of them, in their order, each once;
    UsageError if one is empty."""
    names = [name.strip() for value in values for name in value.split(",")]
    if not all(names):
        raise click.UsageError(f"{option} has an empty name")
    return list(dict.fromkeys(names))
