"""exec: streams, status, signals, terminals, many at once, clients that die."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PATIENCE, SUITES
from support.checks import NOISE, is_waiting, one_line_error, unread, until
from support.guests import pid_of, processes, timed_out
from support.labs import Lab, shared
from support.terminal import on_terminal

pytestmark = [pytest.mark.uml, pytest.mark.xdist_group("exec")]


@pytest.fixture(scope="module")
def lab(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab for this file, with a running guest of each kernel."""
    with shared(tmp_path_factory.mktemp("exec"), packs) as lab:
        for suite in SUITES:
            lab(["dumm-guest", "create", suite, "--kernel", suite])
        lab("dumm-guest start --all")
        yield lab


def run(lab: Lab, *command: str, status: int = 0, stdin: bytes = b"") -> tuple[bytes, str]:
    """Run exec in the newest guest; return its stdout and stderr."""
    done = lab(["dumm-guest", "exec", "sid", "--", *command], status=status, stdin=stdin)
    return done.stdout, done.err


def sh(lab: Lab, script: str, status: int = 0, stdin: bytes = b"") -> tuple[bytes, str]:
    return run(lab, "sh", "-c", script, status=status, stdin=stdin)


def idle(lab: Lab, guest: str = "sid") -> None:
    """Assert that a guest runs nothing except this check, and that all its lines can be used."""
    until(lambda: processes(lab, guest) == [], f"programs are left: {processes(lab, guest)}")


def shell(lab: Lab, line: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[bytes]:
    """Run a line in bash on the host."""
    return subprocess.run(
        ["bash", "-c", line],
        env=lab.env,
        cwd=lab.directory,
        capture_output=True,
        check=False,
        timeout=timeout,
    )


# ---- streams ----


@pytest.mark.parametrize("suite", SUITES)
def test_fifty_megabytes_come_back_the_same(lab: Lab, suite: str) -> None:
    source = lab.directory / "random"
    if not source.exists():
        source.write_bytes(os.urandom(50_000_000))
    want = hashlib.sha256(source.read_bytes()).hexdigest()
    for line in (
        f"dumm-guest exec {suite} -- cat < random | sha256sum",
        f"cat random | dumm-guest exec {suite} -- cat | sha256sum",
        f"dumm-guest exec {suite} -- sha256sum < random",
    ):
        done = shell(lab, line, 60)
        assert done.stdout.split()[0].decode() == want, (line, done.stderr)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 8192, 8193, 16384, 16385, 100_000])
