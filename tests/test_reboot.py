"""Reboots inside of guests: each must give what a start gives, and be seen from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, PLACES, SUITES
from support.checks import is_waiting, one_line_error, until
from support.guests import pid_of, state_of
from support.labs import Lab
from support.terminal import on_terminal

pytestmark = pytest.mark.uml

PING = "ping -c1 -W30"


def boot_id(lab: Lab, name: str = "a") -> str:
    return lab(f"dumm-guest exec {name} -- cat /proc/sys/kernel/random/boot_id").out


def is_other_boot(lab: Lab, first: str, name: str = "a") -> bool:
    done = lab(f"dumm-guest exec {name} -- cat /proc/sys/kernel/random/boot_id", status=None)
    return done.code == 0 and done.out != first


def reboot(lab: Lab, how: str = "reboot -f", name: str = "a") -> None:
    """Reboot a guest by a program in it, and wait for it as a script would."""
    first = boot_id(lab, name)
    lab(["dumm-guest", "exec", name, "--", "sh", "-c", how], status=None)
    lab(f"dumm-guest wait {name} --timeout {PATIENCE}")
    assert state_of(lab, name) == "running"
    assert boot_id(lab, name) != first


def network(lab: Lab, name: str = "a") -> str:
    """The devices, addresses and routes of a guest, without counters and lifetimes."""
    script = "ip -o link; ip -o addr; ip route; ip -6 route; ls -1 /sys/class/net"
    text = lab(["dumm-guest", "exec", name, "--", "sh", "-c", script]).out
    # Indices depend on the order in which devices came; a device that was never up has no queue.
    volatile = r"(?m)^\d+: |qlen \d+|qdisc (noop|pfifo_fast)|(valid_lft|preferred_lft|expires) \S+"
    return re.sub(volatile, "", text)


def settled(lab: Lab, name: str = "a") -> str:
    """The same, once addresses are no longer tentative."""
    until(lambda: "tentative" not in network(lab, name), "no tentative addresses")
    return "\n".join(sorted(network(lab, name).splitlines()))


@pytest.mark.parametrize(("suite", "kind"), PLACES)
def test_reboot_gives_what_a_start_gives(
    new_lab: Callable[..., Lab], suite: str, kind: str
) -> None:
    lab = new_lab("lab", kind, kernel=suite)
    lab.batch(
        "bridge create lan far",
        "guest create a b",
        "iface create a-eth0 --bridge lan --address 10.0.0.1/24 --mtu 1400",
        "iface create b-eth0 --bridge lan --address 10.0.0.2/24",
        "iface create b-eth1 --bridge far --address 10.1.0.2/24 --address fd00::2/64",
        "iface create a-eth7 --address 10.7.0.1/24",
        "guest start a b",
        # Then it is changed in all ways: plugged, deleted, addressed, routed, shaped.
        "iface create a-eth1 --bridge far --address 10.1.0.1/24 --address fd00::1/64",
        "iface create a-eth2 --bridge far --address 10.2.0.1/24 --mtu 4000",
        "iface create a-gone --bridge lan --address 10.8.0.1/24",
        "iface delete a-gone a-eth7",
        "iface address add a-eth0 10.3.0.1/24",
        "iface route add a-eth1 10.9.0.0/16 --via 10.1.0.2",
        "iface shape a-eth1 --delay 3 --rate 50mbit",
        "iface down a-eth2",
    )
    before = settled(lab)
    shape = lab("dumm-iface show a-eth1 -o shape").out
    for _ in range(2):
        reboot(lab)
        assert settled(lab) == before
        assert lab("dumm-iface show a-eth1 -o shape").out == shape
        pings = " && ".join(f"{PING} {each}" for each in ("10.0.0.2", "10.1.0.2", "fd00::2"))
        lab(["dumm-guest", "exec", "a", "--", "sh", "-c", pings])
    assert "failed to create tun" not in lab("dumm-console log a").out
    # A start gives the same.
    lab("dumm-guest restart a")
    assert settled(lab) == before


# Only the newest kernel has seccomp=on, which is then the default.
@pytest.mark.parametrize(
    ("suite", "arg"), [*((suite, "") for suite in SUITES), ("sid", "--arg seccomp=off")]
)
def test_every_way_to_reboot(new_lab: Callable[..., Lab], suite: str, arg: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan")
    lab(f"dumm-guest create a {arg} --start")
    lab("dumm-guest create b --start")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    lab("dumm-iface create b-eth0 --bridge lan --address 10.0.0.2/24")
    for how in ("reboot", "reboot -f", "kill -TERM 1", "echo b >/proc/sysrq-trigger"):
        reboot(lab, how)
        lab(f"dumm-guest exec a -- {PING} 10.0.0.2")
    first = boot_id(lab)
    lab("dumm-guest mconsole a -- reboot", status=None)
    until(lambda: is_other_boot(lab, first), "it comes back")
    lab(f"dumm-guest exec b -- {PING} 10.0.0.1")


@pytest.mark.parametrize(("suite", "kind"), PLACES)
def test_reboot_by_an_init(new_lab: Callable[..., Lab], suite: str, kind: str) -> None:
    lab = new_lab("lab", kind, kernel=suite)
    lab("dumm-bridge create lan")
    lab("dumm-guest create a --init /sbin/init --start")
    lab("dumm-guest create b --start")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    lab("dumm-iface create b-eth0 --bridge lan --address 10.0.0.2/24")
    for how in ("reboot", "reboot -f"):
        first = boot_id(lab)
        lab(["dumm-guest", "exec", "a", "--", *how.split()], status=None)
        until(lambda first=first: is_other_boot(lab, first), "it comes back")  # type: ignore[misc]
        assert "init" in lab("dumm-guest exec a -- cat /proc/1/comm").out
        # The first packet after a link has come up may be lost.
        ping = f"for i in 1 2 3; do {PING} 10.0.0.2 && exit; done; exit 1"
        lab(["dumm-guest", "exec", "a", "--", "sh", "-c", ping])
    lab("dumm-guest stop a")
    assert state_of(lab, "a") == "stopped"


@pytest.mark.parametrize(("suite", "count"), [("sid", 20), *((suite, 60) for suite in SUITES)])
def test_many_devices(new_lab: Callable[..., Lab], suite: str, count: int) -> None:
    """More than fit on the kernel's command line, too."""
    lab = new_lab(kernel=suite)
    lab.batch(
        "bridge create lan",
        "guest create a b --start",
        "iface create b-eth0 --bridge lan --address 10.0.0.1/16",
        *(
            f"iface create a-port{n} --address 10.{n + 1}.0.1/24 --address fd00:{n:x}::1/64"
            for n in range(count)
        ),
        f"bridge connect lan a-port{count - 1}",
        f"iface address add a-port{count - 1} 10.0.0.2/16",
    )
    before = settled(lab)
    assert len(re.findall(r"(?m)^port\d+$", before)) == count
    for _ in range(2):
        reboot(lab)
        assert settled(lab) == before
        lab(f"dumm-guest exec a -- {PING} 10.0.0.1")
    assert "dumm-agent: " not in lab("dumm-console log a").out
    lab("dumm-guest restart a")
    assert settled(lab) == before


