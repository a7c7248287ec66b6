"""The library in its caller's process: threads, coroutines, children, signals, what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import locale
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, SUITES, TOP
from support.checks import until
from support.labs import Lab as Commands
from support.library import KINDS, descriptors, pair, sessions
from support.world import use_of

from dumm_tools import Conflict, DummError, Lab, NotFound, Program, SessionEnded, TimedOut
from dumm_tools.api import streams
from dumm_tools.api.running import Running

pytestmark = pytest.mark.uml

NewLab = Callable[..., Commands]

#: Whether a `sleep 12345` runs in a guest, or none does.
UP = ["sh", "-c", "ps -o args | grep -q '[s]leep 12345'"]
GONE = ["sh", "-c", "! ps -o args | grep -q '[s]leep 12345'"]


@pytest.fixture(params=KINDS)
def lab(library: None, new_lab: NewLab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of the commands, opened, with alice and bob on lan0; nothing of it may be left."""
    commands = new_lab("lab", request.param)
    with Lab(commands.directory) as opened:
        pair(opened)
        yield opened


def session_of(lab: Lab) -> int:
    """The process of a lab's only session."""
    lab.guests()
    words = [
        pid
        for pid in sessions()
        if str(lab.directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    (pid,) = words
    return pid


# ---- what the manual says ----


@pytest.mark.parametrize("kind", KINDS)
def test_example_in_the_manual(
    library: None, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is written there, in a directory of its own; with defaults for kernel and master."""
    page = (TOP / "man/dumm-library.3.in").read_text()
    (text,) = re.findall(r"(?s)\n\.EX\n(from dumm_tools.*?)\n\.EE", page)
    code = text.replace("\\-", "-").replace("\\e", "\\")
    assert 'Lab.create("lab", isolated=True)' in code
    code = code.replace("isolated=True", f'isolated={kind == "--isolated"}, kernel="{SUITES[0]}"')
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "example", "exec"), {})
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("0 PING 10.0.0.2")
    assert lines[-1] == "2"
    assert not (tmp_path / "lab/state.json").exists()


# ---- at the same time ----


def test_threads(lab: Lab) -> None:
    """Each answer reaches the thread that waits for it; descriptors are given back."""
    guests = [lab.guest("alice"), lab.guest("bob")]

    def work(number: int) -> int:
        guest = guests[number % 2]
        for turn in range(40):
            said = f"{number}.{turn}\n"
            done = guest.run(["sh", "-c", 'cat; printf %s "$0" >&2', said], input=said)
            assert (done.stdout, done.stderr) == (said, said)
            if turn % 10 == 0:
                assert [each.name for each in lab.guests()] == ["alice", "bob"]
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))
        before = descriptors(), descriptors(session_of(lab))
        assert list(pool.map(work, range(8))) == list(range(8))
    assert descriptors() <= before[0]
    # The session keeps some lines to guests, but no more than the first time.
    until(lambda: descriptors(session_of(lab)) <= before[1], "no descriptors are left")


def test_first_call_in_many_threads_starts_one_session(lab: Lab) -> None:
    lab.close()
    started = threading.Barrier(8)

    def first(_number: int) -> int:
        started.wait()
        return len(lab.guests())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(first, range(8))) == [2] * 8
    session_of(lab)


def test_asyncio(lab: Lab) -> None:
    alice, bob = lab.guest("alice"), lab.guest("bob")

    async def main() -> None:
        done = await asyncio.gather(*(alice.arun(["echo", str(n)]) for n in range(20)))
        assert [d.stdout for d in done] == [f"{n}\n" for n in range(20)]
        with pytest.raises(TimedOut):
            await alice.arun(["sleep", "10000"], timeout=0.5)
        # One waits for what the other does.
        waiting = asyncio.create_task(bob.await_until(["ls", "/go"], timeout=PATIENCE))
        await bob.arun(["touch", "/go"], check=True)
        await waiting
        # A call that blocks is allowed, too: another thread reads the answer.
        assert alice.run(["hostname"]).stdout == "alice\n"
        cancelled = asyncio.create_task(alice.arun(["sleep", "12345"]))
        await alice.await_until(UP, timeout=PATIENCE)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await alice.await_until(GONE, timeout=PATIENCE)
        await lab.astart(may_run=True)

    asyncio.run(main())


def test_two_labs_at_once(library: None, packs: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        labs = [
            stack.enter_context(
                Lab.create(
                    tmp_path / kind,
                    isolated=kind == "--isolated",
                    kernel=SUITES[0],
                    master="busybox",
                )
            )
            for kind in KINDS
        ]
        for lab in labs:
            pair(lab)
        for lab in labs:
            for name in ("alice", "bob"):
                assert lab.guest(name).run(["hostname"]).stdout == f"{name}\n"
        assert len(sessions()) >= len(labs)
        labs[0].guest("alice").write_text("/only", "x")
        for lab in labs[1:]:
            with pytest.raises(NotFound):
                lab.guest("alice").read_text("/only")
    assert [path for path in tmp_path.iterdir() if (path / "state.json").exists()] == []


# ---- the caller's process ----


def settings() -> tuple[object, ...]:
    """The state of this process that the library must not change."""
    spaces = ("mnt", "net", "pid", "user", "uts", "ipc", "cgroup")
    mask = os.umask(0)
    os.umask(mask)
    return (
        [os.readlink(f"/proc/self/ns/{space}") for space in spaces],
        [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        signal.pthread_sigmask(signal.SIG_BLOCK, []),
        *(mask, os.getcwd(), locale.setlocale(locale.LC_ALL), dict(os.environ), sys.path[:]),
        [thread for thread in threading.enumerate() if thread.name != "dumm-session"],
    )


def test_callers_process_stays_as_it_is(lab: Lab, tmp_path: Path) -> None:
    before = settings()
    lab.guest("alice").run(["true"])
    with lab.capture("icmp"):
        lab.guest("alice").run(["ping", "-c1", "10.0.0.2"])
    lab.template("t").load(create=True)
    lab.unload()
    assert settings() == before
    children = [pid for pid in sessions() if os.getsid(pid) == os.getsid(0)]
    assert children == []  # Ctrl-C at our terminal is for us only
    lab.close()
    assert settings() == before


def test_beside_pyroute2(lab: Lab) -> None:
    code = (
        "import sys\n"
        "import pyroute2\n"
        "from dumm_tools import Lab\n"
        "with Lab(sys.argv[1]) as lab, pyroute2.IPRoute() as route:\n"
        "    assert route.link_lookup(ifname='lo') == [1]\n"
        "    print(lab.guest('alice').run(['hostname']).stdout, end='')\n"
        "    assert route.link_lookup(ifname='lo') == [1]\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, lab.directory],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("alice\n", "")


def test_signals_of_the_caller_are_not_those_of_its_session(lab: Lab) -> None:
    code = (
        "import signal, sys\n"
        "from dumm_tools import Lab\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])\n"
        "with Lab(sys.argv[1]) as lab:\n"
        "    with lab.iface('alice-eth0').capture() as cap:\n"
        "        print([guest.name for guest in lab.guests()])\n"
        "    with lab.guest('alice').popen(['sleep', '10000']) as program:\n"
        "        pass\n"
        "    print(program.wait())\n"
    )
    assert _said(code, lab) == (0, "['alice', 'bob']\n143\n", "")


def _said(code: str, lab: Lab) -> tuple[int, str, str]:
    """The status and outputs of a program in Python, which is given the lab's directory."""
    done = subprocess.run(
        [sys.executable, "-c", code, lab.directory],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


def _in_child(lab: Lab, sent: object) -> None:
    """In a forked child."""
    assert isinstance(sent, multiprocessing.connection.Connection)
    sent.send((os.getpid(), lab.guest("alice").run(["hostname"]).stdout))
    sent.close()


def test_fork(lab: Lab) -> None:
    """A child has a session of its own, and does not end that of its parent."""
    lab.guest("alice").run(["true"])
    ours = session_of(lab)
    with lab.guest("alice").popen(["cat"]) as cat:
        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe()
        child = context.Process(target=_in_child, args=(lab, theirs))
        child.start()
        pid, said = mine.recv()
        child.join(PATIENCE)
        assert (pid, said, child.exitcode) == (child.pid, "alice\n", 0)
        cat.stdin.write("still here\n")
        assert cat.stdout.readline() == "still here\n"
    assert session_of(lab) == ours


def _try_programs(running: Program[str], ended: Program[str], sent: object) -> None:
    """In a forked child."""
    assert isinstance(sent, multiprocessing.connection.Connection)
    said = []
    for use in (running.wait, running.poll, running.stdout.read, running.stderr.readline):
        try:
            said.append(repr(use()))
        except SessionEnded as e:
            said.append(str(e))
    running.end()
    sent.send((said, ended.wait(), ended.stdout.read()))


def test_programs_after_a_fork(lab: Lab) -> None:
    """The parent's are not those of the child: it waits for none. Here another thread has locked
    what it would need."""
    alice = lab.guest("alice")
    with alice.popen(["cat"]) as cat, alice.popen(["echo", "x"]) as ended:
        ended.wait()
        reader = threading.Thread(target=cat.stdout.readline)
        reader.start()
        context = multiprocessing.get_context("fork")
        mine, theirs = context.Pipe()
        child = context.Process(target=_try_programs, args=(cat, ended, theirs))
        with cat.stdout._change, cat._running._moved, cat._running.future._condition:
            child.start()
        assert mine.poll(PATIENCE)
        said, status, text = mine.recv()
        child.join(PATIENCE)
        assert (said, status, text) == ([streams.FORKED] * 4, 0, "x\n")
        cat.stdin.write("still here\n")
        reader.join(PATIENCE)
        assert not reader.is_alive()


def test_fork_while_another_thread_starts_a_session(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child must not have the input of that session: it would last as long as the child."""
    begun, start = threading.Event(), subprocess.Popen

    def slow(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        process = start(*args, **kwargs)
        begun.set()
        done.wait(0.3)  # a fork comes now, or waits for us
        return process

    done = threading.Event()
    monkeypatch.setattr(subprocess, "Popen", slow)
    other = Lab(lab.directory)
    thread = threading.Thread(target=other.guests)
    thread.start()
    assert begun.wait(PATIENCE)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(write)
            os.read(read, 1)
        finally:
            os._exit(0)
    done.set()
    thread.join(PATIENCE)
    ender = threading.Thread(target=other.close, daemon=True)
    ender.start()
    ender.join(PATIENCE)
    assert not ender.is_alive()
    os.close(read)
    os.close(write)
    os.waitpid(pid, 0)


def test_child_does_not_destroy_the_parents_lab(library: None, packs: Path, tmp_path: Path) -> None:
    with Lab.create(tmp_path / "lab", kernel=SUITES[0], master="busybox") as lab:
        lab.guest("alice").create()
        pid = os.fork()
        if pid == 0:
            try:
                lab.__exit__(None, None, None)
                del lab
                gc.collect()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert [guest.name for guest in lab.guests()] == ["alice"]


def test_child_that_lives_on_does_not_keep_the_lab(
    library: None, packs: Path, tmp_path: Path
) -> None:
    """Only the parent has the descriptors of its session."""
    read, write = os.pipe()
    with Lab.create(tmp_path / "lab", kernel=SUITES[0], master="busybox") as lab:
        pid = os.fork()
        if pid == 0:
            try:
                os.close(write)
                os.read(read, 1)
            finally:
                os._exit(0)
        os.close(read)
        lab.close()
        assert not (tmp_path / "lab/state.json").exists()
    os.close(write)
    os.waitpid(pid, 0)


def test_objects_are_sent_to_other_processes(lab: Lab) -> None:
    alice = lab.guest("alice")
    parts = [alice, alice.iface("eth0"), lab.bridge("lan0"), lab.template("night")]
    copy, *copies = pickle.loads(pickle.dumps([lab, *parts]))
    with copy:
        assert [guest.name for guest in copy.guests()] == ["alice", "bob"]
        before = sessions()
        assert copies[0].run(["hostname"]).stdout == "alice\n"
        assert [each.name for each in copies] == [each.name for each in parts]
        assert sessions() == before  # all that were sent together share one
    assert pickle.loads(pickle.dumps(alice)).show().name == "alice"
    with pytest.raises(TypeError, match="a Program cannot be sent"), alice.popen(["cat"]) as cat:
        pickle.dumps(cat)
    with pytest.raises(TypeError, match="a Capture cannot be sent"):
        pickle.dumps(lab.capture())


def test_lab_that_is_dropped_ends_its_session(lab: Lab) -> None:
    before = sessions()
    alice = Lab(lab.directory).guest("alice")
    assert alice.run(["hostname"]).stdout == "alice\n"
    assert len(sessions()) == len(before) + 1
    program = alice.popen(["cat"])
    idle = alice.popen(["cat"])
    del alice
    gc.collect()
    program.stdin.write("x\n")
    assert program.stdout.readline() == "x\n"
    del program, idle
    gc.collect()
    until(lambda: sessions() == before, "the session has ended")
    lab.guest("alice").wait_until(["sh", "-c", "! ps -o args | grep -qx cat"], timeout=PATIENCE)


# ---- ends ----

USER = """
import signal, sys
from dumm_tools import Lab
with Lab.create(sys.argv[1], isolated=sys.argv[2] == "--isolated", kernel=sys.argv[3],
                master="busybox") as lab:
    lan = lab.bridge("lan0").create()
    alice = lab.guest("alice").create()
    alice.iface("eth0").create(bridge=lan)
    lab.start()
    program = alice.popen(["sleep", "100000"])
    print("up", flush=True)
    {end}
"""


def user(end: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start a program that uses the library, and ends somehow once it is up."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER.format(end=end), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n", process.communicate(timeout=PATIENCE)
    return process


def left(place: Path) -> list[str]:
    """The processes that use a directory."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [use for pid in pids if pid != os.getpid() and (use := use_of(pid, str(place)))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("end", "number", "status"),
    [
        ("signal.pause()", signal.SIGKILL, -signal.SIGKILL),
        ("signal.pause()", signal.SIGTERM, -signal.SIGTERM),
        ("signal.pause()", signal.SIGINT, -signal.SIGINT),
        ("sys.exit(3)", None, 3),
        ("raise KeyError", None, 1),
    ],
)
def test_nothing_is_left(
    library: None, packs: Path, tmp_path: Path, kind: str, end: str, number: int | None, status: int
) -> None:
    links = set(os.listdir("/sys/class/net"))
    place = tmp_path / "lab"
    process = user(end, place, kind, SUITES[0])
    if number is not None:
        process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    until(lambda: not (place / "state.json").exists(), "the lab is destroyed")
    until(lambda: left(place) == [], "its processes have ended")
    assert set(os.listdir("/sys/class/net")) == links


KILLED = """
import os, signal, sys, threading
from dumm_tools import Lab

def kill():
    while not os.path.lexists(os.path.join(sys.argv[1], "state.json")):
        pass
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill).start()
Lab.create(sys.argv[1], isolated=sys.argv[2] == "--isolated", kernel=sys.argv[3], master="busybox")
"""


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_a_lab_that_is_being_made(
    library: None, tmp_path: Path, kind: str
) -> None:
    """The user of the library does not live to know that there is a lab."""
    place = tmp_path / "lab"
    argv = [sys.executable, "-c", KILLED, str(place), kind, SUITES[0]]
    assert subprocess.run(argv, cwd=TOP, check=False).returncode == -signal.SIGKILL
    until(lambda: left(place) == [], f"still there: {left(place)}")
    assert not (place / "state.json").exists()
    # An existing one is not destroyed by somebody who fails to make it.
    with Lab.create(place, isolated=kind == "--isolated", kernel=SUITES[0], master="busybox"):
        with pytest.raises(Conflict):
            Lab.create(place, isolated=kind == "--isolated", kernel=SUITES[0], master="busybox")
        assert (place / "state.json").exists()


def test_lab_that_cannot_be_destroyed(
    library: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is raised, even if the lab is only dropped; the session has ended then."""
    unraisable: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: unraisable.append(told.exc_value))
    before = sessions()
    state = tmp_path / "lab/state.json"
    for end in ("close", "with", "raise", "kill", "drop"):
        lab = Lab.create(tmp_path / "lab", kernel=SUITES[0], master="busybox")
        pid, good = session_of(lab), state.read_bytes()
        state.write_bytes(b"{")
        if end == "close":
            with pytest.raises(DummError, match=r"state\.json"):
                lab.close()
        elif end == "with":
            with pytest.raises(DummError, match=r"state\.json"), lab:
                pass
        elif end == "raise":
            with pytest.raises(KeyError), lab:
                raise KeyError
        elif end == "kill":  # another session tries
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(DummError, match=r"state\.json"), lab:
                pass
        else:
            del lab
            assert "state.json" in str(unraisable.pop())
        assert sessions() == before
        state.write_bytes(good)
        Lab(tmp_path / "lab").destroy()
        assert not state.exists()


def test_opened_lab_stays_when_its_user_is_killed(lab: Lab) -> None:
    """But not what was started there."""
    code = (
        "import signal, sys\n"
        "from dumm_tools import Lab\n"
        "lab = Lab(sys.argv[1])\n"
        "program = lab.guest('alice').popen(['sleep', '12345'])\n"
        "capture = lab.capture().__enter__()\n"
        f"lab.guest('alice').wait_until({UP})\n"
        "print('up', flush=True)\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, lab.directory], stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.kill()
    lab.guest("alice").wait_until(GONE, timeout=PATIENCE)
    assert [guest.state for guest in lab.guests()] == ["running", "running"]
    until(lambda: not any("capture" in use for use in left(Path(lab.directory))), "no capture")


def test_long_requests_beside_a_flood(lab: Lab) -> None:
    """More than a pipe holds, while the session has more to say than we have read."""
    seen = lab.guest("alice").popen(["cat", "/dev/zero"])
    for _ in range(30):
        done = lab.command("guest", "exec", "--host", "--", "wc", "-c", input="x" * 250_000)
        assert done.stdout.split() == ["250000"]
    seen.kill()
    echo = lab.guest("alice").popen(["cat"])
    sent = "y" * (8 << 20)
    echo.stdin.write(sent)
    echo.stdin.close()
    assert len(echo.stdout.read()) == len(sent)


INTERRUPTED = """
import os, signal, sys
from dumm_tools import Lab
lab = Lab(sys.argv[1])
lab.guests()
pid = lab._channel._process.pid
os.kill(pid, signal.SIGSTOP)
def wake(*_):
    os.kill(pid, signal.SIGCONT)
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, wake)
signal.alarm(1)
try:
    lab.apply("# " + "x" * 1_000_000)
except KeyboardInterrupt:
    print([each.name for each in lab.guests()])
lab.close()
"""


def test_interrupt_within_a_long_request(lab: Lab) -> None:
    assert _said(INTERRUPTED, lab) == (0, "['alice', 'bob']\n", "")


def test_session_that_is_killed(lab: Lab) -> None:
    pid = session_of(lab)
    waiting = lab.guest("alice").popen(["sh", "-c", "echo begun; exec sleep 100000"])
    assert waiting.stdout.readline() == "begun\n"
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SessionEnded):
        waiting.wait(PATIENCE)
    assert waiting.stdout.read() == ""
    assert lab.guest("alice").run(["hostname"]).stdout == "alice\n"
    assert session_of(lab) != pid


def test_calls_after_a_session_was_killed(lab: Lab) -> None:
    """A request that was not read goes to the next session: that it has ended is noticed later."""
    alice = lab.guest("alice")
    for _ in range(5):
        os.kill(session_of(lab), signal.SIGKILL)
        assert alice.run(["hostname"]).stdout == "alice\n"
    pid = session_of(lab)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(alice.run, ["hostname"]) for _ in range(3)]
        process = lab._channel._process
        assert process is not None
        until(lambda: len(process._starts) == 3, "they are written")
        os.kill(pid, signal.SIGKILL)
        assert [call.result(PATIENCE).stdout for call in calls] == ["alice\n"] * 3
    assert session_of(lab) != pid


def test_session_is_closed_while_others_call(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a dead session waits for the thread that reads its answers, which may be about to
    make a call itself."""
    from dumm_tools.api.process import Process

    called = threading.Event()
    close = Process.close

    def call() -> None:
        lab.guests()
        called.set()

    def close_later(self: Process, *args: Any, **options: Any) -> None:
        threading.Thread(target=call, daemon=True).start()
        assert called.wait(PATIENCE)
        close(self, *args, **options)

    lab.guests()
    pid = session_of(lab)
    monkeypatch.setattr(Process, "close", close_later)
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in sessions(), "the session has ended")
    lab.guests()
    assert called.is_set()
    monkeypatch.undo()


def test_interrupt_ends_the_program_only(lab: Lab) -> None:
    alice = lab.guest("alice")
    pid = session_of(lab)

    def interrupt() -> None:
        alice.wait_until(UP, timeout=PATIENCE)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        alice.run(["sleep", "12345"])
    thread.join()
    alice.wait_until(GONE, timeout=PATIENCE)
    assert session_of(lab) == pid


# ---- programs that go on ----


def test_streams(lab: Lab) -> None:
    alice = lab.guest("alice")
    with alice.popen(
        ["sh", "-c", "while read x; do echo $x; echo e$x >&2; done; exit 3"]
    ) as program:
        for word in ("one", "two"):
            program.stdin.write(f"{word}\n")
            assert program.stdout.readline() == f"{word}\n"
            assert program.stderr.readline() == f"e{word}\n"
        assert program.poll() is None
        with pytest.raises(TimedOut, match="'sh' still runs"):
            program.wait(0)
        program.stdin.write("three\nfour")
        program.stdin.close()
        assert list(program.stdout) == ["three\n"]
        assert (program.wait(), program.poll()) == (3, 3)
    with alice.popen(["sleep", "100000"]) as program:
        program.send_signal(signal.SIGKILL)
        assert program.wait() == 137
    stubborn = ["sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.1; done"]
    with alice.popen(stubborn) as program:
        assert program.stdout.readline() == "on\n"
    assert program.wait() == 137
    with alice.popen(["sh", "-c", r"printf 'a\303'; sleep 0.2; printf '\244b'"]) as program:
        assert program.completed().stdout == "a\N{LATIN SMALL LETTER A WITH DIAERESIS}b"


def test_input_waits_for_its_reader(lab: Lab) -> None:
    """More than the session would keep."""
    size = 100 << 20
    alice = lab.guest("alice")
    script = "while [ ! -e /go ]; do sleep 0.1; done; rm /go; wc -c"
    with alice.popen(["sh", "-c", script], text=False) as program:

        def write() -> None:
            for _ in range(size >> 20):
                program.stdin.write(bytes(1 << 20))
            program.stdin.close()

        writer = threading.Thread(target=write)
        writer.start()
        waiting = program.stdin._running._moved._waiters  # type: ignore[attr-defined]
        until(lambda: bool(waiting) or not writer.is_alive(), "it waits")
        assert writer.is_alive()
        alice.run(["touch", "/go"], check=True)
        assert int(program.stdout.read()) == size
        writer.join(PATIENCE)
    with alice.popen(["true"]) as ended:
        ended.wait()
        ended.stdin.close()
    session_of(lab)


def test_floods_do_not_delay_other_calls(lab: Lab) -> None:
    """A program whose output nobody reads."""
    alice, bob = lab.guest("alice"), lab.guest("bob")
    with alice.popen(["yes"]) as program:
        assert program.stdout.readline() == "y\n"
        for _ in range(20):
            assert bob.run(["hostname"]).stdout == "bob\n"
            assert alice.run(["hostname"]).stdout == "alice\n"
    assert program.stdout.readline() == "y\n"


def test_no_space_for_unread_output_ends_that_program_only(lab: Lab) -> None:
    """A limit on files is met like a full disk."""
    alice = lab.guest("alice")
    session = session_of(lab)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with alice.popen(["cat"], text=False) as other:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, limit[1]))
        try:
            reason = r"cannot keep output in '.*': File too large"
            flood = alice.popen(["cat", "/dev/zero"], text=False)
            with flood, pytest.raises(DummError, match=reason):
                flood.wait(PATIENCE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        kept: list[int] = []
        pieces = iter(lambda: flood.stdout.read(1 << 20), b"")
        with pytest.raises(DummError, match=reason):
            kept.extend(map(len, pieces))
        assert 3 << 20 <= sum(kept) <= 5 << 20
        other.stdin.write(b"still here\n")
        assert other.stdout.readline() == b"still here\n"
    alice.wait_until(["sh", "-c", "! ps -o args | grep -qx 'cat /dev/zero'"], timeout=PATIENCE)
    assert session_of(lab) == session


def test_captures(lab: Lab, tmp_path: Path) -> None:
    alice = lab.guest("alice")
    path = tmp_path / "x.pcapng"
    for number in range(5):
        with alice.iface("eth0").capture("icmp", path=path) as cap:
            for _ in range(3):
                alice.run(["ping", "-c1", "10.0.0.2"], check=True)
        packets = cap.packets()
        # The first is there, as the capture was ready; and the last, as it was drained.
        assert [p.data[34] for p in packets] == [8, 0] * 3, number
        assert {p.name for p in packets} == {"alice-eth0"}
        times = [p.time_ns for p in packets]
        assert times == sorted(times)
        assert abs(times[0] / 1e9 - packets[0].time) < 1e-6
    one, several = lab.bridge("lan0").capture("icmp"), lab.capture("icmp")
    with one, several:
        alice.run(["ping", "-c1", "10.0.0.2"], check=True)
        until(lambda: len(several.packets()) == 4, "packets are in the file meanwhile")
    assert {p.name for p in one.packets()} == {"lan0"}
    assert {p.name for p in several.packets()} == {"alice-eth0", "bob-eth0"}
    with pytest.raises(Conflict, match="has already been started"), one:
        pass


def test_interrupted_captures(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end, and an error of the caller is not replaced by one of theirs."""
    path = tmp_path / "packets.pcapng"

    def ended(_running: Running, _name: str) -> None:
        raise SessionEnded("the session of the lab has ended")

    with monkeypatch.context() as patch:
        patch.setattr(Running, "signal", ended)
        with pytest.raises(KeyError), lab.capture("icmp", path=path):
            raise KeyError
    lab.close()  # and with it that capture

    def interrupted(_output: streams.Output[str]) -> str:
        until(lambda: left(path) != [], "the capture has begun")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(streams.Output, "readline", interrupted)
        with pytest.raises(KeyboardInterrupt), lab.capture("icmp", path=path):
            pass
    until(lambda: left(path) == [], "the interrupted capture has ended")
    assert [each.name for each in lab.guests()] == ["alice", "bob"]


def test_temporary_file_of_a_capture_is_deleted(lab: Lab) -> None:
    with lab.capture() as cap:
        place = Path(cap.path)
        assert place.exists()
    del cap
    gc.collect()
    assert not place.exists()


def test_descriptors_do_not_grow(lab: Lab) -> None:
    alice = lab.guest("alice")

    def work() -> None:
        for _ in range(10):
            alice.run(["true"])
            with alice.popen(["cat"]) as cat:
                cat.stdin.write("x" * 1000)
        with alice.iface("eth0").capture("icmp"):
            pass
        with contextlib.suppress(NotFound):
            lab.guest("nobody").show()

    work()
    gc.collect()
    before = descriptors(), descriptors(session_of(lab))
    for _ in range(5):
        work()
    gc.collect()
    assert descriptors() <= before[0]
    until(lambda: descriptors(session_of(lab)) <= before[1], "none are left in the session")


def test_unread_output_is_kept_outside_memory() -> None:
    """And is read in order, whatever was read before."""
    output: streams.Output[bytes] = streams.Output(text=False)
    expected, got, number = bytearray(), bytearray(), 0
    for size in (10, streams.IN_MEMORY, 3, streams.IN_MEMORY * 3, 70_000, 1):
        for at in range(0, size, 65536):
            piece = bytes([number % 256]) * min(65536, size - at)
            number += 1
            expected += piece
            output.feed(piece)
        got += output.read(size // 2 + 1)
    output.feed(b"line\nlast")
    expected += b"line\nlast"
    output.feed(b"")
    while piece := output.read(100_001):
        got += piece
    assert got == expected
    lines: streams.Output[str] = streams.Output(text=True)
    long = "x" * (streams.IN_MEMORY + 10)
    for text in (f"{long}\n", f"{long}{long}\n", "end"):
        lines.feed(text.encode())
    lines.feed(b"")
    assert [len(line) for line in lines] == [len(long) + 1, 2 * len(long) + 1, 3]


def test_text_is_not_cut_within_a_character() -> None:
    output: streams.Output[str] = streams.Output(text=True)
    text = "a\N{EURO SIGN}b\N{GRINNING FACE}c" * 100
    output.feed(text.encode())
    output.feed(b"")
    got = ""
    while piece := output.read(2):
        got += piece
    assert got == text
    broken: streams.Output[str] = streams.Output(text=True)
    broken.feed(b"\x80" * 10)
    broken.feed(b"")
    got = ""
    while piece := broken.read(1):
        got += piece
    assert got == r"\x80" * 10
