"""New guests, recorded with everything that a lab file says about them in one step for several of
them: for a lab of a thousand, one step for each command would take minutes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from dumm_tools.errors import Conflict
from dumm_tools.guests import guest as guests
from dumm_tools.labs.description import Description
from dumm_tools.model import Iface, State
from dumm_tools.net import carrier, iface, learning
from dumm_tools.statefile import transaction

#: So many at once: the lab's lock is held for this time.
MOST = 10


def create(
    labdir: str, lab: Description, names: Sequence[str], warn: Callable[[str], None]
) -> None:
    """Create guests as described, with their interfaces, routes, rules, shapes and startup scripts,
    but without their layers. As `guest create` and the commands that follow would, one by one;
    Conflict."""
    of_guest = lab.state.ifaces_by_guest()
    news: list[carrier.News] = []
    with contextlib.ExitStack() as undo:
        with transaction(labdir) as change:
            state = change.state
            for name in names:
                if name in state.guests:
                    raise Conflict(f"guest '{name}' already exists")
                new = lab.state.guests[name].but(overlays=[])
                guests.add(labdir, state, new, lab.scripts.get(name), undo)
                news += _add_ifaces(state, of_guest.get(name, []))
            change.save()
            guests.make_trees(labdir, state, [state.guests[name] for name in names], undo)
            bridges = {each.bridge for name in names for each in of_guest.get(name, ())}
            learning.settle(state, *sorted(filter(None, bridges)))
        undo.pop_all()
    for each in news:
        if each.lonely or each.joined or each.shared:
            carrier.spread(labdir, each, warn)


def _add_ifaces(state: State, wanted: Sequence[Iface]) -> list[carrier.News]:
    found = []
    for each in sorted(wanted, key=lambda iface: iface.name):
        news = iface.add(state, each.but(bridge=None), each.bridge)
        found += [news] if news is not None else []
    return found
