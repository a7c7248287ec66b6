"""One guest that lies, floods and falls silent, while commands run on the others: a small version
of `make siege`, which has every attack, more guests and more commands."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import siege
from support.labs import Lab

pytestmark = [pytest.mark.uml, pytest.mark.xdist_group("siege")]  # takes long, so start early


@pytest.mark.attack("siege")
def test_hostile_guest_does_not_affect_commands_on_others(new_lab: Callable[..., Lab]) -> None:
    """No command on another guest fails, or needs more memory than it may have."""
    lab = new_lab()
    held = siege.Siege(lab, guests=3, workers=2)
    rng = random.Random(8)
    for way in ("slow", "noise", "ready-errno-huge", "netlink-endless", "taken-huge", "tree-deep"):
        held.endure(way, 8, rng)
    assert held.failures() == []
    assert len(held.outcomes) >= 48
