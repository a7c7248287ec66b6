"""Commands killed at any moment and run again; many things at once; malicious guests."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, SUITES
from support.checks import NOISE, one_line_error, until
from support.guests import pid_of, processes, state_of
from support.labs import Lab

from dumm_tools.guests import limits

pytestmark = pytest.mark.uml

HIT = Path(__file__).with_name("hit.py")


def kill_after(lab: Lab, command: str, seconds: float) -> None:
    process = lab.start(command)
    time.sleep(seconds)
    process.kill()
    process.wait()


# ---- killed and run again ----


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("driver", ["kernel", "fuse-overlayfs"])
def test_command_hit_right_after_a_mount(lab: Lab, driver: str, number: signal.Signals) -> None:
    lab("dumm-guest create alice")
    lab("dumm-fs umount alice")
    lab.env["DUMM_OVERLAY"] = driver
    where = "mount" if driver == "kernel" else "run"
    for verb in ("mount", "reset"):
        done = lab(f"python {HIT} {where} 1 {int(number)} dumm-fs {verb} alice", status=None)
        assert done.code == -number
        lab("dumm-fs mount alice")
        lab.host(["touch", lab.directory / "mount/alice/srv/file"])
        assert (lab.directory / "host/alice/srv/file").exists()
    lab("dumm-fs umount alice")
    assert not os.listdir(lab.mounted("alice"))


@dataclass(frozen=True)
class Moments:
    """A command to be hit by a signal, and what a user then does about it."""

    #: Restores the starting point of `command` before each run.
    before: str
    command: str
    #: Commands to run after the hit, whether or not `command` had ended.
    again: str
    check: str


PING = "dumm-guest exec a -- ping -c1 -W30 10.0.0.2"
MOMENTS = {
    "start": Moments(
        "! dumm-guest is-running a || dumm-guest stop a",
        "dumm-guest start a",
        # The guest may have gone on booting by itself, and become ready between two looks.
        "dumm-guest start a || dumm-guest is-running a",
        PING,
    ),
    "stop": Moments(
        "dumm-guest is-running a || dumm-guest start a",
        "dumm-guest stop a",
        "dumm-guest stop a || ! dumm-guest is-running a",
        "! dumm-guest is-running a",
    ),
    "plug": Moments(
        "dumm-iface delete --if-exists a-eth1",
        "dumm-iface create a-eth1 --bridge lan1 --address 10.1.0.1/24",
        "dumm-iface create a-eth1 --bridge lan1 --address 10.1.0.1/24 ||"
        " { dumm-bridge connect lan1 a-eth1 &&"
        " dumm-iface address add --may-exist a-eth1 10.1.0.1/24; }",
        "dumm-guest exec a -- ping -c1 -W30 10.1.0.1 && dumm-guest exec a -- ip link show eth1 up",
    ),
    "unplug": Moments(
        "dumm-iface create --may-exist a-eth1 --bridge lan1 --address 10.1.0.1/24",
        "dumm-iface delete a-eth1",
        "dumm-iface delete --if-exists a-eth1",
        "! dumm-guest exec a -- ip link show eth1",
    ),
    "move": Moments(
        "dumm-bridge connect lan1 a-eth0",
        "dumm-bridge connect lan0 a-eth0",
        "dumm-bridge connect lan0 a-eth0",
        PING,
    ),
    "cut": Moments(
        "dumm-bridge connect lan0 a-eth0",
        "dumm-bridge disconnect a-eth0",
        "dumm-bridge disconnect a-eth0 || dumm-iface up a-eth0",
        "dumm-guest exec a -- ip link show eth0 up | grep NO-CARRIER &&"
        ' test "$(dumm-iface show a-eth0 -o bridge)" = -',
    ),
    "load": Moments(
        "dumm-fs template unload || :",
        "dumm-fs template load T",
        "dumm-fs template load T",
        "dumm-guest exec a -- grep -q new /etc/motd && dumm-guest exec a -- touch /etc/own",
    ),
    "layer": Moments(
        "dumm-fs overlay del a ./templates/T/a || :",
        "dumm-fs overlay add a ./templates/T/a",
        "dumm-fs overlay list a | grep -q /T/ || dumm-fs overlay add a ./templates/T/a",
        "dumm-guest exec a -- grep -q new /etc/motd && dumm-guest exec a -- touch /etc/own",
    ),
    "delete": Moments(
        "dumm-guest create --may-exist x && dumm-iface create --may-exist x-eth0 --bridge lan0",
        "dumm-guest delete x",
        "dumm-guest delete --if-exists x",
        'test -z "$(dumm-iface list -q | grep x-; ls host run | grep -x x)"',
    ),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("name", MOMENTS)
def test_command_hit_at_many_moments(lab: Lab, name: str, number: signal.Signals) -> None:
    def shell(line: str) -> None:
        lab(["sh", "-c", line])

    lab("dumm-bridge create lan0 lan1")
    lab("dumm-guest create a b --start")
    for end, address in (("a", "10.0.0.1/24"), ("b", "10.0.0.2/24")):
        lab(f"dumm-iface create {end}-eth0 --bridge lan0 --address {address}")
    shell("mkdir -p templates/T/a/etc && echo new >templates/T/a/etc/motd")
    this = MOMENTS[name]
    # Every signal gets moments of its own, some in each part of the command.
    first, step = (3, 29) if number == signal.SIGINT else (17, 29)
    for moment in range(first, 3000, step):
        shell(this.before)
        hit = lab(f"python {HIT} any {moment} {int(number)} {this.command}", status=None)
        assert hit.code in (0, -number), hit.err
        assert "Traceback" not in hit.err
        shell(this.again)
        shell(this.check)
        if hit.code == 0:
            break
    assert hit.code == 0
    assert moment > first + 2 * step


def test_killed_create_and_delete_can_be_repeated(lab: Lab) -> None:
    chance = random.Random(1)
    for _ in range(5):
        kill_after(lab, "dumm-guest create alice", chance.uniform(0.05, 0.2))
        lab("dumm-guest create --may-exist alice")
        assert (lab.mounted("alice") / "etc/passwd").exists()
        kill_after(lab, "dumm-guest delete alice", chance.uniform(0.05, 0.2))
        lab("dumm-guest delete --if-exists alice")
        assert lab("dumm-guest list -q").out == ""
        assert not (lab.directory / "host/alice").exists()


def test_create_that_was_killed_before_its_mount_can_be_repeated(lab: Lab) -> None:
    lab("dumm-guest create alice")
    # As a kill right after the record leaves it: no directory, and nothing mounted.
    lab("dumm-fs umount alice")
    for place in ("host/alice", "mount/alice", "run/alice"):
        shutil.rmtree(lab.directory / place)
    lab("dumm-guest create --may-exist alice")
    assert (lab.mounted("alice") / "etc/passwd").exists()
    lab("dumm-guest start alice")
    lab("dumm-guest create --may-exist alice")
    assert lab("dumm-guest exec alice -- hostname").out == "alice\n"


def test_killed_stop_can_be_repeated(lab: Lab) -> None:
    chance = random.Random(2)
    lab("dumm-guest create alice")
    lab("dumm-iface create alice-eth0 --address 10.0.0.1/24")
    for _ in range(4):
        lab("dumm-guest start alice")
        kill_after(lab, "dumm-guest stop alice", chance.uniform(0.05, 0.3))
        assert state_of(lab, "alice") in ("running", "stopping", "stopped")
        done = lab("dumm-guest stop alice", status=None)
        assert done.code in (0, 4), done.err
        assert state_of(lab, "alice") == "stopped"


def test_killed_destroy_can_be_repeated(new_lab: Callable[..., Lab]) -> None:
    chance = random.Random(3)
    for n in range(4):
        lab = new_lab(f"lab{n}")
        lab("dumm-guest create alice bob")
        lab("dumm-bridge create lan0")
        lab("dumm-iface create alice-eth0 bob-eth0 --bridge lan0")
        lab("dumm-guest start --all")
        kill_after(lab, "dumm-fs destroy", chance.uniform(0.05, 0.4))
        if (lab.directory / "state.json").exists():
            lab("dumm-fs destroy")


def test_killed_init_can_be_repeated(packs: Path, tmp_path: Path) -> None:
    chance = random.Random(4)
    for n in range(5):
        lab = Lab(tmp_path, packs)
        kill_after(lab, "dumm-fs init --kernel sid --master busybox", chance.uniform(0.04, 0.15))
        if not (tmp_path / "state.json").exists():
            lab("dumm-fs init --kernel sid --master busybox")
        lab(f"dumm-guest create g{n}")
        lab("dumm-fs destroy")


# ---- many things at once ----


@pytest.mark.parametrize("suite", SUITES)
def test_nic_is_plugged_in_while_all_lines_are_in_use(
    new_lab: Callable[..., Lab], suite: str
) -> None:
    """Lines and NICs share the interrupts of a UML kernel, of which there are 64."""
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice --start")
    running = [lab.start("dumm-guest exec alice -- sleep 1000") for _ in range(17)]
    for number in range(1, 4):
        lab(f"dumm-console send alice 'sleep 100 </dev/tty{number} &'")
    until(lambda: len(lab("dumm-console log alice").out) > 0, "the console has been opened")
    interfaces = [f"alice-eth{n}" for n in range(4)]
    lab(["dumm-iface", "create", *interfaces])
    for interface in interfaces:
        lab(f"dumm-iface address add {interface} 10.0.0.1/24")
    for process in running[3:]:
        assert process.poll() is None
    for process in running[:3]:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    shown = lab("dumm-guest exec alice -- ip -o -4 addr").out
    assert shown.count("10.0.0.1/24") == 4
    log = lab("dumm-console log alice").out
    assert "errno" not in log, log


def test_interfaces_come_and_go_while_programs_run(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    busy = [lab.start(["dumm-guest", "exec", "alice", "--", "cat"]) for _ in range(3)]
    for process in busy:
        assert process.stdin
        process.stdin.write(NOISE[:5000])
        process.stdin.flush()
    changes = [
        lab.start(
            [
                "sh",
                "-ec",
                f"for i in 1 2 3; do dumm-iface create alice-eth{n}; "
                f"dumm-iface delete alice-eth{n}; done",
            ]
        )
        for n in range(4)
    ]
    for process in changes:
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, b"")
    for process in busy:
        out, _ = process.communicate(NOISE[5000:9000], PATIENCE)
        assert out == NOISE[:9000]
    assert lab("dumm-iface list -q").out == ""


def test_two_labs_with_guests_of_the_same_name(new_lab: Callable[..., Lab]) -> None:
    one, two = new_lab("one"), new_lab("two")
    for lab in (one, two):
        lab("dumm-guest create alice --start")
        lab(["dumm-guest", "exec", "alice", "--", "sh", "-c", "echo $0 >/root/who", lab.directory])
    for lab in (one, two):
        assert lab("dumm-guest exec alice -- cat /root/who").out == f"{lab.directory}\n"
    one("dumm-iface create alice-eth0")
    if ROOT:  # on the same network; an ordinary user's labs each have their own
        done = two("dumm-iface create alice-eth0", status=4)
        assert "alice-eth0" in one_line_error(done.err, "dumm-iface")
    else:
        two("dumm-iface create alice-eth0")
    two("dumm-guest stop alice")
    assert state_of(one, "alice") == "running"


# ---- what a guest may do ----


def test_files_of_a_guest_cannot_fool_the_host(lab: Lab) -> None:
    """Its root user may write to run/uml on the host: links and FIFOs there do no harm."""
    lab("dumm-guest create alice --start")
    secret = lab.directory / "secret"
    secret.write_text("secret\n")
    script = (
        "mount -t hostfs none /mnt -o / && cd /mnt/run/uml && rm -f ready && ln -s $0 ready;"
        "rm -rf m; mkdir m; ln -s $0 m/mconsole"
    )
    lab(["dumm-guest", "exec", "alice", "--", "sh", "-c", script, secret])
    assert state_of(lab, "alice") in ("starting", "running")
    done = lab("dumm-guest mconsole alice -- version", status=None)
    assert done.code != 0
    one_line_error(done.err)
    lab("dumm-guest stop alice")
    assert secret.read_text() == "secret\n"
    lab("dumm-guest start alice")
    lab("dumm-guest exec alice -- true")


def test_out_of_memory_in_a_guest(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    before = processes(lab, "alice")
    lab(
        ["dumm-guest", "exec", "alice", "--", "sh", "-c", "x=x; while :; do x=$x$x; done"],
        status=None,
        timeout=PATIENCE,
    )
    assert processes(lab, "alice") == before
    assert lab("dumm-guest exec alice -- cat", stdin=NOISE).stdout == NOISE


# ---- odd environments ----


def test_removed_current_directory(lab: Lab, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && dumm-guest list -q && dumm-guest create alice --start"
    done = subprocess.run(["sh", "-c", line], env=lab.env, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_few_descriptors_and_a_small_umask(lab: Lab) -> None:
    done = subprocess.run(
        ["sh", "-c", "umask 077; ulimit -n 256; dumm-guest create alice --start"],
        env=lab.env,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    lab("dumm-guest exec -u nobody alice -- cat /etc/passwd")
    assert lab("dumm-guest exec alice -- sh -c umask").out == "0022\n"


def test_small_umask_with_virtiofs(lab: Lab) -> None:
    """The kernel has no capabilities, and enters its jail nevertheless."""
    lab(["sh", "-c", "umask 077; dumm-guest create alice --rootfs virtiofs --start"])
    assert lab("dumm-guest exec alice -- sh -c umask").out == "0022\n"


def test_hard_limits_lower_than_a_guest_needs(lab: Lab) -> None:
    """A guest may have more processes than its user, whose limit then applies to it."""
    lab("dumm-guest create alice")
    line = "ulimit -u 500; ulimit -s 512; dumm-guest start alice && dumm-guest exec alice -- true"
    done = subprocess.run(["bash", "-c", line], env=lab.env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    # The largest pid limit that a kernel accepts for a namespace (PID_MAX_LIMIT, linux/threads.h).
    assert limits.processes(1 << 40) + 300 <= 1 << 22


def test_signals_ignored_by_the_caller_are_not_ignored_in_guests(lab: Lab) -> None:
    """As under nohup: a guest's programs still get the default signal handlers."""
    lab("dumm-guest create alice")
    line = "trap '' HUP INT PIPE TERM; dumm-guest start alice"
    subprocess.run(["sh", "-c", line], env=lab.env, check=True)
    assert "0000000000000000" in lab("dumm-guest exec alice -- grep SigIgn /proc/self/status").out
    lab("dumm-guest stop alice")
    assert state_of(lab, "alice") == "stopped"


def test_guest_outlives_the_session_that_started_it(lab: Lab) -> None:
    lab("dumm-guest create alice")
    with subprocess.Popen(
        ["sh", "-c", "dumm-guest start alice; echo up; sleep 1000"],
        env=lab.env,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as session:
        assert session.stdout
        assert session.stdout.readline() == b"up\n"
        os.killpg(session.pid, signal.SIGHUP)
        os.killpg(session.pid, signal.SIGKILL)
    pid_of(lab, "alice")
    lab("dumm-guest exec alice -- true")
