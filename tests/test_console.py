"""dumm-console: shells, raw consoles and logs; the terminal is always restored."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support import PATIENCE
from support.checks import one_line_error, unread, until
from support.guests import pid_of, state_of
from support.labs import Lab, shared
from support.terminal import on_terminal

from dumm_tools.agent import JAIL
from dumm_tools.guests.console_log import Reader

pytestmark = [pytest.mark.uml, pytest.mark.xdist_group("console")]


@pytest.fixture(scope="module")
def lab(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab for this file, with alice running and bob stopped."""
    with shared(tmp_path_factory.mktemp("console"), packs) as lab:
        lab("dumm-guest create alice bob")
        lab("dumm-guest start alice")
        yield lab


def test_shell_on_a_terminal_is_a_login_shell(lab: Lab) -> None:
    with on_terminal(lab, ["dumm-console", "shell", "alice"], (33, 99)) as screen:
        screen.type(b"echo $0 $HOME $PWD $TERM; stty size\n")
        screen.expect(b"-sh /root /root xterm-test\r\n33 99\r\n")
        screen.resize(20, 60)
        screen.type(b"until stty size | grep '20 60'; do :; done; exit 6\n")
        screen.expect(b"20 60\r\n")
        assert screen.wait() == 6
        assert screen.is_restored()


def test_shell_as_another_user_and_from_a_pipe(lab: Lab) -> None:
    assert lab("dumm-console shell alice", stdin=b"echo $USER; id -u; exit 4\n", status=4).out == (
        "root\n0\n"
    )


def test_attach_and_detach(lab: Lab) -> None:
    with on_terminal(lab, ["dumm-console", "attach", "alice"]) as screen:
        screen.expect(b"^] detaches\r\n")
        until(lambda: not screen.is_restored(), "raw mode")
        screen.type(b"\n")
        screen.expect(b"# ")
        screen.type(b"echo $((6*7))\n")
        screen.expect(b"42\r\n")
        with on_terminal(lab, ["dumm-console", "attach", "alice"]) as second:
            assert second.wait() == 4
            assert b"line 0 of guest 'alice' is already attached" in second.seen
        rows = json.loads(lab("dumm-console list --format json").out)
        assert [(r["name"], r["line"], r["attached"]) for r in rows[:2]] == [
            ("alice", 0, True),
            ("alice", 1, False),
        ]
        screen.type(b"\x1d")
        assert screen.wait() == 0
        assert screen.is_restored()
    assert lab("dumm-console list -o attached").lines == ["no"] * len(rows)


def test_long_pastes_arrive_whole(lab: Lab) -> None:
    """More than fits into the guest's terminal."""
    with on_terminal(lab, ["dumm-console", "attach", "alice"]) as screen:
        until(lambda: not screen.is_restored(), "raw mode")
        for n in range(60):
            screen.type(b": %099d\n" % n)
        screen.type(b"echo $((6*7))still here\n")
        screen.expect(b"42still here\r\n")
        screen.type(b"\x1d")
        assert screen.wait() == 0
    done = lab(["dumm-console", "send", "alice", "x" * 5000], status=1)
    assert (
        one_line_error(done.err, "dumm-console") == "a console accepts at most 2047 bytes at a time"
    )
    lab(["dumm-console", "send", "alice", f": {'x' * 2000}"])
    lab("dumm-console send alice 'echo $((6*7))and here'")
    until(lambda: "42and here" in lab("dumm-console log alice").out, "the console still listens")


@pytest.mark.attack("prints-without-end")
@pytest.mark.parametrize("line", [0, 1])
def test_detaching_works_while_the_guest_prints_endlessly(lab: Lab, line: int) -> None:
    lab(["dumm-guest", "exec", "alice", "--", "sh", "-c", f"yes 0123456789 >/dev/tty{line} &"])
    try:
        with on_terminal(lab, ["dumm-console", "attach", "alice", "--line", str(line)]) as screen:
            screen.expect(b"0123456789\r\n")
            screen.type(b"\x1d")
            assert screen.wait() == 0
            assert screen.is_restored()
        # Even if our terminal accepts no output.
        with on_terminal(lab, ["dumm-console", "attach", "alice", "--line", str(line)]) as screen:
            until(lambda: unread(screen.master) >= 4000, "the terminal is full")
            screen.type(b"\x1d")
            until(lambda: screen.process.poll() is not None, "it ends")
            assert screen.process.returncode == 0
            assert screen.is_restored()
    finally:
        lab("dumm-guest exec alice -- killall yes", status=None)


