"""The commands as a shell sees them, without a guest: streams, status, names, usage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from support import BIN, PATIENCE
from support.checks import has_open, one_line_error, until
from support.labs import Lab, recorded

from dumm_tools import messages
from dumm_tools.cli.guest_life import Errors
from dumm_tools.cli.progress import Progress
from dumm_tools.errors import DummError
from dumm_tools.model import State

TOOLS = ("dumm-fs", "dumm-guest", "dumm-iface", "dumm-bridge", "dumm-console")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A working set with two guests that never ran, and nothing in the kernel."""

    def fill(state: State) -> None:
        bob = state.guests["bob"]
        bob.args, bob.memory, bob.init = ["a=1", "b"], 96 << 20, "/sbin/init"

    return Lab(Path(recorded(tmp_path, "alice", "bob", fill=fill)), tmp_path / "cache")


def shell(lab: Lab, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line],
        env=lab.env,
        cwd=lab.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


# ---- the shapes of list and show ----


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("list -q", "alice\nbob\n"),
        ("list -z -q", "alice\0bob\0"),
        ("list -qz", "alice\0bob\0"),
        (
            "list -o name,state,pid,kernel,memory",
            "alice\tstopped\t-\t-\t67108864\nbob\tstopped\t-\t-\t100663296\n",
        ),
        ("list -o args,ifaces,init,overlays", "-\t-\t-\t-\na=1,b\t-\t/sbin/init\t-\n"),
        (
            "list",
            "NAME    STATE    PID    KERNEL    MASTER    MEMORY    INIT        IFACES\n"
            "alice   stopped  -      -         -         64M       -           -\n"
            "bob     stopped  -      -         -         96M       /sbin/init  -\n",
        ),
        ("show -o name bob alice", "bob\nalice\n"),
        ("show alice -q", "alice\n"),
        (
            "show alice",
            "name:        alice\nstate:       stopped\npid:         -\n"
            "kernel:      -\nmaster:      -\nrootfs:      -\n"
            "memory:      64M\ninit:        -\nargs:        -\n"
            "ifaces:      -\ndisks:       -\nfiles:       -\nstartup:     -\n"
            "overlays:    -\nuptime:      -\ncpu_seconds: -\n"
            "memory_used: -\n",
        ),
    ],
)
def test_output_in_every_shape(lab: Lab, words: str, wanted: str) -> None:
    done = lab(f"dumm-guest {words}")
    assert (done.out, done.err) == (wanted, "")


def test_json_output(lab: Lab) -> None:
    done = lab("dumm-guest list --format json")
    assert done.out.endswith("]\n")
    assert done.out.count("\n") == 1
    bob = {
        "name": "bob",
        "state": "stopped",
        "pid": None,
        "kernel": None,
        "master": None,
        "rootfs": None,
        "memory": 96 << 20,
        "init": "/sbin/init",
        "args": ["a=1", "b"],
        "ifaces": [],
        "disks": [],
        "files": [],
        "startup": None,
        "overlays": [],
    }
    assert json.loads(done.out)[1] == bob
    use = dict.fromkeys(["uptime", "cpu_seconds", "memory_used"])
    assert json.loads(lab("dumm-guest show bob --format json").out) == [bob | use]


@pytest.mark.parametrize("command", ["dumm-guest list", "dumm-iface list", "dumm-bridge list"])
def test_unknown_field_error_lists_the_fields(lab: Lab, command: str) -> None:
    done = lab(f"{command} -o name,nope", status=2)
    tool = command.split()[0]
    assert one_line_error(done.err, tool) == "no field 'nope'"
    assert done.err.splitlines()[1].startswith(f"{tool}: hint: the fields are: name,")
    assert done.out == ""