def test_streams_of_any_size(lab: Lab, suite: str, size: int) -> None:
    for data in (NOISE[:size], b"\xc0\xdb" * (size // 2)):
        done = lab(["dumm-guest", "exec", suite, "--", "cat"], stdin=data)
        assert done.stdout == data


@pytest.mark.parametrize("suite", SUITES)
def test_input_that_trickles_in(lab: Lab, suite: str) -> None:
    """If more than fits into the agent's terminal were on its way, the line would be stuck for
    good."""
    process = lab.start(["dumm-guest", "exec", suite, "--", "cat"])
    assert process.stdin
    assert process.stdout
    for at in range(0, 60_000, 3000):
        process.stdin.write(NOISE[at : at + 3000])
        process.stdin.flush()
    assert process.stdout.read(30_000) == NOISE[:30_000]
    process.stdin.close()
    process.stdin = None
    assert process.stdout.read() == NOISE[30_000:60_000]
    assert process.wait(PATIENCE) == 0


def wait_written(process: subprocess.Popen[bytes]) -> None:
    """Wait until a command has read everything written to it."""
    stdin = process.stdin
    assert stdin
    until(lambda: unread(stdin.fileno()) == 0, "it is read")


@pytest.mark.parametrize("suite", SUITES)
def test_input_is_queued_while_the_program_does_not_read(lab: Lab, suite: str) -> None:
    """Large pieces are passed as files, small ones over the line; nothing is lost between the
    two."""
    script = "until [ -e /tmp/go ]; do sleep 0.02; done; rm /tmp/go; exec sha256sum"
    process = lab.start(["dumm-guest", "exec", suite, "--", "sh", "-c", script])
    assert process.stdin
    want = hashlib.sha256()
    for number, size in enumerate((65536, 16000, *[3000] * 8)):
        process.stdin.write(NOISE[:size])
        process.stdin.flush()
        want.update(NOISE[:size])
        if number < 3:  # the program's pipe is full, and two pieces are waiting
            wait_written(process)
    lab(["dumm-guest", "exec", suite, "--", "touch", "/tmp/go"])
    out, err = process.communicate(timeout=PATIENCE)
    assert (out.split()[0].decode(), err) == (want.hexdigest(), b"")


def test_end_of_output_arrives_through_a_full_line(lab: Lab) -> None:
    """A client that is stopped fills its line, and then the agent's buffer. When the line is
    emptied in one go, nothing else tells the agent that it can write the rest."""
    root = lab.mounted("sid") / "root"
    wait = "echo ready; until [ -e /root/go ]; do sleep 0.02; done"
    for size in range(780_000, 1_120_000, 16_000):
        script = f"{wait}; head -c {size} /dev/zero; echo >/root/done"
        process = lab.start(["dumm-guest", "exec", "sid", "--", "sh", "-c", script])
        assert process.stdin
        assert process.stdout
        process.stdin.close()  # the end of the input must not reach the agent later
        process.stdin = None
        assert process.stdout.read(6) == b"ready\n"
        process.send_signal(signal.SIGSTOP)
        (root / "go").touch()
        with contextlib.suppress(AssertionError):  # the output does not fit: then the program waits
            until((root / "done").exists, "", 1)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, len(out), err) == (0, size, b""), size
        (root / "go").unlink()
        (root / "done").unlink()


def test_stderr_is_separate(lab: Lab) -> None:
    assert sh(lab, "echo one; echo two >&2; echo three") == (b"one\nthree\n", "two\n")
    done = shell(lab, "dumm-guest exec sid -- sh -c 'head -c 300000 /dev/zero >&2' 2>&1 >/dev/null")
    assert done.stdout == bytes(300_000)


@pytest.mark.parametrize(
    ("redirection", "wanted"),
    [
        ("</dev/null", b"0\n"),
        ("<&-", b"0\n"),
        ("<file", b"5\n"),
        ("< <(sleep 0.2; echo x)", b"2\n"),
    ],
)
def test_exec_accepts_any_kind_of_stdin(lab: Lab, redirection: str, wanted: bytes) -> None:
    (lab.directory / "file").write_bytes(b"12345")
    done = shell(lab, f"dumm-guest exec sid -- wc -c {redirection}")
    assert (done.returncode, done.stdout, done.stderr) == (0, wanted, b"")


def test_exec_ends_although_its_stdin_stays_open(lab: Lab) -> None:
    process = lab.start("dumm-guest exec sid -- echo done")
    assert process.wait(PATIENCE) == 0  # our end of its stdin is still open


def test_programs_that_do_not_read_their_input(lab: Lab) -> None:
    for program in ("true", "sh -c 'exec <&-; sleep 0.2; echo late'", "head -c 10"):
        done = shell(lab, f"dumm-guest exec sid -- {program} < /dev/zero | wc -c")
        assert done.returncode == 0, done.stderr
    (out, err) = sh(lab, "exit 3", status=3, stdin=NOISE)
    assert (out, err) == (b"", "")


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        ("dumm-guest exec sid -- echo x >&-", 125, "cannot write output: Bad file descriptor"),
        ("dumm-guest exec sid -- echo x >/dev/full", 125, "cannot write output: No space left"),
        ("dumm-guest exec sid -- true >&-", 0, ""),
        ("dumm-guest exec sid -- sh -c 'echo x >&2; exit 9' 2>&-", 9, ""),
        ("dumm-guest exec sid -- sh -c 'echo x >&2; exit 9' 2>/dev/full", 125, ""),
    ],
)
def test_output_that_cannot_be_written(lab: Lab, line: str, status: int, error: str) -> None:
    done = shell(lab, line)
    assert done.returncode == status
    assert error in done.stderr.decode()
    assert done.stderr.count(b"\n") == bool(error)
    idle(lab)