def test_attach_ends_with_its_guest_and_restores_the_terminal(lab: Lab) -> None:
    lab("dumm-guest start bob")
    with on_terminal(lab, ["dumm-console", "attach", "bob"]) as screen:
        until(lambda: not screen.is_restored(), "raw mode")
        os.kill(pid_of(lab, "bob"), signal.SIGKILL)
        assert screen.wait() == 0
        assert screen.is_restored()
    until(lambda: state_of(lab, "bob") == "crashed", "crashed")
    lab("dumm-guest stop bob")


def test_terminal_is_restored_when_attach_is_terminated(lab: Lab) -> None:
    with on_terminal(lab, ["dumm-console", "attach", "alice", "--line", "1"]) as screen:
        until(lambda: not screen.is_restored(), "raw mode")
        screen.process.send_signal(signal.SIGTERM)
        assert screen.wait() == -signal.SIGTERM
        assert screen.is_restored()


def test_attach_needs_a_terminal(lab: Lab) -> None:
    done = lab("dumm-console attach alice", status=1)
    assert one_line_error(done.err, "dumm-console") == "attach needs a terminal"


def test_sent_text_and_its_output_are_logged(lab: Lab) -> None:
    lab("dumm-console send alice 'echo from the' host")
    until(lambda: "from the host\n" in lab("dumm-console log alice").out, "the log has it")
    lab("dumm-console send alice 'seq 1 5'")
    until(lambda: "\n5\n" in lab("dumm-console log alice").out, "the log has it")
    log = lab("dumm-console log alice").lines
    assert lab("dumm-console log alice -n 3").lines == log[-3:]
    assert lab("dumm-console log alice -n 0").out == ""
    assert lab("dumm-console log alice -n 100000").lines == log[-100000:]


def test_log_of_any_length_is_printed(lab: Lab) -> None:
    """It need not fit into memory; sparse files cost a guest nothing."""
    lab("dumm-guest create long")
    log = lab.directory / "run/long/console.log"
    text = b"".join(b"%d\r\n" % number for number in range(30_000))
    cut = b"x" * ((1 << 16) - 1) + b"\r\n" + b"y\r"  # at the end of a piece that is read
    log.write_bytes(cut)
    assert lab("dumm-console log long").stdout == cut.replace(b"\r\n", b"\n")
    log.write_bytes(text)
    assert lab("dumm-console log long").stdout == text.replace(b"\r\n", b"\n")
    for count in (1, 2, 9_000, 29_999, 30_000, 40_000):
        assert lab(f"dumm-console log long -n {count}").lines == [
            str(number) for number in range(max(0, 30_000 - count), 30_000)
        ]
    with log.open("r+b") as file:
        file.truncate(1 << 40)
    process = lab.start(["sh", "-c", "ulimit -v 500000; exec dumm-console log long -n 3"])
    assert process.stdout
    assert process.stdout.read(100) == bytes(100)
    process.stdout.close()
    assert process.wait(PATIENCE) != 0  # SIGPIPE: there is more to read
    lab("dumm-guest delete long")