# ---- usage ----


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("dumm-guest bogus", 2, "no such command 'bogus'"),
        ("dumm-guest list --bogus", 2, "no such option '--bogus'"),
        ("dumm-guest list -q -o name", 2, "-q, -o and --format json are mutually exclusive"),
        ("dumm-guest list -z", 2, "-z requires -q or -o"),
        ("dumm-guest list --format json -z", 2, "-z requires -q or -o"),
        ("dumm-guest list --format xml", 2, "invalid value for '--format'"),
        ("dumm-guest list extra", 2, "got unexpected extra argument"),
        ("dumm-guest start", 2, "name guests, or use --all"),
        ("dumm-guest stop --all alice", 2, "--all cannot be combined with names"),
        ("dumm-guest set alice", 2, "nothing to set"),
        ("dumm-guest set alice --memory x", 2, "invalid value for '--memory'"),
        ("dumm-guest set alice --memory 0", 2, "0 bytes of memory is too little"),
        ("dumm-guest set alice --memory 1K", 2, "1024 bytes of memory is too little"),
        ("dumm-guest set alice --init x", 2, "--init 'x' is not an absolute path"),
        ("dumm-guest set alice --arg 'a b'", 2, "kernel argument 'a b'"),
        ("dumm-guest set alice --arg mem=1G", 2, "kernel argument 'mem=1G' is set by dumm-guest"),
        ("dumm-guest set alice --arg umid=x", 2, "kernel argument 'umid=x' is set by"),
        ("dumm-guest create c --arg con0=null", 2, "kernel argument 'con0=null' is set by"),
        (
            "dumm-guest create c --arg vec5:transport=raw",
            2,
            "kernel argument 'vec5:transport=raw' is",
        ),
        ("dumm-guest create c --arg DUMM_NONCE=x", 2, "kernel argument 'DUMM_NONCE=x' is"),
        ("dumm-guest create c --arg=--", 2, "kernel argument '--' is set by dumm-guest"),
        ("dumm-guest create c --arg=--version", 2, "kernel argument '--version' is set by"),
        ("dumm-guest create c --arg 'a\"b'", 2, "kernel argument 'a\"b' contains a quote"),
        ("dumm-guest start alice --timeout -1", 2, "invalid value for '--timeout'"),
        (
            "dumm-guest start alice --timeout x",
            2,
            "invalid value for '--timeout': 'x' is not a number",
        ),
        ("dumm-guest create c --memory 64MM", 2, "invalid value for '--memory'"),
        ("dumm-guest create c --memory ٦٤M", 2, "invalid value for '--memory'"),
        (f"dumm-guest create c --memory {'9' * 5000}", 2, "invalid value for '--memory'"),
        ("dumm-guest show nobody -o nope", 2, "no field 'nope'"),
        ("dumm-guest mconsole alice -- ''", 2, "no command given"),
        (f"dumm-guest mconsole alice -- {'x' * 512}", 2, "an mconsole command is limited to 511"),
        ("dumm-guest exec alice", 2, "no command to run"),
        ("dumm-guest exec alice -e x -- true", 2, "invalid value"),
        ("dumm-guest wait alice --for breakfast", 2, "invalid value for '--for'"),
        ("dumm-console attach alice --line x", 2, "invalid value for '--line'"),
    ],
)
def test_usage_errors(lab: Lab, command: str, status: int, message: str) -> None:
    done = lab(command, status=status)
    assert one_line_error(done.err, command.split()[0]).startswith(message)
    assert done.out == ""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("show nobody", 3, "no guest 'nobody'"),
        ("set nobody --memory 64M", 3, "no guest 'nobody'"),
        ("delete nobody", 3, "no guest 'nobody'"),
        ("wait nobody", 3, "no guest 'nobody'"),
        ("is-running nobody", 3, "no guest 'nobody'"),
        ("pause nobody", 3, "no guest 'nobody'"),
        ("mconsole nobody -- version", 3, "no guest 'nobody'"),
        ("exec nobody -- true", 125, "no guest 'nobody'"),
        ("stop alice", 4, "guest 'alice' is not running"),
        ("pause alice", 4, "guest 'alice' is stopped"),
        ("resume alice", 4, "guest 'alice' is stopped, not paused"),
        ("mconsole alice -- version", 4, "guest 'alice' is stopped"),
        ("wait alice --timeout 1", 4, "guest 'alice' is stopped"),
        ("create alice", 4, "guest 'alice' already exists"),
        ("create carol --kernel none", 3, "no kernel 'none'"),
        ("create carol --master none", 3, "no master 'none'"),
    ],
)
def test_errors_about_guests(lab: Lab, words: str, status: int, message: str) -> None:
    done = lab(f"dumm-guest {words}", status=status)
    assert one_line_error(done.err) == message
    assert done.out == ""
    assert lab("dumm-guest list -q").lines == ["alice", "bob"]