def test_program_ends_quietly_when_the_reader_leaves(lab: Lab) -> None:
    line = "dumm-guest exec sid -- {}| head -1; echo ${{PIPESTATUS[0]}}"
    first, status = shell(lab, line.format("dmesg ")).stdout.decode().splitlines()
    assert first.startswith("Linux version")
    assert status in ("0", "141")
    done = shell(lab, line.format("yes "))
    assert done.stdout == b"y\n141\n"
    assert done.stderr == b""
    idle(lab)


def test_slow_reader_gets_all_output(lab: Lab) -> None:
    done = shell(lab, "dumm-guest exec sid -- seq 1500000 | { sleep 1; md5sum; }")
    assert done.stdout == shell(lab, "seq 1500000 | md5sum").stdout


def test_exec_does_not_wait_for_background_programs(lab: Lab) -> None:
    assert sh(lab, "sleep 1000 & echo started")[0] == b"started\n"
    assert processes(lab, "sid") == ["sleep 1000"]
    assert sh(lab, "yes & sleep 0.1; echo started")[0].endswith(b"\n")
    sh(lab, "killall sleep")
    idle(lab)


# ---- status ----


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 42", 42), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)],
)
def test_exit_status_is_that_of_the_program(lab: Lab, script: str, status: int) -> None:
    assert sh(lab, script, status=status) == (b"", "")


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (["nosuch"], 127, "cannot run 'nosuch': command not found"),
        (["/no/such"], 127, "cannot run '/no/such': No such file or directory"),
        ([""], 127, "cannot run '': command not found"),
        (["/etc/passwd"], 126, "cannot run '/etc/passwd': Permission denied"),
        (["/"], 126, "cannot run '/': Permission denied"),
        (["/etc/passwd/x"], 127, "cannot run '/etc/passwd/x': Not a directory"),
    ],
)
def test_unrunnable_commands_exit_with_126_or_127(
    lab: Lab, command: list[str], status: int, message: str
) -> None:
    assert one_line_error(run(lab, *command, status=status)[1]) == message


def test_commands_for_a_shell_get_a_hint(lab: Lab) -> None:
    assert run(lab, "ls | wc", status=127)[1].splitlines() == [
        "dumm-guest: cannot run 'ls | wc': command not found",
        "dumm-guest: hint: no shell reads this; to have one: sh -c 'ls | wc'",
    ]
    assert run(lab, "sh", "-c", "echo a b | wc -w")[0] == b"2\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("nobody -- true", 125, "no guest 'nobody'"),
        ("-w /no sid -- true", 125, "cannot change to '/no': No such file or directory"),
        ("-u nosuch sid -- true", 125, "no user 'nosuch' in the guest"),
        ("-u root:nosuch sid -- true", 125, "no group 'nosuch' in the guest"),
        ("-u 4294967296 sid -- true", 125, "no user '4294967296' in the guest"),
        ("-u 99999999999 sid -- true", 125, "no user '99999999999' in the guest"),
        ("-u 0:4294967296 sid -- true", 125, "no group '4294967296' in the guest"),
        ("--timeout nan sid -- true", 2, "invalid value for '--timeout': 'nan' is not a number"),
        ("sid", 2, "no command to run"),
        ("-e nonsense sid -- true", 2, ""),
    ],
)
def test_failures_of_exec_itself(lab: Lab, words: str, status: int, message: str) -> None:
    error = one_line_error(lab(f"dumm-guest exec {words}", status=status).err)
    assert error.startswith(message)


def out_of_time(lab: Lab, command: str) -> str:
    """The message of an exec with a time limit, with {} for the limit. Nobody reads its output."""

    def run(limit: str) -> str:
        process = lab.start(f"dumm-guest exec --timeout {limit} sid -- {command}")
        assert process.wait(PATIENCE) == 5
        assert process.stderr
        return one_line_error(process.stderr.read().decode())

    return timed_out(run)


def test_timeout(lab: Lab) -> None:
    assert out_of_time(lab, "sleep 600") == "'sleep' ran longer than {} s"
    idle(lab)


def test_timeout_ends_programs_that_ignore_sigterm(lab: Lab) -> None:
    command = "sh -c 'trap \"\" TERM; while :; do sleep 1; done'"
    assert out_of_time(lab, command) == "'sh' ran longer than {} s"
    until(lambda: not any(p.startswith("sh -c trap") for p in processes(lab, "sid")), "it runs on")


