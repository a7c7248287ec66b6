"""Operands used by several tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dumm_tools.cli.words import Name

if TYPE_CHECKING:
    from dumm_tools.model import State


def guests(*states: str) -> Name:
    """An operand that names a guest; completion offers those in one of `states`."""

    def choices(state: State, labdir: str) -> Iterable[str]:
        from dumm_tools.running import liveness

        for name, guest in state.guests.items():
            if not states or liveness.guest_state(labdir, state, guest) in states:
                yield name

    return Name("guest", choices)