def test_empty_settings_restore_the_defaults(lab: Lab) -> None:
    assert lab("dumm-guest show bob -o memory").out == f"{96 << 20}\n"
    lab(["dumm-guest", "set", "bob", "--memory", "", "--init", "", "--arg", ""])
    assert lab("dumm-guest show bob -o memory,init,args").out == f"{64 << 20}\t-\t-\n"


@pytest.mark.parametrize(
    "name", ["a b", "../x", "x/y", "", ".", "-x", "_x", "a" * 33, "a\nb", "a\tb", "é", "a:b", "a%b"]
)
def test_bad_guest_names_are_rejected(lab: Lab, name: str) -> None:
    done = lab(["dumm-guest", "create", "--", name], status=2)
    assert one_line_error(done.err).startswith("bad guest name ")
    assert "hint: 1 to 32 letters" in done.err
    assert sorted(os.listdir(lab.directory)) == [".lock", "state.json"]


def test_every_command_prints_help(lab: Lab) -> None:
    for tool in TOOLS:
        done = lab([tool, "--help"])
        assert done.out.startswith(f"Usage: {tool} ")
        assert done.err == ""
        assert lab([tool, "-h"]).out == done.out
        assert lab([tool, "--version"]).out.startswith(f"{tool} ")


@pytest.mark.parametrize(
    "command",
    [
        "dumm-guest exec alice ls -l",
        "dumm-guest mconsole alice config -x",
        "dumm-console send alice ls -l",
    ],
)
def test_options_of_a_guests_command_need_two_dashes(lab: Lab, command: str) -> None:
    done = lab(command, status=2)
    assert one_line_error(done.err, command.split()[0]).startswith("no such option ")
    assert ": hint: put '--' before a command " in done.err.splitlines()[1]


# ---- where the working set is ----


def test_working_directory_is_chosen_by_option_or_environment(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    outside = {"DUMM_DIR": str(other)}
    done = lab("dumm-guest list", status=3, env=outside)
    assert one_line_error(done.err) == f"no working set in '{other}'"
    assert "dumm-fs init" in done.err.splitlines()[1]
    assert lab(f"dumm-guest -C {tmp_path} list -q", env=outside).out == "alice\nbob\n"
    assert lab(f"dumm-guest list -q -C {tmp_path}", env=outside).out == "alice\nbob\n"
    assert lab("dumm-guest list -q", env={"DUMM_DIR": ""}).out == "alice\nbob\n"  # the current one
    upwards = shell(lab, "cd other; unset DUMM_DIR; dumm-guest list")
    assert upwards.returncode == 3
    lab("dumm-guest -C state.json list", status=2)


# ---- streams and signals ----


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        ("dumm-guest list -q >/dev/full", 1, "dumm-guest: No space left on device\n"),
        ("dumm-guest list >/dev/full", 1, "dumm-guest: No space left on device\n"),
        ("dumm-guest --help >/dev/full", 1, "dumm-guest: No space left on device\n"),
        ("dumm-guest list -q >&-", 1, "dumm-guest: Bad file descriptor\n"),
        ("dumm-guest list -q 2>&-", 0, ""),
        ("dumm-guest list -q <&-", 0, ""),
        ("dumm-guest show nobody 2>&-", 3, ""),
        ("dumm-guest show nobody 2>/dev/full", 3, ""),
        ("dumm-guest show nobody <&- >&- 2>&-", 3, ""),
    ],
)
def test_failing_streams(lab: Lab, line: str, status: int, error: str) -> None:
    done = shell(lab, line)
    assert (done.returncode, done.stderr) == (status, error)


def test_reader_that_leaves_ends_the_command(lab: Lab) -> None:
    done = shell(lab, "for i in 1 2 3; do dumm-guest list --format json; done | head -c 1")
    assert (done.stdout, done.stderr) == ("[", "")
    done = shell(lab, "{ sleep 0.5; dumm-guest list; echo $? >&2; } | true")
    assert done.stderr == "141\n"


