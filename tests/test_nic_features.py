"""Features of NICs, which their driver must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import SUITES
from support.labs import Lab
from support.programs import compiled

pytestmark = pytest.mark.uml


@pytest.mark.parametrize("suite", SUITES)
def test_packets_come_to_the_driver_whole(
    suite: str, new_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    """The vector driver sends packets that have others in a list with wrong contents; scattered
    ones are fine."""
    program = compiled("fraglist.c", tmp_path / "fraglist")
    lab = new_lab(kernel=suite)
    lab.batch(
        "guest create a", "iface create a-eth0 a-lan.1", "guest start a", "iface create a-eth2"
    )
    lab(["dumm-fs", "cp", program, "a:/bin/fraglist"])
    said = lab("dumm-guest exec a -- fraglist eth0 lan.1 eth2").out
    assert said == "eth0 0 1\nlan.1 0 1\neth2 0 1\n"
    lab("dumm-iface delete a-eth2")
    lab("dumm-guest restart a")
    assert lab("dumm-guest exec a -- fraglist eth0 lan.1").out == "eth0 0 1\nlan.1 0 1\n"
