"""`dumm-console` without a verb: a batch from a pipe, and the interactive console."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from support import PATIENCE
from support.checks import is_waiting, until
from support.labs import Lab
from support.terminal import Terminal

from dumm_tools.cli import batch


def test_batch_runs_all_lines_in_one_lab(lab: Lab) -> None:
    script = b"""
# two guests on a segment
guest create alice bob --start
bridge create lan0
dumm-iface create alice-eth0 --bridge lan0 --address 10.0.0.1/24
iface create bob-eth0 --bridge lan0 --address 10.0.0.2/24
guest exec alice -- ping -c 1 -q 10.0.0.2
guest exec alice -- sh -c 'echo "two words"; cat'   # stdin is not the rest of the batch
guest list -q
"""
    out = lab("dumm-console", stdin=script).lines
    assert out[-3:] == ["two words", "alice", "bob"]


def test_batch_ends_at_the_first_failure(lab: Lab) -> None:
    done = lab("dumm-console", stdin=b"guest create a\nguest start b\nguest create c\n", status=3)
    assert done.err.splitlines() == [
        "dumm-guest: no guest 'b'",
        "dumm-console: line 2 failed: guest start b",
    ]
    assert lab("dumm-guest list -q").lines == ["a"]
    done = lab(
        "dumm-console -k", stdin=b"guest start b\nguest create c\nguest create 'x\n", status=3
    )
    assert "dumm-console: <stdin>:3:14: no closing quotation" in done.err
    assert lab("dumm-guest list -q").lines == ["a", "c"]


def test_batch_lines_pass_bytes_unchanged_in_any_locale(lab: Lab) -> None:
    """Whatever encoding the locale implies."""
    lab("dumm-guest create alice --start")
    script = b"guest exec alice -- printf %s '\xff\xc3\xa9'\r\n"
    for locale in ("C", "C.UTF-8"):
        env = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8:strict"}
        assert lab("dumm-console", stdin=script, env=env).stdout == b"\xff\xc3\xa9"


def test_help_and_exit_work_in_a_batch(lab: Lab) -> None:
    done = lab("dumm-console", stdin=b"help\nexit\nguest create alice\n")
    assert any(line.startswith("guest ") and " mconsole " in line for line in done.lines)
    assert lab("dumm-guest list -q").out == ""


def test_batch_ends_quietly_when_its_reader_leaves(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    running = lab.start("dumm-console -k")
    assert running.stdin
    assert running.stdout
    assert running.stderr
    running.stdin.write(b"guest exec alice -- yes\nguest create bob\n")
    running.stdin.close()
    running.stdin = None
    running.stdout.read(10)
    running.stdout.close()
    running.stdout = None
    assert running.wait(PATIENCE) == -signal.SIGPIPE
    assert running.stderr.read() == b""
    assert lab("dumm-guest list -q").out == "alice\n"


def test_ctrl_c_ends_the_whole_batch(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    running = subprocess.Popen(
        ["dumm-console", "-k"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=lab.env,
        start_new_session=True,
    )
    assert running.stdin
    assert running.stderr
    running.stdin.write(b"guest wait alice --for stopped\nguest create bob\n")
    running.stdin.close()
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    until(lambda: children.read_text(), "the command runs")
    until(lambda: is_waiting(int(children.read_text())), "it waits")
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(PATIENCE) == -signal.SIGINT
    assert running.stderr.read().strip() == b""
    running.stderr.close()
    assert lab("dumm-guest list -q").out == "alice\n"


def test_unknown_tool_is_a_usage_error(lab: Lab) -> None:
    done = lab("dumm-console", stdin=b"frobnicate now\n", status=2)
    assert done.err.splitlines()[:2] == [
        "dumm-console: no tool 'frobnicate'",
        "dumm-console: hint: the first word is one of: guest iface bridge fs console",
    ]


def test_here_documents_are_standard_input(lab: Lab) -> None:
    script = b"""guest create a
guest startup a - <<'END'
echo "it's" \\
  $started
END
guest create \\
  b 'c'
guest startup \\
  b - <<-E # a comment
	cat <<E2
	E