def test_ctrl_c_ends_a_command_by_sigint(lab: Lab) -> None:
    """For example, while the command waits for the lock."""
    (lab.directory / "hold.py").write_text(
        "import fcntl, time\nf = open('.lock')\nfcntl.flock(f, 2)\n"
        "print(flush=True)\ntime.sleep(1000)\n"
    )
    holder = lab.start(["python3", "hold.py"])
    assert holder.stdout
    holder.stdout.read(1)
    waiting = lab.start("dumm-guest create zoe")
    until(lambda: has_open(waiting.pid, lab.directory / ".lock"), "it waits")
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(PATIENCE) == -signal.SIGINT
    assert waiting.stderr
    assert waiting.stderr.read().strip() == b""
    holder.kill()
    holder.wait()
    assert lab("dumm-guest list -q").out == "alice\nbob\n"


def test_debug_prints_a_traceback(lab: Lab) -> None:
    """A traceback comes with each error, even if there are several, and the status stays the
    same."""
    for words in ("set nobody --init /x", "show nobody", "start nobody"):
        done = lab(f"dumm-guest {words}", status=3, env={"DUMM_DEBUG": "1"})
        assert "Traceback" in done.err
        assert "NotFound" in done.err
        assert done.err.endswith("dumm-guest: no guest 'nobody'\n")


def test_completion_offers_guests_fields_and_verbs(lab: Lab) -> None:
    def complete(*words: str) -> list[str]:
        env = {
            "_DUMM_GUEST_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        found = lab([BIN / "dumm-guest"], env=env).lines
        return [line.partition(",")[2] for line in found if line]

    assert complete("dumm-guest", "show", "a") == ["alice"]
    assert complete("dumm-guest", "stop", "") == []  # none is running
    assert complete("dumm-guest", "list", "-o", "name,stat") == ["name,state"]
    assert "create" in complete("dumm-guest", "cr")


def test_damaged_state_is_a_one_line_error(lab: Lab) -> None:
    (lab.directory / "state.json").write_text("{")
    for command in (
        "dumm-guest list",
        "dumm-guest create x",
        "dumm-bridge list",
        "dumm-fs destroy",
    ):
        done = lab(command, status=1)
        assert "is not valid JSON" in one_line_error(done.err, command.split()[0])
    assert (lab.directory / "state.json").read_text() == "{"


def test_newer_state_is_left_alone(lab: Lab) -> None:
    path = lab.directory / "state.json"
    text = json.dumps({**json.loads(path.read_text()), "version": 99})
    path.write_text(text)
    for command in ("dumm-guest list", "dumm-guest delete alice", "dumm-fs destroy"):
        done = lab(command, status=1)
        assert "newer dumm-tools (format 99)" in one_line_error(done.err, command.split()[0])
    assert (lab.directory / "state.json").read_text() == text


# ---- init ----


def test_failed_init_reports_the_reason_and_leaves_nothing(tmp_path: Path) -> None:
    make: Callable[[str], Lab] = lambda name: Lab(tmp_path / name, tmp_path / "cache")  # noqa: E731
    lab = make("one")
    lab.directory.mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    for options, status, message in (
        ("--kernel none", 3, "no kernel 'none'"),
        ("--master none", 3, "no master 'none'"),
        ("--kernel /etc/passwd", 1, "'/etc/passwd' is not an x86-64 Linux program"),
        (f"--master {empty}", 1, f"master '{empty}' is empty"),
    ):
        done = lab(f"dumm-fs init {options}", status=status)
        assert one_line_error(done.err, "dumm-fs") == message
        assert os.listdir(lab.directory) == []
    lab("dumm-fs init")
    done = lab("dumm-fs init", status=4)
    assert "is already a working set" in one_line_error(done.err, "dumm-fs")
    done = lab("dumm-guest create alice", status=3)
    assert "hint: dumm-fs " in done.err
    assert lab("dumm-guest list -q").out == ""
    lab("dumm-fs destroy")
    assert os.listdir(lab.directory) in ([], [".lock"])
    lab("dumm-fs destroy", status=3)


def test_failure_of_one_guest_replaces_the_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(messages, "on_terminal", lambda: True)
    with click.Context(click.Command("start"), info_name="dumm-guest"), Progress() as progress:
        progress("1 of 2 guests ready")
        Errors()("b", DummError("guest 'b' was not ready in time"))
    clear = "\r\x1b[K"
    assert capsys.readouterr().err == (
        f"{clear}1 of 2 guests ready{clear}dumm-guest: guest 'b' was not ready in time\n{clear}"
    )
