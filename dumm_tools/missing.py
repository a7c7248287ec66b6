"""Errors for names that do not exist, with a hint if another name must have been meant.

Nothing here runs unless a name is missing: similar names are looked for (difflib) only then.
"""

from __future__ import annotations

from collections.abc import Iterable

from dumm_tools.errors import NotFound
from dumm_tools.model import State

#: More names than this are not compared: an error must not take seconds.
_MOST = 2000
_DIGITS = "0123456789"


def guest(state: State, name: str) -> NotFound:
    """The error for a guest that does not exist."""
    if name in state.ifaces:
        hint = f"'{name}' is an interface of guest '{state.ifaces[name].guest}'"
    elif name in state.bridges:
        hint = f"'{name}' is a bridge"
    elif "/" in name:
        hint = f"'{name}' is a path: put the guest first"
    else:
        return NotFound(f"no guest '{name}'", hint=similar(name, state.guests))
    return NotFound(f"no guest '{name}'", hint=hint)


def interface(state: State, name: str) -> NotFound:
    """The error for an interface that does not exist."""
    hint = similar(name, state.ifaces)
    owner = name.rpartition("-")[0]
    if name in state.guests:  # a guest's name may contain a dash
        hint = f"'{name}' is a guest; its interfaces are named {name}-eth0 and so on"
    elif name in state.bridges:
        hint = f"'{name}' is a bridge"
    elif owner not in state.guests:
        # The guest's name is the likelier mistake: it occurs more often.
        hint = hint or guest(state, owner).hint
    elif hint is None:
        hint = f"dumm-iface create {name}"
    return NotFound(f"no interface '{name}'", hint=hint)


def bridge(state: State, name: str) -> NotFound:
    """The error for a bridge that does not exist."""
    if name in state.ifaces:
        hint: str | None = f"'{name}' is an interface: put the bridge first"
    elif name in state.guests:
        hint = f"'{name}' is a guest"
    else:
        hint = similar(name, state.bridges)
    return NotFound(f"no bridge '{name}'", hint=hint)


def similar(name: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """The question whether a similar name was meant, or else `otherwise`."""
    found = closest(name, known)
    return f"did you mean {' or '.join(repr(each) for each in found)}?" if found else otherwise


def closest(name: str, known: Iterable[str]) -> list[str]:
    """At most two of the known names that are similar to this one, the most similar first."""
    from difflib import get_close_matches
    from itertools import islice

    names = {each.lower(): each for each in islice(known, _MOST) if not _is_sibling(name, each)}
    near = get_close_matches(name[:64].lower(), names, n=2, cutoff=0.65)
    found = [names[each] for each in near]
    # ruoter1 is router1 rather than router2.
    return [each for each in found if _number(each) == _number(name)] or found


def _number(name: str) -> str:
    return name[len(name.rstrip(_DIGITS)) :]


def _is_sibling(name: str, other: str) -> bool:
    """Whether two names differ only in their numbers: router1 is not a misspelt router2."""
    base = name.rstrip(_DIGITS)
    return base == other.rstrip(_DIGITS) and len(base) < min(len(name), len(other))