@pytest.mark.attack("output-nobody-reads")
@pytest.mark.parametrize("command", ["cat /dev/zero", "head -c 900000 /dev/zero"])
def test_timeout_applies_while_output_is_not_read(lab: Lab, command: str) -> None:
    """Nobody reads our output: neither the end of the command nor the rest of it arrives."""
    assert "ran longer than {} s" in out_of_time(lab, command)
    idle(lab)


@pytest.mark.attack("output-nobody-reads")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["cat /dev/zero", "head -c 900000 /dev/zero"])
def test_signal_ends_exec_while_its_output_is_not_read(
    lab: Lab, command: str, number: signal.Signals
) -> None:
    process = lab.start(["dumm-guest", "exec", "sid", "--", *command.split()])
    wait_stuck(process)
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number
    idle(lab)


def wait_stuck(process: subprocess.Popen[bytes]) -> None:
    """Wait until a command's output pipe is full and the command blocks."""
    stdout = process.stdout
    assert stdout
    until(lambda: unread(stdout.fileno()) >= 60_000, "the pipe is full")
    until(lambda: is_waiting(process.pid), "it waits")


def test_signal_ends_exec_while_its_terminal_is_stopped(lab: Lab) -> None:
    """A write to a stopped terminal would block for good."""
    with on_terminal(lab, ["dumm-guest", "exec", "sid", "--", "cat", "/dev/zero"]) as screen:
        until(lambda: unread(screen.master) >= 4000, "the terminal is full")
        screen.process.send_signal(signal.SIGTERM)
        until(lambda: screen.process.poll() is not None, "it ends")
        assert screen.process.returncode == 143
    idle(lab)


@pytest.fixture
def frozen(lab: Lab) -> Iterator[Callable[[], None]]:
    """A function that suspends the guest's kernel, which is resumed after the test."""
    pid = pid_of(lab, "sid")
    try:
        yield lambda: os.kill(pid, signal.SIGSTOP)
    finally:
        os.kill(pid, signal.SIGCONT)
        idle(lab)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_exec_while_the_guest_is_suspended(
    lab: Lab, frozen: Callable[[], None], number: signal.Signals
) -> None:
    process = lab.start(["dumm-guest", "exec", "sid", "--", "sh", "-c", "echo up; exec sleep 1000"])
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    frozen()
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number


def test_ctrl_c_ends_exec_while_the_guest_is_suspended(
    lab: Lab, frozen: Callable[[], None]
) -> None:
    with on_terminal(lab, ["dumm-guest", "exec", "-t", "sid", "--", "sh"]) as screen:
        screen.expect(b"# ")
        frozen()
        screen.type(b"x")

        def left() -> bool:
            screen.type(b"\x03")
            return screen.process.poll() is not None

        until(left, "Ctrl-C ends it")
        assert screen.process.returncode == 130
        assert screen.is_restored()


@pytest.mark.attack("deaf-to-signals")
def test_timeout_applies_while_the_guest_is_suspended(lab: Lab, frozen: Callable[[], None]) -> None:
    frozen()
    done = lab("dumm-guest exec --timeout 0.5 sid -- true", status=5)
    assert one_line_error(done.err) == "guest 'sid' does not answer"


