"""Guests on a kernel that `dumm-fs kernel build` has made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.labs import Lab

pytestmark = pytest.mark.uml


def devices(lab: Lab, guest: str) -> set[str]:
    """The network devices in a guest."""
    return set(lab(f"dumm-guest exec {guest} -- ls /sys/class/net").out.split())


@pytest.mark.parametrize("options", [(), ("--isolated",)], ids=["root", "isolated"])
def test_drivers_create_no_devices_that_nobody_asked_for(
    new_lab: Callable[..., Lab], built: str, options: tuple[str, ...]
) -> None:
    """Otherwise `ip link add bond0 type bond` fails, since there is one already."""
    lab = new_lab("lab", *options, kernel=built)
    lab("dumm-guest create alice bob")
    lab("dumm-guest set bob --arg dummy.numdummies=2")
    lab("dumm-guest start --all")
    assert {"bond0", "dummy0", "ifb0", "ifb1"}.isdisjoint(devices(lab, "alice"))
    for kind in ("bond", "dummy", "ifb"):
        lab(f"dumm-guest exec alice -- ip link add {kind}0 type {kind}")
    assert {"bond0", "dummy0", "ifb0"} <= devices(lab, "alice")
    assert {"dummy0", "dummy1"} <= devices(lab, "bob")


def test_system_calls_may_be_traced(new_lab: Callable[..., Lab], built: str) -> None:
    """For that, the kernel needs 2 MiB in addition to its data, within the limits of its jail."""
    lab = new_lab(kernel=built)
    lab("dumm-guest create alice --arg seccomp=off --start")
    lab("dumm-guest exec alice -- true")


def test_debian_kernels_load_modules_as_before(lab: Lab) -> None:
    """modprobe reads the kernel's arguments, too."""
    lab("dumm-guest create alice --start")
    assert "dummy0" not in devices(lab, "alice")
    lab("dumm-guest exec alice -- modprobe dummy")
    assert "dummy0" in devices(lab, "alice")


def test_events_can_be_traced(new_lab: Callable[..., Lab], built: str) -> None:
    """The part of tracing that takes long at boot is left out."""
    lab = new_lab(kernel=built)
    lab("dumm-guest create alice --start")
    script = (
        "mount -t tracefs none /mnt; echo 1 >/mnt/events/net/net_dev_queue/enable;"
        " ping -c 1 127.0.0.1 >/dev/null; cat /mnt/trace"
    )
    done = lab(["dumm-guest", "exec", "alice", "--", "sh", "-c", script])
    assert " net_dev_queue: dev=lo " in done.out
