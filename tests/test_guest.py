"""The life of guests: start, stop, crash, pause; at any moment, and many at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, SUITES
from support.checks import NOISE, one_line_error, until
from support.guests import pid_of, processes, state_of
from support.labs import Lab
from support.world import World, use_of

pytestmark = pytest.mark.uml


def boot_id(lab: Lab, name: str) -> str:
    return lab(f"dumm-guest exec {name} -- cat /proc/sys/kernel/random/boot_id").out.strip()


def refused(lab: Lab, command: str, status: int, message: str) -> None:
    """Check that a command fails with this status and message, and prints nothing on stdout."""
    done = lab(command, status=status)
    assert done.out == ""
    assert one_line_error(done.err, command.split()[0]) == message


# ---- start and stop ----


@pytest.mark.parametrize("suite", SUITES)
def test_guest_is_created_started_and_stopped(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    assert lab("dumm-guest create alice bob").stdout == b""
    assert lab("dumm-guest list -o name,state,pid").out == "alice\tstopped\t-\nbob\tstopped\t-\n"
    lab("dumm-guest start alice")
    assert lab("dumm-guest exec alice -- hostname").out == "alice\n"
    assert lab("dumm-guest exec alice -- cat /proc/1/comm").out == "init\n"
    assert state_of(lab, "alice") == "running"
    assert state_of(lab, "bob") == "stopped"
    lab("dumm-guest is-running alice")
    lab("dumm-guest is-running bob", status=1)
    refused(lab, "dumm-guest start alice", 4, "guest 'alice' is running")
    refused(lab, "dumm-guest stop bob", 4, "guest 'bob' is not running")
    refused(lab, "dumm-guest start nobody", 3, "no guest 'nobody'")
    first = boot_id(lab, "alice")
    lab("dumm-guest restart alice")
    assert boot_id(lab, "alice") != first
    lab("dumm-guest stop --all")
    assert lab("dumm-guest list -o state").out == "stopped\nstopped\n"
    assert not (lab.directory / "run/alice/uml/m").exists(), "it did not halt in good order"


@pytest.mark.parametrize("suite", SUITES)
def test_boot_does_not_run_out_of_threads(new_lab: Callable[..., Lab], suite: str) -> None:
    """A kernel at its limit of threads makes no more for now (-EAGAIN), and ends up without IPv6. A
    whole boot makes fewer threads than that."""
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice --start")
    # The shell's pid counts all threads since the kernel started.
    script = "cat /proc/sys/kernel/threads-max; sh -c 'echo $$'"
    limit, made = map(int, lab(["dumm-guest", "exec", "alice", "--", "sh", "-c", script]).lines)
    assert made < limit


def test_first_failure_sets_the_status_and_the_others_are_done(lab: Lab) -> None:
    lab("dumm-guest create alice bob")
    done = lab("dumm-guest start nobody alice bob", status=3)
    assert one_line_error(done.err) == "no guest 'nobody'"
    assert lab("dumm-guest list -o state").out == "running\nrunning\n"
    done = lab("dumm-guest create alice carol", status=4)
    assert one_line_error(done.err) == "guest 'alice' already exists"
    assert lab("dumm-guest list -q").lines == ["alice", "bob", "carol"]
    assert state_of(lab, "carol") == "stopped"


def test_data_is_synced_when_a_guest_stops(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    lab("dumm-guest exec alice -- sh -c 'cat >/root/late'", stdin=NOISE)
    lab("dumm-guest stop alice")
    assert (lab.directory / "host/alice/root/late").read_bytes() == NOISE


def test_open_shell_does_not_hold_up_a_stop(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    lab.start("dumm-guest exec -t alice -- sh")
    lab.start("dumm-guest exec alice -- sleep 1000")
    lab("dumm-console send alice echo")  # and one on the console
    until(lambda: {"sh", "sleep 1000"} <= set(processes(lab, "alice")), "they run")
    # A guest that is held up would be killed after this time, instead of halting in good order.
    lab("dumm-guest stop alice --timeout inf")
    assert not (lab.directory / "run/alice/uml/m").exists()


def test_twenty_guests_at_once(lab: Lab) -> None:
    names = [f"g{n:02}" for n in range(20)]
    lab(["dumm-guest", "create", *names])
    lab("dumm-guest start --all")
    assert lab("dumm-guest list -o name,state").lines == [f"{n}\trunning" for n in names]
    assert all(boot_id(lab, name) for name in names[::5])
    lab("dumm-guest stop --all")
    assert set(lab("dumm-guest list -o state").lines) == {"stopped"}


def test_two_starts_at_once(lab: Lab) -> None:
    lab("dumm-guest create alice")
    starts = [lab.start("dumm-guest start alice") for _ in range(4)]
    codes = sorted(s.wait(PATIENCE) for s in starts)
    assert codes[0] == 0
    assert set(codes) <= {0, 4}
    assert state_of(lab, "alice") == "running"
    lab("dumm-guest exec alice -- true")


def test_wait_after_a_start_without_waiting(lab: Lab) -> None:
    lab("dumm-guest create alice")
    lab("dumm-guest start --no-wait alice")
    lab("dumm-guest wait alice")
    lab("dumm-guest exec alice -- true")
    refused(
        lab,
        "dumm-guest wait alice --for stopped --timeout 0.3",
        5,
        "guest 'alice' is still running",
    )
    waiting = lab.start("dumm-guest wait alice --for stopped")
    time.sleep(0.3)
    assert waiting.poll() is None
    lab("dumm-guest stop alice")
    assert waiting.wait(PATIENCE) == 0
    lab("dumm-guest wait alice --for stopped --timeout 0")
    refused(lab, "dumm-guest wait alice --timeout 1", 4, "guest 'alice' is stopped")


def test_infinite_timeouts(lab: Lab) -> None:
    lab("dumm-guest create alice")
    lab("dumm-guest start alice --timeout inf")
    for limit in ("inf", "1e10", "1e400", "0"):
        lab(f"dumm-guest wait alice --timeout {limit}")
    lab("dumm-guest exec --timeout inf alice -- true")
    waiting = lab.start("dumm-guest wait alice --for stopped --timeout inf")
    lab("dumm-guest stop alice --timeout inf")
    assert waiting.wait(PATIENCE) == 0
    for verb in ("start", "stop", "restart", "wait"):
        done = lab(f"dumm-guest {verb} alice --timeout nan", status=2)
        assert "'nan' is not a number of seconds" in one_line_error(done.err)


def test_pause_and_resume(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    lab("dumm-guest exec -- alice sh -c 'sleep 1000 &'")
    lab("dumm-guest pause alice")
    assert state_of(lab, "alice") == "paused"
    refused(lab, "dumm-guest pause alice", 4, "guest 'alice' is paused")
    lab("dumm-guest resume alice")
    assert state_of(lab, "alice") == "running"
    lab("dumm-guest exec alice -- killall sleep")
    refused(lab, "dumm-guest resume alice", 4, "guest 'alice' is running, not paused")
    lab("dumm-guest pause --all")
    lab("dumm-guest stop alice")
    assert state_of(lab, "alice") == "stopped"


@pytest.mark.parametrize("suite", SUITES)
def test_resume_after_a_resume_that_was_killed_half_way(
    new_lab: Callable[..., Lab], suite: str
) -> None:
    """The kernel runs, but the state says that it is paused."""
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice --start")
    lab("dumm-guest pause alice")
    lab("dumm-guest mconsole alice -- go")
    assert state_of(lab, "alice") == "paused"
    lab("dumm-guest resume alice")
    assert state_of(lab, "alice") == "running"
    lab("dumm-guest exec alice -- true")
    lab("dumm-guest pause alice")
    lab("dumm-guest mconsole alice -- go")
    lab("dumm-guest stop alice")
    assert not (lab.directory / "run/alice/uml/m").exists(), "it was stopped by force"


def test_mconsole_commands_and_their_errors(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    assert lab("dumm-guest mconsole alice -- version").out.startswith("Linux alice 7.")
    done = lab("dumm-guest mconsole alice -- nonsense", status=1)
    assert "nonsense" in one_line_error(done.err)
    done = lab(["dumm-guest", "mconsole", "alice", "--", "x" * 600], status=2)
    assert one_line_error(done.err) == "an mconsole command is limited to 511 bytes"


# ---- unexpected ends ----


@pytest.mark.parametrize("how", ["poweroff", "halt", "poweroff -f"])
def test_guest_that_halts_itself_is_stopped(lab: Lab, how: str) -> None:
    lab("dumm-guest create alice --start")
    lab(f"dumm-guest exec alice -- {how}", status=None)
    lab(f"dumm-guest wait alice --for stopped --timeout {PATIENCE}")
    assert state_of(lab, "alice") == "stopped"
    lab("dumm-guest start alice")
    lab("dumm-guest exec alice -- true")


@pytest.mark.parametrize("suite", SUITES)
def test_guest_that_reboots_itself_keeps_running(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice --start")
    first = boot_id(lab, "alice")
    lab("dumm-guest exec alice -- reboot", status=None)
    until(
        lambda: (
            (
                d := lab(
                    "dumm-guest exec alice -- cat /proc/sys/kernel/random/boot_id", status=None
                )
            ).code
            == 0
            and d.out.strip() != first
        ),
        "it comes back",
    )
    lab(f"dumm-guest wait alice --timeout {PATIENCE}")
    assert state_of(lab, "alice") == "running"


def test_killed_guest_is_crashed(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    lab("dumm-iface create alice-eth0 --address 10.0.0.1/24")
    os.kill(pid_of(lab, "alice"), signal.SIGKILL)
    until(lambda: state_of(lab, "alice") == "crashed", "crashed")
    lab("dumm-guest is-running alice", status=1)
    refused(lab, "dumm-guest exec alice -- true", 125, "guest 'alice' is crashed")
    lab("dumm-guest start alice")
    assert "10.0.0.1/24" in lab("dumm-guest exec alice -- ip addr show eth0").out


#: Starts a guest that is killed once it has been found to run.
KILLS = """
import os, signal, sys
from dumm_tools.cli import guest
from dumm_tools.running import liveness