guest startup c -
"""
    done = lab("dumm-console -k", stdin=script, status=2)
    assert "the startup script is empty" in done.err  # not the rest of the batch
    assert lab("dumm-guest startup a").stdout == b'echo "it\'s" \\\n  $started\n'
    assert lab("dumm-guest startup b").stdout == b"cat <<E2\n"


def test_odd_input(lab: Lab) -> None:
    done = lab(["sh", "-c", "dumm-console <&-"])
    assert (done.out, done.err) == ("", "")
    assert lab("dumm-console", stdin=b"\xef\xbb\xbfguest create a\r\n").err == ""
    assert lab("dumm-guest list -q").lines == ["a"]
    done = lab("dumm-console", stdin=b"guest create " + b"b" * (1 << 20), status=2)
    assert done.err.splitlines()[-1].startswith("dumm-console: line 1 failed: guest create bbb")
    assert len(done.err.splitlines()[-1]) < 300
    done = lab("dumm-console", stdin=b"guest create c <<E\n", status=2)
    assert done.err == "dumm-console: <stdin>:1:16: the here-document has no end: 'E'\n"
    assert lab("dumm-guest list -q").lines == ["a"]


@pytest.mark.parametrize("refused", ["<<A <<B", "<<A <<B '\0'", "<<A <<\\B"])
def test_here_documents_of_refused_commands_are_not_run(lab: Lab, refused: str) -> None:
    lab("dumm-guest create bob")
    script = f"guest startup bob - {refused}\nguest delete bob\nA\nguest delete bob\nB\n"
    done = lab("dumm-console -k", stdin=script.encode() + b"guest create carol\n", status=2)
    assert done.err == "dumm-console: <stdin>:1:25: a second here-document\n"
    assert lab("dumm-guest list -q").lines == ["bob", "carol"]
    with Terminal(lab, ["dumm-console"], (24, 80)) as terminal:  # pasted
        terminal.expect(b"dumm> ")
        terminal.type(b"guest startup bob - <<A <<B\nguest delete bob\nA\nguest delete bob\nB\n")
        terminal.expect(b"a second here-document")
        terminal.expect(b"dumm> ")
        terminal.type(b"exit\n")
        assert terminal.wait() == 2
    assert lab("dumm-guest list -q").lines == ["bob", "carol"]


def test_completion_offers_tools_verbs_and_guests(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab("dumm-guest create alice bob")
    monkeypatch.setenv("DUMM_DIR", str(lab.directory))
    assert batch.candidates("", "g") == ["guest "]
    assert batch.candidates("guest ", "st") == ["start ", "startup ", "stop "]
    assert batch.candidates("guest start ", "") == ["alice ", "bob "]
    assert batch.candidates("nothing ", "") == []


def test_interactive_console_completes_reports_errors_and_keeps_history(
    lab: Lab, tmp_path: Path
) -> None:
    lab("dumm-guest create alice")
    with Terminal(lab, ["dumm-console"], (24, 80)) as terminal:
        terminal.expect(b"dumm> ")
        terminal.type(b"guest li\t-q\n")
        terminal.expect(b"alice\r\n")
        terminal.expect(b"dumm> ")
        terminal.type(b"guest start nobody\n")
        terminal.expect(b"no guest 'nobody'")
        terminal.type(b"exit\n")
        assert terminal.wait() == 3
    assert "guest list -q" in (lab.directory / "run/history").read_text()


def test_interactive_console_reads_several_lines(lab: Lab) -> None:
    (lab.directory / "run/history").mkdir()  # which cannot be read either
    with Terminal(lab, ["dumm-console"], (24, 80)) as terminal:
        terminal.expect(b"warning: cannot read")
        terminal.expect(b"dumm> ")
        terminal.type(b"guest \\\ncreate 'a\n")
        terminal.expect(b"\r\n> create 'a\r\n> ")
        # input() shows its prompt before it waits for keys: a signal in between has no effect yet.
        until(lambda: is_waiting(terminal.process.pid), "it waits")
        terminal.type(b"\x03")
        terminal.expect(b"dumm> ")
        terminal.type(b"guest create \\\n a\n")
        terminal.expect(b"dumm> ")
        terminal.type(b"guest startup a - <<END\ntrue\nEND\n")
        terminal.expect(b"dumm> ")
        terminal.type(b"exit\n")
        terminal.expect(b"warning: cannot write")
        assert terminal.wait() == 0
    assert lab("dumm-guest startup a").stdout == b"true\n"


def test_terminal_is_restored_after_a_killed_command(lab: Lab) -> None:
    lab("dumm-guest create alice --start")
    with Terminal(lab, ["dumm-console"], (24, 80)) as terminal:
        terminal.expect(b"dumm> ")
        terminal.type(b"console shell alice\n")
        terminal.expect(b"alice:")
        me = terminal.process.pid
        child = int(Path(f"/proc/{me}/task/{me}/children").read_text())
        os.kill(child, signal.SIGKILL)
        terminal.expect(b"dumm> ")
        terminal.type(b"guest exec alice -- sleep 1000\n")
        children = Path(f"/proc/{me}/task/{me}/children")
        until(lambda: children.read_text(), "the command runs")
        until(lambda: is_waiting(int(children.read_text())), "it waits")
        terminal.type(b"\x03")  # raises a signal only if the terminal has left raw mode
        terminal.expect(b"dumm> ")
        terminal.type(b"\x04")
        assert terminal.wait() == 130
