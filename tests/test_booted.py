"""Waiting until guests have booted, or until a command in them succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, SUITES
from support.checks import one_line_error, until
from support.guests import inside, pid_of, processes, state_of
from support.labs import Lab
from support.masters import WITHOUT_SERVICES

from dumm_tools.agent import protocol
from dumm_tools.errors import DummError
from dumm_tools.linux import process
from dumm_tools.running import contact

pytestmark = pytest.mark.uml

BOOTED = "dumm-guest wait a --for booted"


def script(lab: Lab, text: str) -> None:
    lab("dumm-guest startup a -", stdin=text.encode())


def is_still_waiting(process: subprocess.Popen[bytes], seconds: float = 2) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    err = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, err.decode().lstrip("\n")  # click's after Ctrl-C


def write(lab: Lab, path: str, text: str, mode: str = "755") -> None:
    """Write a file of the guest `a`, which need not be running."""
    tree = inside(lab.mounted("a"))
    put = 'mkdir -p "$(dirname "$0")" && rm -f "$0" && printf %s "$1" >"$0" && chmod "$2" "$0"'
    lab.host(["sh", "-c", put, f"{tree}{path}", text, mode])


# ---- the agent alone ----


def test_booted_is_the_end_of_the_script(lab: Lab) -> None:
    lab("dumm-guest create a")
    script(lab, "until [ -e /go ]; do sleep 0.1; done; echo done >>/boots")
    lab("dumm-guest start a")
    waiting = [lab.start(BOOTED), lab.start("dumm-guest start a --wait booted")]
    assert ended(waiting.pop())[0] == 4  # it is running
    assert is_still_waiting(waiting[0])
    assert lab("dumm-guest show a -o state,startup").out == "running\trunning\n"
    # The guest can be talked to meanwhile.
    lab("dumm-iface create a-eth0 --address 10.0.0.1/24")
    late = lab(f"{BOOTED} --timeout 0", status=5)
    assert one_line_error(late.err) == "guest 'a' has not booted in time"
    lab("dumm-guest exec a -- touch /go")
    assert ended(waiting[0]) == (0, "")
    lab(f"{BOOTED} --timeout 0")
    # Not by an earlier boot: that one has long booted.
    lab("dumm-guest exec a -- sh -c 'rm /go; reboot'", status=None)
    again = lab.start(BOOTED)
    assert is_still_waiting(again)
    lab("dumm-guest wait a --until -- touch /go")
    assert ended(again) == (0, "")
    assert lab("dumm-guest exec a -- cat /boots").out == "done\n" * 2


def test_start_that_gave_up_leaves_a_guest_running(lab: Lab) -> None:
    script_file = lab.directory / "endless"
    script_file.write_text("sleep 1000000")
    lab(["dumm-guest", "create", "a", "--startup", script_file])
    late = lab("dumm-guest start a --wait booted --timeout 3", status=5)
    assert one_line_error(late.err) == "guest 'a' has not booted in time"
    assert state_of(lab, "a") == "running"
    lab("dumm-guest stop a")


def test_end_of_the_guest_is_the_end_of_the_wait(lab: Lab) -> None:
    lab("dumm-guest create a")
    script(lab, "sleep 1000000")
    assert one_line_error(lab(BOOTED, status=4).err) == "guest 'a' is stopped"
    for command in (BOOTED, "dumm-guest wait a --until -- false"):
        lab("dumm-guest start a")
        waiting = lab.start(command)
        assert is_still_waiting(waiting, 1)
        os.kill(pid_of(lab, "a"), signal.SIGKILL)
        status, said = ended(waiting)
        assert status == 1
        assert one_line_error(said) in ("guest 'a' is not running", "guest 'a' is crashed")


def answer_as_before(heard: int, out: int) -> None:
    """Answer like an agent that knows HELLO and STORE, but not STATE."""
    inbox = b""
    while True:
        inbox += os.read(heard, 4096)
        *frames, inbox = inbox.split(protocol.END)
        for frame in frames:
            frame = frame.replace(protocol.ESC + protocol.ESC_END, protocol.END)
            frame = frame.replace(protocol.ESC + protocol.ESC_ESC, protocol.ESC)
            if frame[:1] == protocol.HELLO:
                ready = frame[1:] + b"0123456789abcdef 6.1.0 0000000000000000 "
                os.write(out, protocol.READY + len(ready).to_bytes(3, "little") + ready)
            elif frame[:1] == protocol.STORE:
                os.write(out, protocol.DONE + (4).to_bytes(3, "little") + bytes([22, 0, 0, 0]))


def test_agent_of_an_earlier_version(tmp_path: Path) -> None:
    run = tmp_path / "run/a"
    run.mkdir(parents=True)
    for way in ("in", "out"):
        os.mkfifo(run / f"line1.{way}")
    lines = [os.open(run / f"line1.{way}", os.O_RDWR) for way in ("in", "out")]
    pid = os.fork()
    if pid == 0:
        answer_as_before(*lines)
    try:
        (run / "pid").write_text(f"{pid} {process.start_time(pid)}\n")
        with pytest.raises(DummError, match="guest 'a' was started by an earlier version"):
            contact.wait_booted(str(tmp_path), "a", PATIENCE)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in lines:
            os.close(fd)


# ---- inits ----


@pytest.mark.parametrize("suite", SUITES)
def test_init_of_busybox(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-guest create a --init /sbin/init")
    hold = "#!/bin/sh\nuntil [ -e /tmp/$1 ]; do sleep 0.1; done\n"
    write(lab, "/hold", hold)
    table = (
        "# a comment\n::sysinit:mkdir -p /tmp\n::sysinit:/hold 1\n::wait:-/hold 2 >/dev/null\n"
        "::once:/hold never\n::respawn:/bin/sleep 1000000\ntty1::askfirst:/bin/sh\n"
    )
    write(lab, "/etc/inittab", table, "644")
    script(lab, "echo booted >>/boots; ps -o args >/running")
    lab("dumm-guest start a")
    waiting = lab.start(BOOTED)
    for number in (1, 2):
        assert is_still_waiting(waiting)
        assert lab("dumm-guest show a -o startup").out == "waiting\n"
        lab(f"dumm-guest exec a -- touch /tmp/{number}")
    assert ended(waiting) == (0, "")
    assert lab("dumm-guest show a -o startup").out == "done\n"
    # The script ran after the commands that the init waits for.
    running = lab("dumm-guest exec a -- cat /running").out
    assert "/hold never" in running
    assert "/hold 2" not in running
    # Right after a reboot, it is not the old boot that answers.
    lab("dumm-guest exec a -- rm /tmp/2")
    lab("dumm-guest exec a -- reboot", status=None)
    again = lab.start(BOOTED)
    assert is_still_waiting(again)
    lab("dumm-guest wait a --until -- sh -c 'ps -o args | grep [h]old.2 && touch /tmp/2'")
    assert ended(again) == (0, "")
    assert lab("dumm-guest exec a -- cat /boots").out == "booted\n" * 2


def test_other_inits(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create a --init /sbin/openrc-init")
    work = """#!/bin/sh
    at() { mkdir -p /run/openrc/rc.starting; echo $1 >/run/openrc/softlevel; }
    until [ -e /go1 ]; do sleep 0.1; done
    for level in sysinit boot; do at $level; rmdir /run/openrc/rc.starting; done
    at default; until [ -e /go2 ]; do sleep 0.1; done; rmdir /run/openrc/rc.starting
    while :; do sleep 1; done
    """
    write(lab, "/sbin/openrc-init", work)
    lab("dumm-guest start a")
    waiting = lab.start(BOOTED)
    for number in (1, 2):
        assert is_still_waiting(waiting)
        lab(f"dumm-guest exec a -- touch /go{number}")
    assert ended(waiting) == (0, "")
    lab("dumm-guest stop a --kill")
    # runit has come up when its second stage is runsvdir; its own programs are not asked.
    source, program = tmp_path / "pause.c", tmp_path / "runsvdir"
    source.write_text("#include <unistd.h>\nint main(void) { return pause(); }\n")
    subprocess.run(["gcc", "-static", "-s", "-o", program, source], check=True)
    write(lab, "/sbin/runit-init", "#!/bin/sh\nuntil [ -e /go3 ]; do sleep 0.1; done\nrunsvdir\n")
    lab(["dumm-fs", "cp", program, "a:/bin/runsvdir"])
    lab("dumm-guest set a --init /sbin/runit-init")
    lab("dumm-guest start a")
    waiting = lab.start(BOOTED)
    assert is_still_waiting(waiting)
    lab("dumm-guest exec a -- touch /go3")
    assert ended(waiting) == (0, "")
    lab("dumm-guest exec a -- sh -c 'touch /run/runit.stopit; chmod 100 /run/runit.stopit'")
    lab("dumm-guest wait a --timeout 1", status=5)
    assert state_of(lab, "a") == "stopping"
    lab("dumm-guest stop a --kill")
    # A program that nothing is known of, and one that cannot be executed.
    write(lab, "/init", "#!/bin/sh\nsleep 1000000")
    write(lab, "/bad", "#!/nonexistent\n")
    script(lab, "echo it ran")
    for init, said in (("/init", 0), ("/bad", 1)):
        lab(f"dumm-guest set a --init {init}")
        done = lab("dumm-guest start a --wait booted")
        assert done.err.count("\n") == said
        assert lab("dumm-guest show a -o startup").out == "done\n"
        lab("dumm-guest stop a --kill")


def boots_of(lab: Lab) -> int:
    return lab("dumm-guest exec a -- cat /boots").out.count("booted\n")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["--host-net", "--isolated"] if ROOT else ["--isolated"])
def test_systemd(new_lab: Callable[..., Lab], debian_systemd: str, kind: str) -> None:
    lab = new_lab("lab", kind)
    options = f"--memory 256M --init /sbin/init {WITHOUT_SERVICES}"
    lab(f"dumm-guest create a --master {debian_systemd} {options}")
    unit = "[Service]\nType=oneshot\nExecStart=/bin/{}\n[Install]\nWantedBy=multi-user.target\n"
    slow = "sh -c 'until [ -e /run/go ]; do sleep 0.1; done'"
    for name, command in (("slow", slow), ("broken", "false")):
        write(lab, f"/etc/systemd/system/{name}.service", unit.format(command), "644")
        link = f"/etc/systemd/system/multi-user.target.wants/{name}.service"
        tree = inside(lab.mounted("a"))
        lab.host(["ln", "-s", f"/etc/systemd/system/{name}.service", f"{tree}{link}"])
    script(lab, "echo booted >>/boots; systemctl is-system-running; true")
    lab("dumm-guest start a")
    waiting = lab.start(BOOTED)
    assert is_still_waiting(waiting)
    assert lab("dumm-guest show a -o startup").out == "waiting\n"
    lab("dumm-guest exec a -- touch /run/go")
    status, said = ended(waiting)
    assert status == 0
    degraded = "guest 'a': systemd is degraded: failed: broken.service"
    assert one_line_error(said) == f"warning: {degraded}"
    assert boots_of(lab) == 1
    log = Path(lab.directory / "run/a/startup.log").read_text()
    assert log == "degraded\n"
    # Right after a reboot, it is not the old boot that answers.
    lab("dumm-guest exec a -- systemctl disable slow broken")
    lab("dumm-guest exec a -- reboot", status=None)
    assert lab(BOOTED).err == ""
    assert boots_of(lab) == 2
    lab("dumm-guest stop a --kill")


@pytest.mark.slow
def test_system_v(lab: Lab, debian_sysvinit: str) -> None:
    lab(f"dumm-guest create a --master {debian_sysvinit} --memory 256M --init /sbin/init")
    write(lab, "/hold", "#!/bin/sh\nuntil [ -e /run/go ]; do sleep 0.1; done\n")
    table = f"{inside(lab.mounted('a'))}/etc/inittab"
    lab.host(["sed", "-i", "/^l2:/a sl:2:wait:/hold", table])
    script(lab, "echo booted >>/boots; runlevel")
    lab("dumm-guest start a")
    waiting = lab.start(BOOTED)
    lab("dumm-guest wait a --until -- pgrep -f /hold")
    assert is_still_waiting(waiting)
    assert lab("dumm-guest show a -o startup").out == "waiting\n"
    lab("dumm-guest exec a -- touch /run/go")
    assert ended(waiting) == (0, "")
    assert Path(lab.directory / "run/a/startup.log").read_text() == "N 2\n"
    lab("dumm-guest exec a -- reboot", status=None)
    again = lab.start(BOOTED)
    lab("dumm-guest wait a --until -- sh -c 'pgrep -f [/]hold && touch /run/go'")
    assert ended(again) == (0, "")
    assert boots_of(lab) == 2
    lab("dumm-guest stop a --kill")


# ---- until a command succeeds ----


def test_until_a_command_succeeds(lab: Lab) -> None:
    lab("dumm-guest create a b --start")
    lab("dumm-guest wait a b --until -- true")
    lab("dumm-guest exec a -- touch /go")
    waiting = lab.start(["dumm-guest", "wait", "a", "b", "--until", "--", "ls", "/go"])
    assert is_still_waiting(waiting)
    lab("dumm-guest exec b -- touch /go")
    assert ended(waiting) == (0, "")
    shown = lab("dumm-guest wait -v a --until -- ls -l /go")
    assert shown.stdout == b""
    assert "/go" in shown.err
    # Options of the command are its own, and input is not for it.
    lab("dumm-guest wait a --until -- sh -c 'test -z \"$(cat)\" && test $0 = --timeout' --timeout")


def test_until_the_output_matches(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    script = "date +%N >>/tries; cat /text; exit $(cat /status)"
    lab("dumm-guest exec a -- sh -c 'echo 0 >/status; echo one >/text'")
    wait = ["dumm-guest", "wait", "a", "--until", "--match", r"^t\w{2}$"]
    waiting = lab.start([*wait, "--", "sh", "-c", script])
    assert is_still_waiting(waiting)
    lab("dumm-guest exec a -- sh -c 'echo 1 >/status; echo one; printf \"one\\ntwo\\n\" >/text'")
    assert is_still_waiting(waiting)
    lab("dumm-guest exec a -- sh -c 'echo 0 >/status'")
    assert ended(waiting) == (0, "")
    late = lab([*wait, "--timeout", "0", "--", "echo", "nothing"], status=5).err
    assert one_line_error(late).endswith(r"did not succeed: '^t\w{2}$' is not found: nothing")
    # More than the end that is kept for messages.
    lab([*wait, "--", "sh", "-c", "echo two; head -c 100000 /dev/zero"])
    lab([*wait, "--", "sh", "-c", "echo two >&2"])


def test_until_time_is_up(lab: Lab) -> None:
    lab("dumm-guest create a --start")

    def late(command: str) -> str:
        return lab(f"dumm-guest wait a --until --timeout 1 -- {command}", status=5).err

    said = late("sh -c 'echo one; echo two >&2; exit 7'")
    assert one_line_error(said).endswith("did not succeed: status 7: two")
    warning, error = late("nonsense -x").splitlines()
    assert "warning: guest 'a': cannot run 'nonsense': command not found" in warning
    assert error.endswith("'nonsense -x' did not succeed: cannot run 'nonsense': command not found")
    assert one_line_error(late("sleep 1000000")).endswith("did not succeed: it is still running")
    late("sh -c 'trap \"\" TERM INT HUP; while :; do sleep 0.1; done'")
    until(lambda: processes(lab, "a") == [], "no try is left running")


def test_until_is_interrupted(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        waiting = lab.start("dumm-guest wait a --until -- sleep 1000000")
        until(lambda: "sleep 1000000" in processes(lab, "a"), "the command runs")
        waiting.send_signal(number)
        assert ended(waiting) == (-number, "")
        until(lambda: processes(lab, "a") == [], "the command has ended")


def test_until_over_a_reboot(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    waiting = lab.start(
        ["dumm-guest", "wait", "a", "--until", "--", "sh", "-c", "test -e /go || sleep 1000000"]
    )
    until(lambda: "sleep 1000000" in processes(lab, "a"), "the command runs")
    lab("dumm-guest exec a -- sh -c 'touch /go; reboot -f'", status=None)
    assert ended(waiting) == (0, "")


def test_until_needs_a_guest_and_a_command(lab: Lab) -> None:
    lab("dumm-guest create a")
    for words, status, said in (
        ("wait a --until -- true", 4, "guest 'a' is stopped"),
        ("wait b --until -- true", 3, "no guest 'b'"),
        ("wait --until -- true", 2, "name guests"),
        ("wait a --until", 2, "--until needs a command"),
        ("wait a --until --", 2, "--until needs a command"),
        ("wait a --until --for stopped -- true", 2, "--for stopped"),
        ("wait a --match x", 2, "--match needs --until"),
        ("wait a --until --match ( -- true", 2, "bad regular expression '('"),
    ):
        message = one_line_error(lab(f"dumm-guest {words}", status=status).err)
        assert said in message
    lab("dumm-guest start a")
    lab("dumm-guest pause a")
    assert "paused" in one_line_error(lab("dumm-guest wait a --until -- true", status=4).err)
    lab("dumm-guest resume a")