# ---- in the middle of a reboot ----


def halfway(lab: Lab, name: str = "a") -> int:
    """Reboot a guest and suspend it before its agent is ready; return its pid."""
    pid = pid_of(lab, name)
    ready = lab.directory / "run" / name / "uml/ready"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        lab.start(f"dumm-guest exec {name} -- reboot -f")
        while ready.exists() and time.monotonic() < end:
            pass
        os.kill(pid, signal.SIGSTOP)
        until(lambda: _is_stopped(pid), "it is suspended")
        if not ready.exists():
            return pid
        os.kill(pid, signal.SIGCONT)  # it was too quick for us
        lab(f"dumm-guest wait {name}")
    raise AssertionError("it cannot be caught")


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_rebooting_guest_is_starting(lab: Lab) -> None:
    lab("dumm-bridge create lan")
    lab("dumm-guest create a --start")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    pid = halfway(lab)
    assert state_of(lab, "a") == "starting"
    assert pid_of(lab, "a") == pid
    lab("dumm-guest is-running a", status=1)
    lab("dumm-guest wait a --timeout 1", status=5)
    for command, status in (
        ("dumm-guest exec a -- true", 125),
        ("dumm-guest pause a", 4),
        ("dumm-iface create a-eth1", 4),
        ("dumm-iface address add a-eth0 10.0.0.9/24", 4),
    ):
        done = lab(command, status=status)
        text = one_line_error(done.err, command.split()[0])
        assert text.endswith("guest 'a' is starting"), text
    for command in ("wait", "start"):
        process = lab.start(f"dumm-guest {command} a")
        until(lambda process=process: is_waiting(process.pid), "it waits")  # type: ignore[misc]
        os.kill(pid, signal.SIGCONT)
        assert process.wait(PATIENCE) == 0
        if command == "wait":
            assert halfway(lab) == pid
    assert state_of(lab, "a") == "running"
    assert "10.0.0.1/24" in network(lab)
    assert "10.0.0.9/24" not in network(lab)


CHANGES = {
    "rule del a --priority 5": 0,
    "route del a-eth0 10.5.0.0/16": 0,
    "address del a-eth0 10.0.0.1/24": 0,
    "create a-eth1 --bridge lan": 5,
    "address add a-eth0 10.0.0.9/24": 5,
}


