"""One guest that lies, floods and falls silent, and commands on the others all the while: a small
case of `make siege`, which has all ways, more guests and more commands."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import siege
from support.labs import Lab

pytestmark = [pytest.mark.uml, pytest.mark.xdist_group("siege")]  # which is long: early


@pytest.mark.attack("siege")
def test_a_hostile_guest_is_nobody_elses_trouble(new_lab: Callable[..., Lab]) -> None:
    """No command on another fails, or needs more memory than it may have."""
    lab = new_lab()
    held = siege.Siege(lab, guests=3, workers=2)
    rng = random.Random(8)
    for way in ("slow", "noise", "ready-errno-huge", "netlink-endless", "taken-huge", "tree-deep"):
        held.endure(way, 8, rng)
    assert held.failures() == []
    assert len(held.outcomes) >= 48
