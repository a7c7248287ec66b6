"""Ready means ready: a guest whose clock, lines or NICs do not work ends its start, in one line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from support import SUITES
from support.checks import one_line_error
from support.guests import pid_of, state_of
from support.labs import Lab

pytestmark = pytest.mark.uml

#: A host that grants no timers, which count as pending signals.
NO_TIMERS = ["prlimit", "--sigpending=0:0"]
#: Parts of the kernel, by the functions that initialize them, and what `start` says without them.
PARTS = {
    "ssl_init": "/dev/ttyS0: No such file or directory",
    "vector_init": "interface 'alice-eth0': No such device",
    "init_hostfs": "hostfs: No such device",
}


@pytest.mark.parametrize("suite", SUITES)
def test_guest_without_a_timer_does_not_start(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice")
    lab("dumm-iface create alice-eth0 --address 10.0.0.1/24")
    done = lab([*NO_TIMERS, "dumm-guest", "start", "alice"], status=1)
    assert one_line_error(done.err) == "cannot start guest 'alice': its clock stands still"
    assert done.err.endswith("hint: timers count as pending signals: ulimit -i\n")
    assert state_of(lab, "alice") == "stopped"
    lab("dumm-guest start alice")
    shown = lab("dumm-guest exec alice -- sh -c 'sleep 0.1; cat /proc/uptime'").out
    assert float(shown.split()[0]) > 0


def test_guest_without_a_timer_is_never_ready(new_lab: Callable[..., Lab]) -> None:
    lab = new_lab("lab", "--isolated")
    lab("dumm-guest create alice bob")
    lab([*NO_TIMERS, "dumm-guest", "start", "--no-wait", "alice"])
    done = lab("dumm-guest wait alice", status=1)
    assert one_line_error(done.err) == "guest 'alice' is not ready: its clock stands still"
    assert state_of(lab, "alice") == "starting"
    done = lab("dumm-guest exec alice -- true", status=125)
    assert one_line_error(done.err) == "guest 'alice' is starting"
    # The others are none the worse for it.
    lab([*NO_TIMERS, "dumm-guest", "start", "alice"], status=1)
    lab("dumm-guest start bob")
    lab("dumm-guest restart alice")
    lab("dumm-guest exec alice -- sleep 0.01")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("part", PARTS)
def test_guest_without_a_part_of_its_kernel_does_not_start(
    new_lab: Callable[..., Lab], suite: str, part: str
) -> None:
    lab = new_lab(kernel=suite)
    skipped = f"initcall_blacklist=raid6_init,raid6_select_algo,calibrate_xor_blocks,{part}"
    lab(["dumm-guest", "create", "alice", "--arg", skipped])
    lab("dumm-iface create alice-eth0 --address 10.0.0.1/24")
    done = lab("dumm-guest start alice", status=1)
    assert one_line_error(done.err) == f"cannot start guest 'alice': {PARTS[part]}"
    assert state_of(lab, "alice") == "stopped"


def test_reboot_that_loses_a_nic_can_be_looked_into(new_lab: Callable[..., Lab]) -> None:
    """Nobody waits for it who could be told, other than by `wait` and the console."""
    lab = new_lab("lab", "--isolated")
    lab("dumm-guest create alice --start")
    lab("dumm-iface create alice-eth0")
    lab.host("ip link delete alice-eth0")
    lab("dumm-guest exec alice -- reboot", status=None)
    lab("dumm-guest wait alice")
    assert "dumm-agent: interface: errno " in lab("dumm-console log alice").out
    assert state_of(lab, "alice") == "running"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exec --timeout 0.5 alice -- true", "guest 'alice' does not answer"),
        ("wait --timeout 0.5 alice", "guest 'alice' is not ready"),
        ("wait --for stopped --timeout 0.5 alice", "guest 'alice' is still running"),
    ],
)
def test_time_limit_holds_while_the_kernel_is_stopped(lab: Lab, command: str, message: str) -> None:
    lab("dumm-guest create alice --start")
    os.kill(pid_of(lab, "alice"), signal.SIGSTOP)
    done = lab(f"dumm-guest {command}", status=5)
    assert one_line_error(done.err) == message