def follows(pid: int) -> bool:
    """Whether a `log -f` watches its file; by then it has found where to begin."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # just closed
            if os.readlink(entry) == "anon_inode:inotify":
                return True
    return False


def test_log_f_follows_until_the_guest_stops(lab: Lab) -> None:
    lab("dumm-guest start bob")
    following = lab.start("dumm-console log -f -n 0 bob")
    assert following.stdout
    until(partial(follows, following.pid), "it follows")
    lab("dumm-guest exec bob -- sh -c 'echo first >/dev/console'")
    assert b"first" in following.stdout.readline()
    assert following.poll() is None
    lab("dumm-guest exec bob -- sh -c 'echo c >/proc/sysrq-trigger'", status=None)
    assert b"panic" in following.stdout.read()
    assert following.wait(PATIENCE) == 0
    assert "panic" in lab("dumm-console log bob").out
    lab("dumm-guest stop bob")


def test_log_f_follows_a_log_that_loses_its_oldest_lines(lab: Lab) -> None:
    """The newest part is kept; followers see no line twice, and are told what they have missed."""
    lab("dumm-guest start bob")
    log = lab.directory / "run/bob/console.log"
    following = lab.start("dumm-console log -f -n 0 bob")
    assert following.stdout
    until(partial(follows, following.pid), "it follows")
    count = """BEGIN { for (i = 1; i <= 30000; i++) printf "%0199d\\n", i; print "over" }"""
    lab(["dumm-guest", "exec", "bob", "--", "sh", "-c", f"awk '{count}' >/dev/console"])
    seen = []
    for line in following.stdout:
        if line == b"over\n":
            break
        # A line may be cut where a follower that is too slow misses some.
        seen += [int(line)] if len(line) == 200 and line.strip().isdigit() else []
    assert seen == sorted(set(seen))
    assert seen[-1] == 30_000
    assert log.stat().st_size <= 4 << 20
    assert log.stat().st_mode & 0o777 == 0o600
    head, *lines = lab("dumm-console log bob").lines
    gone = re.fullmatch(r"\[(\d+) bytes before this are gone\]", head)
    assert gone
    assert int(gone[1]) > 1 << 20
    left = [int(line) for line in lines if line.isdigit()]
    assert left == list(range(left[0], 30_001))
    lab("dumm-guest stop bob")
    assert following.wait(PATIENCE) == 0


def test_reader_continues_in_a_log_that_loses_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\nthree\n")
    fd = os.open(log, os.O_RDONLY)
    reader = Reader(fd, 4)
    assert reader.read(100) == b"two\nthree\n"
    log.write_bytes(b"[8 bytes before this are gone]\nthree\nfour\n")
    assert reader.read(3) == b"fou"
    assert Reader(fd, log.stat().st_size).read(100) == b""
    # While data is being moved, nothing can be read.
    log.write_bytes(b"\0nine bytes gone]\nfour\nfive\n")
    assert reader.read(100) == b""
    # More is gone than was read, within a line.
    log.write_bytes(b"[30 bytes before this are gone]\nfive\n")
    assert reader.read(100) == b"\n[13 bytes are missing here]\n"
    assert reader.read(100) == b"five\n"
    # A line printed by the guest itself, which must not be trusted.
    log.write_bytes(b"[99999999999999999999 bytes before this are gone]\nsix\n")
    assert reader.read(100).endswith(b" bytes are missing here]\n")
    assert reader.read(100) == b"six\n"
    assert reader.read(100) == b""
    os.close(fd)


def test_reader_sees_no_data_that_is_being_moved(tmp_path: Path) -> None:
    """The keeper (agent/jail/log.c) moves it in place, as here, while somebody reads."""
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\nthree\n")
    fd = os.open(log, os.O_RDONLY)

    class Moved(Reader):
        """The keeper moves the data after the first line was read, and before the rest is."""

        def _head(self) -> bytes:
            head = super()._head()
            if not head.startswith(b"["):
                log.write_bytes(b"[8 bytes before this are gone]\nthree\nfour\n")
            return head

    reader = Moved(fd, 0)
    log.write_bytes(b"one\ntwo\nthree\n")
    assert reader.read(100) == b"[8 bytes are missing here]\n"
    assert reader.read(100) == b"three\nfour\n"
    os.close(fd)


def test_full_disk_does_not_stop_a_guest_that_logs(tmp_path: Path) -> None:
    """The guest keeps running, and its exit status is passed on."""
    alive, theirs = os.pipe()
    full = os.open("/dev/full", os.O_RDWR)
    for fd, number in ((theirs, 60), (full, 61)):
        os.dup2(fd, number)
        os.close(fd)
    jail = [
        *("unshare", "-Ur", "--mount", "--pid", "--fork", "--mount-proc"),
        *(JAIL, "jail", "--errors", "2", "--pid-file", str(tmp_path / "pid")),
        *("--hold", "60", "2", "--log", "61"),
        *("--ro-bind", shutil.which("busybox") or "busybox", "/busybox"),
        *("--dev", "/dev/null", "/dev/null", "--", "/busybox", "seq", "1", "300000"),
    ]
    try:
        subprocess.run(jail, pass_fds=(60, 61), check=True, timeout=PATIENCE)
    finally:
        os.close(60)
        os.close(61)
    with open(alive, "rb") as pipe:
        assert select.select([pipe], [], [], PATIENCE)[0]
        assert pipe.read() == b""


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("log nobody", 3, "no guest 'nobody'"),
        ("shell bob", 125, "guest 'bob' is stopped"),
        ("send bob x", 4, "guest 'bob' is stopped"),
        ("send alice --line 9 x", 3, "guest 'alice' has no line 9"),
        ("shell nobody", 125, "no guest 'nobody'"),
        ("attach nobody", 3, "no guest 'nobody'"),
        ("attach bob", 4, "guest 'bob' is stopped"),
    ],
)
def test_errors_are_one_line_with_a_status(
    lab: Lab, command: str, status: int, message: str
) -> None:
    done = lab(f"dumm-console {command}", status=status)
    assert one_line_error(done.err, "dumm-console") == message
    assert done.out == ""


def test_log_f_ends_quietly_when_its_reader_leaves(lab: Lab) -> None:
    following = lab.start("dumm-console log -f alice")
    assert following.stdout
    following.stdout.read(1)
    following.stdout.close()
    following.stdout = None
    lab("dumm-guest exec alice -- sh -c 'echo more >/dev/console'")
    assert following.wait(PATIENCE) == -signal.SIGPIPE