look = liveness.guest_state

def look_and_kill(labdir, state, found):
    now = look(labdir, state, found)
    if now == "running":
        os.kill(liveness.pid_of(labdir, found.name)[0], signal.SIGKILL)
        liveness.await_end(labdir, found.name, 60)
    return now

liveness.guest_state = look_and_kill
sys.argv = ["dumm-guest", "start", "alice"]
guest.main()
"""


def test_guest_that_ends_while_it_is_started_is_started(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    before = pid_of(lab, "alice")
    assert lab([sys.executable, "-c", KILLS]).err == ""
    assert state_of(lab, "alice") == "running"
    assert pid_of(lab, "alice") != before


@pytest.mark.parametrize("suite", SUITES)
def test_panic_is_a_crash_and_is_logged(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice --start")
    lab("dumm-guest exec alice -- sh -c 'echo c >/proc/sysrq-trigger'", status=None)
    until(lambda: state_of(lab, "alice") == "crashed", "crashed")
    assert "panic" in lab("dumm-console log alice").out.lower()
    lab("dumm-guest stop alice")
    assert state_of(lab, "alice") == "stopped"
    lab("dumm-guest start alice")


def test_hung_guest_is_killed_after_the_timeout(lab: Lab) -> None:
    lab("dumm-guest create alice bob --start")
    for name in ("alice", "bob"):
        os.kill(pid_of(lab, name), signal.SIGSTOP)
    lab("dumm-guest stop --all --timeout 0.5")
    assert lab("dumm-guest list -o state").out == "stopped\nstopped\n"


def test_hung_guest_gets_the_whole_timeout(lab: Lab) -> None:
    """If the guest continues within the timeout, it halts in good order."""
    lab("dumm-guest create alice --start")
    pid = pid_of(lab, "alice")
    os.kill(pid, signal.SIGSTOP)
    stopping = lab.start(f"dumm-guest stop alice --timeout {PATIENCE}")
    until(lambda: state_of(lab, "alice") == "stopping", "it waits")
    os.kill(pid, signal.SIGCONT)
    assert stopping.wait(PATIENCE) == 0
    assert not (lab.directory / "run/alice/uml/m").exists()


def test_stop_with_kill_does_not_wait(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    os.kill(pid_of(lab, "alice"), signal.SIGSTOP)
    lab("dumm-guest stop --kill --all --timeout inf")
    assert state_of(lab, "alice") == "stopped"


# ---- starts that do not end ----


def test_killed_start_leaves_a_usable_state(lab: Lab) -> None:
    lab("dumm-guest create alice")
    lab("dumm-iface create alice-eth0 --address 10.0.0.1/24")
    chance = random.Random(7)
    for _ in range(10):
        starter = lab.start("dumm-guest start alice")
        time.sleep(chance.uniform(0.05, 0.35))
        starter.kill()
        starter.wait()
        assert state_of(lab, "alice") in ("stopped", "starting", "running", "crashed")
        lab("dumm-guest start alice", status=0 if state_of(lab, "alice") != "running" else 4)
        assert "10.0.0.1/24" in lab("dumm-guest exec alice -- ip addr show eth0").out
        lab("dumm-guest stop --kill alice")


def test_interrupted_start_leaves_nothing(lab: Lab) -> None:
    lab("dumm-guest create alice bob carol")
    chance = random.Random(8)
    for _ in range(10):
        starter = lab.start("dumm-guest start --all")
        time.sleep(chance.uniform(0.05, 0.3))
        starter.send_signal(signal.SIGINT)
        code = starter.wait(PATIENCE)
        assert starter.stderr
        said = starter.stderr.read()
        # On a busy machine, Python may still be starting, and report an error of its own.
        assert code in (0, -signal.SIGINT) or b"Fatal Python error: init_" in said, said
        assert b"Traceback" not in said or b", in <module>\n" in said  # Python was still importing
        for name, state in (x.split("\t") for x in lab("dumm-guest list -o name,state").lines):
            assert state in ("running", "stopped"), (name, state)
            log = str(lab.directory / f"run/{name}/console.log")
            users = [pid for pid in World.now().pids if use_of(pid, log)]
            assert bool(users) == (state == "running"), (name, state, users)
        lab("dumm-guest stop --all --kill")


def test_create_with_start_makes_no_guest_if_the_start_fails(lab: Lab) -> None:
    lab("dumm-guest create old --init /bin/none")
    done = lab("dumm-guest create old new --start --may-exist --init /bin/none", status=1)
    assert [line.split("'")[1] for line in done.err.splitlines()] == ["old", "new"]
    # Existing guests are kept.
    assert lab("dumm-guest list -q").out == "old\n"
    assert sorted(os.listdir(lab.directory / "host")) == ["old"]
    lab("dumm-guest create new --start")
    done = lab("dumm-guest create new good --start", status=4)
    assert one_line_error(done.err)
    assert lab("dumm-guest list -o name,state").lines == [
        "good\trunning",
        "new\trunning",
        "old\tstopped",
    ]
    done = lab("dumm-guest restart old good", status=4)
    assert state_of(lab, "good") == "running"


def test_failed_start_reports_the_reason_and_leaves_nothing(lab: Lab) -> None:
    lab("dumm-guest create alice")
    links = os.listdir("/sys/class/net")
    lab(f"dumm-guest create bob --arg {'x' * 3700}")  # more than the kernel accepts
    done = lab("dumm-guest start bob", status=1)
    assert "cannot start guest 'bob': " in one_line_error(done.err)
    assert state_of(lab, "bob") == "stopped"
    assert os.listdir("/sys/class/net") == links


def test_slow_start_times_out(lab: Lab) -> None:
    lab("dumm-guest create alice")
    done = lab("dumm-guest start alice --timeout 0", status=5)
    assert one_line_error(done.err) == "guest 'alice' was not ready in time"
    assert state_of(lab, "alice") == "stopped"


# ---- settings ----


def test_set_takes_effect_at_the_next_start(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice --start")
    change = "dumm-guest set alice --memory 96M --arg dumm.test=1"
    told = "dumm-guest: guest 'alice' is running: this takes effect at its next start\n"
    assert [lab(change).err for _ in range(2)] == [told, ""]  # once
    assert lab("dumm-guest show alice -o memory,args").out == f"{96 << 20}\tdumm.test=1\n"
    assert "dumm.test" not in lab("dumm-guest exec alice -- cat /proc/cmdline").out
    lab("dumm-guest restart alice")
    assert "dumm.test=1" in lab("dumm-guest exec alice -- cat /proc/cmdline").out
    total = int(lab("dumm-guest exec alice -- grep MemTotal /proc/meminfo").out.split()[1])
    assert 70 << 10 < total < 96 << 10
    lab(["dumm-guest", "set", "alice", "--arg", "", "--kernel", "trixie"])
    lab("dumm-guest stop alice")
    assert lab("dumm-guest set alice --memory 64M").err == ""
    lab("dumm-guest start alice")
    assert lab("dumm-guest exec alice -- uname -r").out.startswith("6.12")
    assert lab("dumm-guest show alice -o args,kernel").out == "-\ttrixie\n"
    refused(lab, "dumm-guest set alice --kernel none", 3, "no kernel 'none'")
    lab("dumm-guest set alice", status=2)
    lab("dumm-guest set nobody --memory 64M", status=3)


def test_new_master_takes_effect_at_the_next_start(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-a", f"{lab.directory}/master/.", other], check=True)
    (other / "etc/other").write_text("other\n")
    lab("dumm-guest create alice --start")
    lab(["dumm-guest", "set", "alice", "--master", other])
    lab("dumm-guest exec alice -- test ! -e /etc/other")
    lab("dumm-guest restart alice")
    assert lab("dumm-guest exec alice -- cat /etc/other").out == "other\n"


def test_guest_with_an_init_of_its_own(lab: Lab) -> None:
    lab("dumm-guest create alice --init /sbin/init --start")
    assert lab("dumm-guest exec alice -- readlink /proc/1/exe").out == "/usr/bin/busybox\n"
    lab("dumm-guest exec alice -- sh -c 'cat >/root/late'", stdin=NOISE)
    lab("dumm-guest stop alice --timeout inf")
    assert not (lab.directory / "run/alice/uml/m").exists()
    assert (lab.directory / "host/alice/root/late").read_bytes() == NOISE
    lab("dumm-guest set alice --init /bin/sleep")  # no init is run and it ends: a panic
    done = lab("dumm-guest start alice", status=None)
    assert done.code in (0, 1)


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        ("/no/such", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/etc", "Permission denied"),
        ("/../../../../bin/../no", "No such file or directory"),
    ],
)
def test_unusable_init_is_rejected_at_the_start(lab: Lab, init: str, reason: str) -> None:
    lab("dumm-guest create alice --init " + init)
    message = f"cannot start guest 'alice': init '{init}': {reason}"
    refused(lab, "dumm-guest start alice", 1, message)
    assert state_of(lab, "alice") == "stopped"
    lab(["dumm-guest", "set", "alice", "--init", ""])
    lab("dumm-guest start alice")


def test_init_that_the_guest_cannot_run(lab: Lab) -> None:
    """The file exists, but is not a program: the guest runs, and can be examined."""
    lab("dumm-guest create alice --init /root/init")
    program = lab.mounted("alice") / "root/init"
    program.write_bytes(b"\1\2\3\4")
    program.chmod(0o755)
    done = lab("dumm-guest start alice")
    assert one_line_error(done.err) == "warning: guest 'alice': /root/init: Exec format error"
    lab("dumm-guest exec alice -- true")


# ---- the end of a guest ----


def test_delete_removes_a_stopped_guest_and_its_files(lab: Lab) -> None:
    lab("dumm-guest create alice bob --start")
    done = lab("dumm-guest delete alice", status=4)
    assert done.err.splitlines() == [
        "dumm-guest: guest 'alice' is running",
        "dumm-guest: hint: dumm-guest stop alice",
    ]
    lab("dumm-guest exec alice -- touch /etc/mine")
    lab("dumm-guest stop alice")
    lab("dumm-guest delete alice")
    for part in ("host", "mount", "run"):
        assert not (lab.directory / part / "alice").exists()
    refused(lab, "dumm-guest delete alice", 3, "no guest 'alice'")
    lab("dumm-guest delete --if-exists alice")
    lab("dumm-guest create carol carol")
    lab("dumm-guest delete carol carol")
    lab("dumm-guest create alice --start")
    lab("dumm-guest exec alice -- test ! -e /etc/mine")


def test_destroy_after_crashes(new_lab: Callable[..., Lab]) -> None:
    """The fixture looks for links, mounts, processes and files."""
    lab = new_lab()
    lab("dumm-guest create alice bob carol dave --start")
    lab("dumm-bridge create lan0")
    lab("dumm-iface create alice-eth0 bob-eth0 carol-eth0 --bridge lan0")
    os.kill(pid_of(lab, "alice"), signal.SIGKILL)
    os.kill(pid_of(lab, "bob"), signal.SIGSTOP)
    lab("dumm-guest exec carol -- poweroff", status=None)
    lab("dumm-guest pause dave")
    lab("dumm-fs destroy")
    assert not (lab.directory / "state.json").exists()
    refused(lab, "dumm-guest list", 3, f"no working set in '{lab.directory}'")


def test_state_from_before_a_reboot_of_the_host(lab: Lab) -> None:
    """State from an earlier boot of the host is no longer valid."""
    lab("dumm-guest create alice --start")
    lab("dumm-guest stop --kill alice")
    path = lab.directory / "state.json"
    data = json.loads(path.read_text())
    data["guests"]["alice"]["boot"] = {
        "nonce": "0123456789abcdef",
        "phase": "running",
        "host_boot": "00000000-0000-0000-0000-000000000000",
        "kernel": "",
    }
    path.write_text(json.dumps(data))
    lab("dumm-fs umount alice")
    (lab.directory / "run/alice/pid").write_text("1 1\n")
    assert lab("dumm-guest list -o state,pid").out == "stopped\t-\n"
    lab("dumm-guest start alice")
    lab("dumm-guest exec alice -- true")
