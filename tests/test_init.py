"""Guests that boot an init of their master: systemd, the System V init, busybox."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import SUITES
from support.checks import until
from support.labs import Lab

pytestmark = pytest.mark.uml


def says(lab: Lab, command: str, name: str = "a") -> str:
    """The output of a command in a guest, whatever its status."""
    return lab(f"dumm-guest exec {name} -- {command}", status=None).out.strip()


@pytest.mark.parametrize("suite", SUITES)
def test_systemd_boots(new_lab: Callable[..., Lab], suite: str, debian_systemd: str) -> None:
    lab = new_lab(kernel=suite)
    lab(f"dumm-guest create a --master {debian_systemd} --memory 192M --init /sbin/init --start")
    assert says(lab, "cat /proc/1/comm") == "systemd"
    until(lambda: says(lab, "systemctl is-system-running") in ("running", "degraded"), "booted")


@pytest.mark.parametrize("suite", SUITES)
def test_sysvinit_boots(new_lab: Callable[..., Lab], suite: str, debian_sysvinit: str) -> None:
    lab = new_lab(kernel=suite)
    lab(f"dumm-guest create a --master {debian_sysvinit} --memory 128M --init /sbin/init --start")
    assert says(lab, "cat /proc/1/comm") == "init"
    until(lambda: says(lab, "runlevel") == "N 2", "booted")
