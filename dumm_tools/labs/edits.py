"""How one list or record becomes another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dumm_tools.model import Record


class Edits(NamedTuple):
    """How a list that grows at its end becomes another one: what is out of order and is removed
    first, what is then appended, and what is removed last."""

    first: list[Any]
    add: list[Any]
    last: list[Any]


def edits(now: Sequence[Any], wanted: Sequence[Any]) -> Edits:
    """Keep as much as possible, and remove nothing before its replacement is there."""
    kept, rest = 0, iter(now)
    while kept < len(wanted) and any(each == wanted[kept] for each in rest):
        kept += 1
    add = list(wanted[kept:])
    return Edits(
        [each for each in add if each in now], add, [each for each in now if each not in wanted]
    )


#: Not configured by the user, or different in each lab.
_INCIDENTAL = ("slot", "tap", "boot", "cut", "extra")


def same(now: Record, wanted: Record) -> bool:
    """Whether two records of the same kind say the same, which is quick."""
    if now is wanted:
        return True
    one, other = vars(now), vars(wanted)
    return all(one[key] == other[key] for key in one if key not in _INCIDENTAL)