@pytest.mark.parametrize("command", CHANGES)
def test_reboot_in_the_middle_of_a_change(lab: Lab, command: str) -> None:
    """The next boot has what is recorded afterwards, whether the change was made or taken back."""
    lab("dumm-bridge create lan")
    lab("dumm-guest create a --start")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    lab("dumm-iface route add a-eth0 10.5.0.0/16 --via 10.0.0.2")
    lab("dumm-iface rule add a --to 10.6.0.0/16 --table 6 --priority 5")
    run = lab.directory / "run" / "a"
    ready, pid = (run / "uml/ready").read_text(), pid_of(lab, "a")
    os.kill(pid, signal.SIGSTOP)
    try:
        process = lab.start(f"dumm-iface {command}")
        until(lambda: is_waiting(process.pid), "it waits for the guest")
        (run / "uml/ready").unlink()  # what a reboot does first
        if CHANGES[command]:
            assert process.wait(PATIENCE) == CHANGES[command]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert process.wait(PATIENCE) == CHANGES[command]
    told = (run / "xfer/boot").read_bytes()
    (run / "uml/ready").write_text(ready)
    lab("dumm-bridge down lan")
    lab("dumm-bridge up lan")  # writes the file anew
    assert told == (run / "xfer/boot").read_bytes()


@pytest.mark.parametrize("command", ["stop", "restart", "stop --kill"])
def test_stop_while_a_guest_reboots(lab: Lab, command: str) -> None:
    lab("dumm-bridge create lan")
    lab("dumm-guest create a --start")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    pid = halfway(lab)
    lab(f"dumm-guest {command} a")
    assert not Path(f"/proc/{pid}").exists()
    if command == "restart":
        assert "10.0.0.1/24" in network(lab)
    else:
        assert state_of(lab, "a") == "stopped"
        assert lab("dumm-iface list -o state").out == "down\n"


def test_stop_while_a_guest_shuts_down_to_reboot(lab: Lab) -> None:
    """Its agent does not answer any more, but waits for programs to end."""
    lab("dumm-guest create a --start")
    script = "trap '' TERM HUP; sleep 1000 & reboot"
    lab.start(["dumm-guest", "exec", "a", "--", "sh", "-c", script])
    until(lambda: state_of(lab, "a") == "stopping", "it says so")
    done = lab("dumm-guest exec a -- true", status=125)
    assert one_line_error(done.err) == "guest 'a' is stopping"
    lab("dumm-guest stop a --timeout 60")
    assert state_of(lab, "a") == "stopped"
    lab("dumm-guest start a")
    lab("dumm-guest exec a -- true")


