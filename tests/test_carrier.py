"""What a guest sees of its cables: the carrier and the state of its devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import SUITES
from support.labs import Lab

pytestmark = pytest.mark.uml


def look(lab: Lab, guest: str, device: str = "eth0") -> str:
    """The flags UP and NO-CARRIER of a device in its guest, and its operational state."""
    words = lab(f"dumm-guest exec {guest} -- ip link show {device}").out.split()
    flags = sorted(set(words[2].strip("<>").split(",")) & {"UP", "NO-CARRIER"})
    state = lab(f"dumm-guest exec {guest} -- cat /sys/class/net/{device}/operstate").out.strip()
    return " ".join([*flags, state])


@pytest.mark.parametrize("suite", SUITES)
def test_state_of_a_device_is_up(new_lab: Callable[..., Lab], suite: str) -> None:
    """At boot, when it is plugged in, and after it was down, by the user or by its guest."""
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan0")
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0 --bridge lan0")
    lab("dumm-guest start a")
    lab("dumm-iface create a-eth1 --bridge lan0")
    for device in ("eth0", "eth1"):
        assert look(lab, "a", device) == "UP up"
        lab(f"dumm-iface down a-{device}")
        assert look(lab, "a", device) == "down"
        lab(f"dumm-iface up a-{device}")
        assert look(lab, "a", device) == "UP up"
        lab(f"dumm-guest exec a -- ip link set {device} down")
        lab(f"dumm-guest exec a -- ip link set {device} up")
        assert look(lab, "a", device) == "UP up"