def opened(pid: int) -> set[str]:
    """The open files of a process."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(fd))
    return found


def test_timeout_applies_while_no_line_is_free(lab: Lab) -> None:
    up = ["dumm-guest", "exec", "sid", "--", "sh", "-c", "echo up; exec sleep 1000"]
    busy = [lab.start(up) for _ in range(17)]
    for process in busy:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
    done = lab("dumm-guest exec --timeout 0.5 sid -- true", status=5)
    assert one_line_error(done.err) == "guest 'sid' is busy: all its lines are in use"
    waiting = lab.start("dumm-guest exec sid -- echo done")
    until(lambda: "anon_inode:inotify" in opened(waiting.pid), "it waits for a line")
    until(lambda: is_waiting(waiting.pid), "it does so without looking all the time")
    busy[0].terminate()
    assert waiting.communicate(timeout=PATIENCE)[0] == b"done\n"
    for process in busy:
        process.terminate()
        assert process.wait(PATIENCE) == 143
    idle(lab)


def test_script_without_shebang_is_run_by_the_shell(lab: Lab) -> None:
    sh(lab, "printf 'echo I am $0 $1\\n' >/tmp/plain; chmod +x /tmp/plain")
    assert run(lab, "/tmp/plain", "here")[0] == b"I am /tmp/plain here\n"


# ---- arguments, environment, user, directory ----


def test_arguments_of_any_bytes(lab: Lab) -> None:
    every = bytes(range(1, 256))
    text = os.fsdecode(every)
    assert run(lab, "printf", "%s", text)[0] == every
    assert run(lab, "printf", "%s|", "", " ", "-x", "--", "'\"$`\\", "\n")[0] == (
        b"| |-x|--|'\"$`\\|\n|"
    )


@pytest.mark.parametrize("suite", SUITES)
def test_many_and_long_arguments(lab: Lab, suite: str) -> None:
    many = [str(n) for n in range(20_000)]
    done = lab(["dumm-guest", "exec", suite, "--", "echo", *many])
    assert done.out == " ".join(many) + "\n"
    long = "x" * 100_000
    assert lab(["dumm-guest", "exec", suite, "--", "echo", long]).out == long + "\n"
    lab(["dumm-guest", "exec", suite, "--", "true"])


def test_too_many_arguments_exit_with_126(lab: Lab) -> None:
    _, err = run(lab, "true", *["x" * 1000] * 400, status=126)
    assert one_line_error(err) == "cannot run 'true': Argument list too long"


def test_more_arguments_than_can_be_counted_exit_with_125(lab: Lab) -> None:
    _, err = run(lab, "true", *map(str, range(70_000)), status=125)
    assert one_line_error(err) == "cannot run 'true' with 70000 arguments"


def test_environment_is_set_and_not_inherited_from_the_host(lab: Lab) -> None:
    done = lab(
        ["dumm-guest", "exec", "-e", "A=b c", "-e", "E=", "-e", "X=y=z", "sid", "--", "env"],
        env={"SECRET": "of the host"},
    )
    assert {"A=b c", "E=", "X=y=z", "HOME=/root", "USER=root"} <= set(done.lines)
    assert "SECRET" not in done.out
    assert lab("dumm-guest exec -e PATH=/none sid -- true", status=127).out == ""


def test_option_w_sets_the_directory(lab: Lab) -> None:
    assert run(lab, "pwd")[0] == b"/\n"
    assert lab("dumm-guest exec -w /etc sid -- pwd").out == "/etc\n"


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        ("root", "0 0"),
        ("0", "0 0"),
        ("nobody", "65534 65534"),
        ("nobody:root", "65534 0"),
        ("1234:55", "1234 55"),
    ],
)
def test_option_u_sets_user_and_group(lab: Lab, user: str, wanted: str) -> None:
    done = lab(
        ["dumm-guest", "exec", "-u", user, "sid", "--", "sh", "-c", "echo $(id -u) $(id -g)"]
    )
    assert done.out.strip() == wanted


def test_incomplete_lines_of_the_users(lab: Lab) -> None:
    """Without a group a user does not exist; all else may be missing."""
    sh(lab, "cp /etc/passwd /root; printf 'half:x:55\\nmost:x:56:57\\n' >>/etc/passwd")
    command = ["dumm-guest", "exec", "-u", "half", "sid", "--", "true"]
    assert lab(command, status=125).err == "dumm-guest: no user 'half' in the guest\n"
    words = "echo $(id -u) $(id -g) $USER=$HOME=$SHELL"
    done = lab(["dumm-guest", "exec", "-u", "most", "sid", "--", "sh", "-c", words])
    assert done.out == "56 57 most==\n"
    sh(lab, "mv /root/passwd /etc/passwd")


# ---- signals ----


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)],
)
def test_signals_are_passed_to_the_program(lab: Lab, number: signal.Signals, status: int) -> None:
    process = lab.start(["dumm-guest", "exec", "sid", "--", "sh", "-c", "echo up; exec sleep 1000"])
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    assert process.wait(PATIENCE) == status
    idle(lab)


def test_program_can_handle_ctrl_c(lab: Lab) -> None:
    script = "trap 'echo caught; exit 7' INT; echo up; while :; do sleep 0.05; done"
    process = lab.start(["dumm-guest", "exec", "sid", "--", "sh", "-c", script])
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"caught\n"
    assert process.wait(PATIENCE) == 7


# ---- terminals ----


def test_terminal_has_size_and_keys(lab: Lab) -> None:
    command = ["dumm-guest", "exec", "-t", "sid", "--", "sh"]
    with on_terminal(lab, command, (31, 97)) as screen:
        screen.type(b"tty; echo $TERM; stty size\n")
        screen.expect(b"/dev/pts/")
        screen.expect(b"xterm-test\r\n31 97\r\n")
        screen.resize(40, 132)
        screen.type(b"until stty size | grep '40 132'; do :; done\n")
        screen.expect(b"40 132\r\n")
        screen.type(b"sleep 1000\n")
        until(lambda: "sleep 1000" in processes(lab, "sid"), "it runs")
        screen.type(b"\x03")
        screen.type(b"echo status $?\n")
        screen.expect(b"status 130")
        screen.type(b"exit 5\n")
        assert screen.wait() == 5
        assert screen.is_restored()


def test_ctrl_d_ends_a_shell(lab: Lab) -> None:
    with on_terminal(lab, ["dumm-guest", "exec", "-t", "sid", "--", "cat"]) as screen:
        screen.type(b"hello\n")
        screen.expect(b"hello\r\nhello\r\n")
        screen.type(b"\x04")
        assert screen.wait() == 0
        assert screen.is_restored()


def test_terminal_is_restored_when_the_client_is_terminated(lab: Lab) -> None:
    with on_terminal(lab, ["dumm-guest", "exec", "-t", "sid", "--", "sleep", "1000"]) as screen:
        until(lambda: not screen.is_restored(), "raw mode")
        screen.process.send_signal(signal.SIGTERM)
        assert screen.wait() == 143
        assert screen.is_restored()
    idle(lab)


def test_option_t_works_without_a_terminal_of_ours(lab: Lab) -> None:
    assert lab("dumm-guest exec -t sid -- tty").out.startswith("/dev/pts/")
    assert lab("dumm-guest exec -t sid -- cat", stdin=b"x\n").lines == ["x", "x"]


# ---- many at once ----


@pytest.mark.parametrize("suite", SUITES)
def test_twenty_execs_at_once(lab: Lab, suite: str) -> None:
    running = [
        lab.start(["dumm-guest", "exec", suite, "--", "sh", "-c", f"cat; echo {n}"])
        for n in range(20)
    ]
    for n, process in enumerate(running):
        out, err = process.communicate(NOISE[:20_000], PATIENCE)
        assert (process.returncode, out, err) == (0, NOISE[:20_000] + b"%d\n" % n, b"")


def test_more_execs_at_once_than_lines(lab: Lab) -> None:
    """They wait for any line, not for a certain one."""
    long = lab.start("dumm-guest exec sid -- sleep 1000")
    script = "sleep 1; echo $0"
    running = [
        lab.start(["dumm-guest", "exec", "sid", "--", "sh", "-c", script, str(n)])
        for n in range(80)
    ]
    for n, process in enumerate(running):
        out, err = process.communicate(b"", PATIENCE)
        assert (process.returncode, out, err) == (0, b"%d\n" % n, b"")
    long.send_signal(signal.SIGTERM)
    assert long.wait(PATIENCE) == 143


def free_memory(lab: Lab) -> int:
    """KiB that a guest has available for programs."""
    out, _ = sh(lab, "sync; echo 3 >/proc/sys/vm/drop_caches; grep MemAvailable /proc/meminfo")
    return int(out.split()[1])


def test_exec_leaks_no_memory_in_the_guest(lab: Lab) -> None:
    line = "seq {} | xargs -P 4 -n 1 dumm-guest exec sid -- true"
    assert shell(lab, line.format(10)).returncode == 0
    before = free_memory(lab)
    assert shell(lab, line.format(40)).returncode == 0
    assert before - free_memory(lab) < 1024


@pytest.mark.parametrize("suite", SUITES)
def test_program_that_cannot_begin_holds_up_no_other(lab: Lab, suite: str) -> None:
    """Until exec a process shares the agent's memory. Here it waits for the file with its groups,
    one for itself and one for a client that is gone."""

    def inside(script: str) -> str:
        return lab(["dumm-guest", "exec", suite, "--", "sh", "-c", script]).out

    inside("mv /etc/group /etc/kept && mkfifo /etc/group")
    waiting = "cat /proc/[0-9]*/stat | grep -c '(init) S 1 '; true"
    before = inside(waiting)
    program = ["-u", "65534", "-e", "A=mine", "--", "sh", "-c", "echo $A"]
    command = ["dumm-guest", "exec", suite, *program]
    first, second = lab.start(command), lab.start(command)
    until(lambda: int(inside(waiting)) == int(before) + 2, "both wait")
    second.kill()
    second.wait()
    for _ in range(3):
        assert inside(f"echo {'x' * 20_000}").strip() == "x" * 20_000
    inside("cat /etc/kept >/etc/group")
    assert (first.communicate(timeout=PATIENCE), first.returncode) == ((b"mine\n", b""), 0)
    inside("mv /etc/kept /etc/group")
    idle(lab, suite)


@pytest.mark.parametrize("suite", SUITES)
def test_agent_does_not_grow(lab: Lab, suite: str) -> None:
    """By programs that run, that do not, and that have many arguments."""

    def size() -> str:
        command = ["dumm-guest", "exec", suite, "--", "grep", "VmData", "/proc/1/status"]
        return lab(command).out

    runs = (["true"], ["nothing"], ["-u", "nobody", "true"], ["-w", "/nothing", "true"], ["true"])
    sizes = []
    for _ in range(3):
        for words in runs:
            lab(["dumm-guest", "exec", suite, *words[:-1], "--", words[-1]], status=None)
        lab(["dumm-guest", "exec", suite, "--", "true", *["word"] * 20_000])
        sizes.append(size())
    assert sizes[1:] == sizes[:1] * 2


# ---- clients that die ----


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "command",
    [
        ["cat"],  # both directions
        ["sh", "-c", "cat >/dev/null"],
        ["cat", "/dev/zero"],
        ["sleep", "1000"],
    ],
)
def test_killed_clients_leave_nothing(lab: Lab, suite: str, command: list[str]) -> None:
    chance = random.Random(str(command))
    with open("/dev/zero", "rb") as endless:
        for _ in range(8):
            client = subprocess.Popen(
                ["dumm-guest", "exec", suite, "--", *command],
                stdin=endless,
                stdout=subprocess.DEVNULL,
                env=lab.env,
            )
            time.sleep(chance.uniform(0.05, 0.25))
            client.kill()
            client.wait()
    assert lab(["dumm-guest", "exec", suite, "--", "cat"], stdin=NOISE).stdout == NOISE
    idle(lab, suite)


def test_programs_of_a_dead_client_are_ended_by_the_next_exec(lab: Lab) -> None:
    """Even if the next command uses another line."""
    first = lab.start("dumm-guest exec sid -- sleep 1001")
    until(lambda: "sleep 1001" in processes(lab, "sid"), "it runs")
    second = lab.start("dumm-guest exec sid -- sleep 1002")
    until(lambda: "sleep 1002" in processes(lab, "sid"), "it runs")
    second.kill()
    second.wait()
    run(lab, "true")  # takes the second client's line
    third = lab.start("dumm-guest exec sid -- sleep 1003")
    until(lambda: "sleep 1003" in processes(lab, "sid"), "it runs")
    first.send_signal(signal.SIGTERM)  # now the third client's line is not the lowest one
    assert first.wait(PATIENCE) == 143
    third.kill()
    third.wait()
    until(lambda: processes(lab, "sid") == [], "nothing is left")


# ---- guests that cannot answer ----


def test_exec_needs_a_running_guest(lab: Lab) -> None:
    lab("dumm-guest create idle")
    assert one_line_error(lab("dumm-guest exec idle -- true", status=125).err) == (
        "guest 'idle' is stopped"
    )
    lab("dumm-guest start idle")
    lab("dumm-guest pause idle")
    assert one_line_error(lab("dumm-guest exec idle -- true", status=125).err) == (
        "guest 'idle' is paused"
    )
    lab("dumm-guest resume idle")
    process = lab.start("dumm-guest exec idle -- sh -c 'echo up; sleep 1000'")
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    lab("dumm-guest stop --kill idle")
    assert process.wait(PATIENCE) == 125
    assert one_line_error(process.stderr.read().decode()) == "guest 'idle' has ended"