def test_exec_ends_with_the_boot_of_its_guest(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    running = [
        lab.start(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo on; sleep 1000"])
        for _ in range(3)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
    reboot(lab)
    for process in running:
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 125
        assert one_line_error(err.decode()) == "guest 'a' has rebooted"
    done = lab(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo x; reboot -f"], status=125)
    assert done.out in ("x\n", "")
    assert one_line_error(done.err) == "guest 'a' has rebooted"


def test_guest_that_reboots_for_ever(lab: Lab) -> None:
    lab("dumm-guest create a b")
    lab("dumm-guest start b")
    script = lab.mounted("a") / "again"
    script.write_text("#!/bin/sh\nsleep 0.2\nreboot -f\n")
    script.chmod(0o755)
    lab("dumm-guest set a --init /again")
    lab(f"dumm-guest start a --timeout {PATIENCE}")
    log = lab.directory / "run/a/console.log"
    pid = pid_of(lab, "a")
    seen = set()
    for _ in range(30):
        seen.add(state_of(lab, "a"))
        lab("dumm-guest exec a -- true", status=None)
        lab("dumm-guest wait a --timeout 0.1", status=None)
        lab("dumm-guest exec b -- true")
    assert seen <= {"starting", "running"}
    assert pid_of(lab, "a") == pid
    assert log.stat().st_size < 4 << 20
    # Nothing accumulates in its process.
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 200
    lab("dumm-guest stop a")
    assert state_of(lab, "a") == "stopped"


# ---- what stays as it was ----


@pytest.mark.parametrize("suite", SUITES)
def test_settings_take_effect_at_the_next_start(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-guest create a --arg mine=1 --init /sbin/init --start")
    words = lab("dumm-guest exec a -- cat /proc/cmdline").out
    lab("dumm-guest set a --arg mine=2 --memory 80M --init /bin/absent")
    lab("dumm-iface create a-eth0 --address 10.0.0.1/24")  # the boot file is written anew
    (lab.directory / "layer").mkdir()
    (lab.directory / "layer/news").write_text("from the layer\n")
    lab("dumm-fs overlay add a layer")
    for _ in range(2):
        first = boot_id(lab)
        lab("dumm-guest exec a -- reboot -f", status=None)
        lab("dumm-guest wait a")
        assert boot_id(lab) != first
        after = lab("dumm-guest exec a -- cat /proc/cmdline").out
        assert re.sub(r" (vec0:\S+|DUMM_AGAIN=1)", "", after) == words
        assert lab("dumm-guest exec a -- cat /proc/1/comm").out == "init\n"
        assert lab("dumm-guest exec a -- cat /news").out == "from the layer\n"
    lab("dumm-guest set a --init ''", status=None)
    done = lab("dumm-guest restart a", status=None)
    assert done.code == 1 or "mine=2" in lab("dumm-guest exec a -- cat /proc/cmdline").out


def rights(pid: int) -> dict[str, object]:
    """The rights and the descriptors of a process of the host."""
    own = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (own / "status").read_text().splitlines())
    wanted = {
        *("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Umask"),
        *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigIgn", "SigCgt"),
    }
    return {
        **{key: status[key] for key in sorted(wanted)},
        "limits": (own / "limits").read_text(),
        "namespaces": sorted(os.readlink(p) for p in (own / "ns").iterdir()),
        "cgroup": (own / "cgroup").read_text(),
        "mounts": (own / "mountinfo").read_text(),
        "personality": (own / "personality").read_text(),
        "descriptors": sorted(
            re.sub(r":.*|#\d+|userspace-\w+", "", os.readlink(p)) for p in (own / "fd").iterdir()
        ),
        "environment": (own / "environ").read_bytes(),
        "name": (own / "comm").read_text(),
    }


def blocked(pid: int) -> int:
    """The signals that a kernel's process blocks, other than now and then, and other than those
    that UML itself blocks while it is busy (signals_blocked, arch/um/os-Linux/signal.c)."""
    found = -1
    for _ in range(50):
        text = Path(f"/proc/{pid}/status").read_text()
        found &= int(text.partition("SigBlk:")[2].split()[0], 16)
        time.sleep(0.002)
    for number in (signal.SIGALRM, signal.SIGIO, signal.SIGWINCH):
        found &= ~(1 << number - 1)
    return found


@pytest.mark.parametrize("suite", SUITES)
def test_process_is_as_confined_as_before(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-bridge create lan")
    lab("dumm-guest create a")
    lab("dumm-iface create a-eth0 --bridge lan --address 10.0.0.1/24")
    lab("dumm-guest start a")
    pid = pid_of(lab, "a")
    lab("dumm-guest exec a -- true")
    before, before_blocked = rights(pid), blocked(pid)
    for _ in range(3):
        reboot(lab)
        assert pid_of(lab, "a") == pid
        assert rights(pid) == before
        assert blocked(pid) == before_blocked


def test_consoles_and_log_continue(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    with on_terminal(lab, ["dumm-console", "attach", "a"]) as screen:
        until(lambda: not screen.is_restored(), "raw mode")
        screen.type(b"\necho $((6*7))one\n")
        screen.expect(b"42one\r\n")
        reboot(lab)
        screen.type(b"\necho $((6*7))two\n")
        screen.expect(b"42two\r\n")
        screen.type(b"\x1d")
        assert screen.wait() == 0
    log = lab("dumm-console log a").out
    assert log.index("42one") < log.index("42two")


def test_killed_after_a_reboot_is_crashed(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    reboot(lab)
    os.kill(pid_of(lab, "a"), signal.SIGKILL)
    until(lambda: state_of(lab, "a") == "crashed", "crashed")
    lab("dumm-guest start a")
    reboot(lab)
    lab("dumm-guest exec a -- poweroff -f", status=None)
    lab("dumm-guest wait a --for stopped")
    assert state_of(lab, "a") == "stopped"


def test_paused_guest_that_rebooted_before(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    reboot(lab)
    lab("dumm-guest pause a")
    assert state_of(lab, "a") == "paused"
    lab("dumm-guest resume a")
    reboot(lab)
    lab("dumm-guest stop a")
    assert state_of(lab, "a") == "stopped"


def test_record_of_a_start_says_its_init(lab: Lab) -> None:
    lab("dumm-guest create a --init /sbin/init --start")
    lab("dumm-guest create b --start")
    guests = json.loads((lab.directory / "state.json").read_text())["guests"]
    assert guests["a"]["boot"]["init"] == "/sbin/init"
    assert guests["b"]["boot"]["init"] is None


def test_boot_program_does_nothing_outside_a_jail(tmp_path: Path) -> None:
    """It ends all processes that it may end."""
    from dumm_tools.agent import JAIL

    with subprocess.Popen(["sleep", "1000"]) as other:
        done = subprocess.run(
            ["/boot", "quiet"],
            executable=JAIL,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 1
        assert other.poll() is None
        other.kill()
