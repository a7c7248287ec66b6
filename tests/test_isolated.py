"""Isolated labs: the whole session for each kind of user, and requirements of isolated labs only.
Run as root, it makes up its ordinary users; run as an ordinary user, it tests that user, and leaves
tests with a second user or a host of their own to root's run."""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import importlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import BIN, PATIENCE, ROOT
from support.checks import one_line_error, until
from support.guests import pid_of, state_of
from support.images import Entry, layer, oci, packed
from support.labs import Lab
from support.terminal import on_terminal
from support.users import User
from support.world import World

from dumm_tools.linux import process

#: A kernel of the host.
UML = "/usr/bin/linux.uml"

pytestmark = pytest.mark.uml

#: The owner of the lab: root, a user with a range of ids, one with their own id alone; and the
#: first of these users with fuse-overlayfs for the trees.
KINDS = ("root", "range", "single", "fuse") if ROOT else ("range", "single", "fuse")
#: The same without the slow one.
USERS = KINDS[:-1]
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
#: Commands run in both guests of the session's lab.
PING = "ping -c1 -W30"


class People:
    """Makes users when needed, and labs of theirs."""

    def __init__(self, packs: Path, place: Path) -> None:
        self._packs = packs
        self._place = place
        self._users: dict[str, User] = {}
        self._labs: list[Lab] = []
        self._made = 0

    def user(self, who: str) -> User:
        """The user of a kind, with a master."""
        if who not in self._users:
            alone = {"ids": False, "without": ("newuidmap", "newgidmap")} if who == "single" else {}
            user = User(len(self._users) + 1, self._packs, **alone)  # type: ignore[arg-type]
            self._users[who] = user
            user.lab("making")("dumm-fs master build busybox")
        return self._users[who]

    def bare(self, kind: str, name: str) -> Lab:
        """A directory, and the commands run as a user of a kind."""
        env = {"DUMM_OVERLAY": "fuse-overlayfs"} if kind == "fuse" else {}
        # If a test is repeated, the directory already exists.
        self._made += 1
        name = f"{name}{self._made}"
        if ROOT and kind != "root":
            who = "range" if kind == "fuse" else kind
            made: Lab = self.user(who).lab(f"{name}-{kind}", env)
        else:
            directory = self._place / f"{name}-{kind}"
            directory.mkdir()
            made = Lab(directory, self._packs)
            made.env |= env
            if kind == "single":
                self._refuse_ids(made)
        self._labs.append(made)
        return made

    def _refuse_ids(self, lab: Lab) -> None:
        """Leave an ordinary user only their own id: newuidmap fails. Such users have masters of
        their own."""
        programs, cache = self._place / "bin", self._place / "cache"
        fresh = not programs.exists()
        if fresh:
            programs.mkdir()
            for name in ("newuidmap", "newgidmap"):
                (programs / name).write_text("#!/bin/sh\nexit 1\n")
                (programs / name).chmod(0o755)
            (cache / "dumm").mkdir(parents=True)
            (cache / "dumm/kernels").symlink_to(self._packs / "dumm/kernels")
        lab.env |= {"PATH": f"{programs}:{lab.env['PATH']}", "XDG_CACHE_HOME": str(cache)}
        if fresh:
            lab("dumm-fs master build busybox")

    def lab(self, kind: str, name: str) -> Lab:
        """A working set."""
        lab = self.bare(kind, name)
        options = "--isolated" if kind == "root" else ""
        lab(f"dumm-fs init {options} --kernel sid --master busybox")
        return lab

    def end_labs(self, failed: bool) -> None:
        """Destroy all labs."""
        for lab in self._labs:
            if failed:
                print(lab.logs())
            lab.end()
        self._labs.clear()

    def end(self) -> None:
        """Remove all users."""
        for user in self._users.values():
            user.end()


@pytest.fixture(scope="module")
def everybody(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """The users of this file."""
    made = People(packs, tmp_path_factory.mktemp("people"))
    yield made
    made.end()


@pytest.fixture
def people(everybody: People, request: pytest.FixtureRequest) -> Iterator[People]:
    """The users of this file; labs made in a test end with it."""
    yield everybody
    everybody.end_labs(request.session.testsfailed > 0)


# ---- what a lab has in the kernel ----


def holder_of(lab: Lab) -> int:
    """The process that holds a lab's namespaces."""
    return int(holder_file(lab).read_text().split()[0])


def holder_file(lab: Lab) -> Path:
    """The file that records the holder."""
    return lab.directory / f"run/holder-{(lab.directory / '.lock').stat().st_ino}"


def namespaces(pid: int | str) -> dict[str, str]:
    """The namespaces of a process; empty if it is gone, even if it has not been reaped."""
    found: dict[str, str] = {}
    if process.start_time(int(pid) if pid != "self" else os.getpid(), ending=True) is None:
        return found
    for kind in ("user", "mnt", "net", "pid", "ipc", "uts"):
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")
        except OSError:
            continue
    return found


@dataclass(frozen=True)
class Traces:
    """Traces of a lab on the host."""

    place: Path
    spaces: frozenset[str]
    before: World

    @classmethod
    def of(cls, lab: Lab) -> Traces:
        spaces = namespaces(holder_of(lab))
        assert len(spaces) == 6
        assert not set(spaces.values()) & set(namespaces("self").values())
        # Links and mounts are in a namespace, which exists as long as a process is in it.
        return cls(lab.directory, frozenset(spaces.values()), World.now())

    def left(self) -> list[str]:
        """Processes that are in the namespaces or use the directory."""
        found = [
            f"process {pid}"
            for pid in os.listdir("/proc")
            if pid.isdigit() and self.spaces & set(namespaces(pid).values())
        ]
        before = World(self.before.links, self.before.mounts, frozenset())
        return found + World.now().beyond(before, self.place)


def links(lab: Lab) -> set[str]:
    """The links that the lab sees."""
    return {
        link["ifname"] for link in json.loads(lab.host("ip -j link").out) if link["ifname"] != "lo"
    }


def pair(lab: Lab, *names: str) -> None:
    """Create guests on a segment: alice with 10.0.0.1, bob with 10.0.0.2..."""
    lab(["dumm-guest", "create", *names, "--start"])
    lab("dumm-bridge create lan0")
    for number, name in enumerate(names, 1):
        lab(f"dumm-iface create {name}-eth0 --bridge lan0 --address 10.0.0.{number}/24")


def sh(lab: Lab, guest: str, script: str, status: int = 0) -> str:
    """Run a script in a guest; return its output."""
    return lab(["dumm-guest", "exec", guest, "--", "sh", "-c", script], status=status).out


# ---- the whole session ----


@pytest.mark.parametrize("kind", KINDS)
def test_whole_session(people: People, kind: str) -> None:
    world = World.now()
    lab = people.lab(kind, "session")
    pair(lab, "alice", "bob")
    traces = Traces.of(lab)
    assert World.now().links == world.links
    assert World.now().mounts == world.mounts
    sh(lab, "alice", f"{PING} 10.0.0.2")
    hot_add_and_move(lab)
    files_both_ways(lab)

    lab("dumm-guest stop --all")
    assert [state_of(lab, name) for name in ("alice", "bob")] == ["stopped"] * 2
    assert links(lab) == {"lan0", "lan1"}
    lab("dumm-guest start --all")
    sh(lab, "alice", f"{PING} 10.0.0.2 && {PING} 10.0.1.2 && cat /root/back")

    lab("dumm-fs destroy")
    until(lambda: not traces.left(), f"left behind: {traces.left()}")
    assert sorted(p.name for p in lab.directory.iterdir()) == [".lock", "host"]


def hot_add_and_move(lab: Lab) -> None:
    ping = lab.start("dumm-guest exec alice -- ping -i 0.1 -c 15 10.0.0.2")
    lab("dumm-bridge create lan1")
    lab("dumm-iface create alice-eth1 --bridge lan1 --address 10.0.1.1/24")
    lab("dumm-iface create bob-eth1 --bridge lan1 --address 10.0.1.2/24")
    sh(lab, "alice", f"{PING} 10.0.1.2")
    out = ping.communicate(timeout=PATIENCE)[0].decode()
    assert "15 packets received, 0% packet loss" in out
    assert links(lab) == {"lan0", "lan1", *(f"{g}-eth{n}" for g in ("alice", "bob") for n in "01")}

    lab("dumm-bridge connect lan1 bob-eth0")
    sh(lab, "alice", "ping -c1 -W1 10.0.0.2", status=1)
    lab("dumm-bridge connect lan1 alice-eth0")
    sh(lab, "alice", f"{PING} 10.0.0.2")
    lab("dumm-bridge connect lan0 alice-eth0 bob-eth0")
    assert lab("dumm-bridge show lan1 -o members").out == "alice-eth1,bob-eth1\n"


def files_both_ways(lab: Lab) -> None:
    lab.host(["sh", "-c", "echo from the host >mount/alice/root/there"])
    assert sh(lab, "alice", "cat /root/there") == "from the host\n"
    sh(lab, "alice", "echo from the guest >/root/back")
    assert lab.host("cat mount/alice/root/back").out == "from the guest\n"
    assert lab.host("cat host/alice/root/back").out == "from the guest\n"
    master = Path(os.path.realpath(lab.directory / "master"))
    assert not (master / "root/back").exists()


# ---- the holder ----


@pytest.mark.parametrize("kind", USERS)
def test_killing_the_holder_ends_the_lab(people: People, kind: str) -> None:
    lab = people.lab(kind, "killed")
    pair(lab, "alice", "bob")
    traces = Traces.of(lab)
    guests = [pid_of(lab, name) for name in ("alice", "bob")]
    assert {f"process {pid}" for pid in guests} <= set(traces.left())
    os.kill(holder_of(lab), signal.SIGKILL)
    until(lambda: not traces.left(), f"left behind: {traces.left()}")
    assert lab("dumm-guest list -o name,state").lines == ["alice\tstopped", "bob\tstopped"]
    assert lab("dumm-guest is-running alice", status=1).out == ""
    assert lab("dumm-iface list -o name,state").lines == ["alice-eth0\tdown", "bob-eth0\tdown"]
    lab("dumm-guest start --all")
    assert links(lab) == {"lan0", "alice-eth0", "bob-eth0"}
    sh(lab, "alice", f"{PING} 10.0.0.2")


@pytest.mark.parametrize("kind", USERS)
def test_destroy_after_the_holder_is_gone(people: People, kind: str) -> None:
    lab = people.lab(kind, "orphan")
    pair(lab, "alice")
    sh(lab, "alice", "mkdir -m 700 /root/x; touch /root/x/y; chown -R 1000:33 /root/x; true")
    traces = Traces.of(lab)
    os.kill(holder_of(lab), signal.SIGKILL)
    until(lambda: not traces.left(), "the holder is there")
    lab("dumm-fs destroy")
    assert sorted(p.name for p in lab.directory.iterdir()) == [".lock", "host"]


def holders(lab: Lab) -> list[int]:
    """All processes that hold namespaces for a lab."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"hold" in words and os.fsencode(holder_file(lab)) in words:
            found.append(int(pid))
    return found


def test_racing_commands_make_one_holder(people: People) -> None:
    lab = people.lab(KINDS[0], "race")
    for turn in range(3):
        names = [f"br{turn}x{n}" for n in range(8)]
        started = [lab.start(f"dumm-bridge create {name}") for name in names]
        for each in started:
            out, err = each.communicate(timeout=PATIENCE)
            assert (each.returncode, out, err) == (0, b"", b"")
        assert links(lab) >= set(names)
        assert holders(lab) == [holder_of(lab)]
        os.kill(holder_of(lab), signal.SIGKILL)
        until(lambda: not holders(lab), "the holder is there")


def test_command_killed_while_it_makes_the_holder(people: People) -> None:
    lab = people.lab(KINDS[-2], "cut")
    lab("dumm-bridge create lan0")
    os.kill(holder_of(lab), signal.SIGKILL)
    for turn in range(25):
        command = lab.start("dumm-guest exec --host true")
        # Python takes the first moments to start.
        time.sleep(0.04 + turn * 0.004)
        command.kill()
        command.communicate()
        assert lab.host("echo yes").out == "yes\n"
        assert holders(lab) == [holder_of(lab)]
        os.kill(holder_of(lab), signal.SIGKILL)
        until(lambda: not holders(lab), "the holder is there")


@pytest.fixture
def careless() -> Iterator[None]:
    """Make orphans ours, and do not reap them until the end, like pid 1 of many a container."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def test_killed_holder_whose_orphans_are_not_reaped(careless: None, people: People) -> None:
    lab = people.lab(KINDS[-2], "unreaped")
    pair(lab, "alice")
    client = lab.start("dumm-guest exec --host -- sleep 1000")
    until(lambda: _child_of(client.pid), "sleep runs")
    client.kill()
    client.wait()
    old = holder_of(lab)
    os.kill(old, signal.SIGKILL)
    until(lambda: "mnt" not in namespaces(old), "the holder has its namespaces")
    # Pid 1 of a pid namespace exists as long as any other process in it.
    assert process.start_time(old, ending=True) is not None
    assert lab("dumm-guest list -o name,state").lines == ["alice\tstopped"]
    lab("dumm-guest start alice")
    assert holder_of(lab) != old
    assert links(lab) == {"lan0", "alice-eth0"}
    assert process.start_time(old, ending=True) is not None


# ---- several labs ----


@pytest.mark.root
def test_limit_of_processes_is_named(people: People) -> None:
    """A user may have fewer processes than a guest needs."""
    lab = people.lab("single", "few")
    lab("dumm-guest create a")
    refused = 0
    for limit in range(2, 9):
        starting = ["sh", "-c", f"ulimit -p {limit}; exec dumm-guest start a"]
        done = lab(starting, status=None)
        assert done.code in (0, 1)
        if done.code == 0:
            break
        refused += 1
        assert "cannot start " in one_line_error(done.err)
        assert "Resource temporarily unavailable" in done.err
        assert done.err.endswith("hint: the limit of processes is too low: ulimit -u\n")
        assert state_of(lab, "a") == "stopped"
    assert done.code == 0
    assert refused > 1


def test_two_labs_of_one_user(people: People) -> None:
    one, two = people.lab(KINDS[0], "one"), people.lab(KINDS[0], "two")
    both_at_once(one, two)


@pytest.mark.root
def test_labs_of_two_users(people: People) -> None:
    both_at_once(people.lab("range", "mine"), people.lab("single", "yours"))


def both_at_once(one: Lab, two: Lab) -> None:
    before = World.now()
    pair(one, "alice", "bob")
    pair(two, "alice", "bob")
    two("dumm-bridge create lan9")
    everything = {"lan0", "alice-eth0", "bob-eth0"}
    assert links(one) == everything
    assert links(two) == everything | {"lan9"}
    assert World.now().links == before.links
    mine, yours = namespaces(holder_of(one)), namespaces(holder_of(two))
    assert not set(mine.values()) & set(yours.values())
    for lab in (one, two):
        sh(lab, "alice", f"hostname >/root/here; {PING} 10.0.0.2")
    # Neither lab has the other's mounts and processes.
    there = two.directory / "mount/alice/root/here"
    assert one.host(["cat", there], status=1).out == ""
    assert str(two.directory / "mount") not in one.host("cat /proc/self/mountinfo").out
    one("dumm-fs destroy")
    sh(two, "alice", f"{PING} 10.0.0.2")


@pytest.mark.root
def test_user_cannot_enter_another_users_lab(people: People) -> None:
    mine = people.lab("range", "closed")
    mine("dumm-bridge create lan0")
    stranger = people.bare("single", "stranger")
    stranger.env["DUMM_DIR"] = str(mine.directory)
    assert stranger("dumm-bridge list -q", status=None).out == ""
    enter = ["nsenter", f"--target={holder_of(mine)}", "--user", "--net", "true"]
    # Either opening or entering the namespace fails, depending on how nsenter does it.
    refusal = stranger(enter, status=1).err
    assert "Permission denied" in refusal or "Operation not permitted" in refusal


# ---- the lab's host side ----


@pytest.mark.parametrize("kind", USERS)
def test_exec_on_the_host(people: People, kind: str) -> None:
    lab = people.lab(kind, "host")
    done = lab(
        ["dumm-guest", "exec", "--host", "--", "sh", "-c", "cat; echo e >&2; exit 7"],
        status=7,
        stdin=b"\0\xff" * 70_000,
    )
    assert (done.stdout, done.err) == (b"\0\xff" * 70_000, "e\n")
    assert lab.host(["sh", "-c", "kill -9 $$"], status=137).out == ""
    for name, status in (("no-such-program", 127), ("/etc/passwd", 126), ("/no/such", 127)):
        one_line_error(lab.host(name, status=status).err)
    assert lab.host("pwd").out.strip() == str(lab.directory)
    assert lab.host("id -u").out == "0\n"
    # Processes left behind by a command are in the lab's pid namespace, and end with it.
    inside = lab.host(["sh", "-c", "readlink /proc/self/ns/net"]).out.strip()
    assert inside == namespaces(holder_of(lab))["net"]


@pytest.mark.attack("mounted-modules")
@pytest.mark.parametrize("kind", USERS)
def test_extensions_imported_in_a_lab_are_the_hosts(people: People, kind: str) -> None:
    """And so are their libraries, whatever has been mounted there. With glibc 2.41, importing them
    hung unless malloc(3) returned zeros."""
    lab = people.lab(kind, "extensions")
    lab("dumm-bridge create lan0")
    code = """
import importlib, os, sys
from dumm_tools.linux import pinned
from dumm_tools.running import isolation
pinned.pin()
import mmap
assert isolation.enter(os.environ["DUMM_DIR"])
for name in ("_lzma", "resource", "termios"):
    importlib.import_module(name)
    assert os.getcwd() == os.environ["DUMM_DIR"]
for path in sys.argv[1:]:
    assert os.path.getsize(path) == 0, path
"""
    (lab.directory / "empty").touch()
    importlib.import_module("_lzma")
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    files = [path for path in loaded if "/liblzma.so" in path]
    files += [str(importlib.util.find_spec(name).origin) for name in ("_lzma", "termios")]  # type: ignore[union-attr]
    for file in files:
        lab.host(["mount", "--bind", lab.directory / "empty", file])
    lab([BIN / "python", "-c", code, *files], env={"MALLOC_PERTURB_": "165"}, timeout=60)


def test_only_looking_is_possible_from_inside(people: People) -> None:
    """Recorded pids name other processes there: the holder seemed to have ended."""
    lab = people.lab(KINDS[0], "inside")
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    assert lab.host("dumm-bridge list -q").lines == ["lan0"]
    for command in (
        "dumm-bridge create lan1",
        "dumm-bridge uplink lan0 --nat",
        "dumm-guest create a",
    ):
        assert "namespaces" in one_line_error(
            lab.host(command, status=4).err, tool=command.split()[0]
        )
    assert lab("dumm-bridge list -o name,state,uplink").lines == ["lan0\tup\t-"]
    assert lab("dumm-guest list -q").out == ""
    lab("dumm-guest create a")


def test_interrupting_exec_on_the_host(people: People) -> None:
    lab = people.lab(KINDS[0], "interrupted")
    script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    line = ["dumm-guest", "exec", "--host", "--", "sh", "-c", script]
    with on_terminal(lab, line) as terminal:
        terminal.expect(b"ready")
        terminal.type(b"\x03")
        terminal.expect(b"caught")
        assert terminal.wait() == 5
    with on_terminal(lab, ["dumm-guest", "exec", "--host", "--", "sleep", "100"]) as terminal:
        me = terminal.process.pid
        until(lambda: _child_of(me), "a child runs")
        child = int(Path(f"/proc/{me}/task/{me}/children").read_text().split()[0])
        until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", "sleep runs")
        terminal.type(b"\x03")
        assert terminal.wait() == 130


def _child_of(pid: int) -> bool:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text() != ""


def test_command_on_the_host_ends_with_its_client(people: People) -> None:
    lab = people.lab(KINDS[0], "terminated")
    lab("dumm-bridge create lan0")
    client = lab.start("dumm-guest exec --host -- sleep 1000")
    until(lambda: _child_of(client.pid), "sleep runs")
    child = int(Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text().split()[0])
    until(lambda: b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes(), "sleep runs")
    client.terminate()
    assert client.wait(PATIENCE) in (143, -signal.SIGTERM)
    until(lambda: not namespaces(child), "the command is gone")


@pytest.mark.parametrize("kind", USERS[:1])
def test_shell_on_the_host(people: People, kind: str) -> None:
    lab = people.lab(kind, "shell")
    lab("dumm-bridge create lan0")
    lab.env |= {"SHELL": "/bin/sh", "PS1": "> "}
    with on_terminal(lab, ["dumm-console", "shell", "--host"], size=(33, 99)) as terminal:
        terminal.type(b"tty; stty size; ip -br link; echo $((6*7))x; sleep 100\n")
        terminal.expect(b"/dev/pts/")
        terminal.expect(b"33 99")
        terminal.expect(b"lan0")
        terminal.expect(b"42x")

        def sleeps() -> bool:
            # Ctrl-C discards what was typed, and a shell at its prompt what it has read: it must
            # be pressed once, when it is sure to meet sleep.
            foreground = os.tcgetpgrp(terminal.master)
            return b"sleep" in Path(f"/proc/{foreground}/cmdline").read_bytes()

        until(sleeps, "sleep runs")
        terminal.type(b"\x03")
        terminal.expect(b"> ")
        terminal.type(b"echo again; exit 3\n")
        terminal.expect(b"\nagain")
        assert terminal.wait() == 3
        assert terminal.is_restored()


@pytest.mark.parametrize("kind", USERS)
def test_tcpdump_on_the_host(people: People, kind: str) -> None:
    """tcpdump drops root's groups, which a user with only one id may not do."""
    lab = people.lab(kind, "capture")
    pair(lab, "alice", "bob")
    lab.start("dumm-guest exec alice -- ping -i 0.05 10.0.0.2")
    for command in (
        "dumm-iface capture alice-eth0 -- -c 1 icmp",
        "dumm-bridge capture lan0 -- -c 1 icmp",
        "dumm-guest exec --host -- tcpdump -Z root -n -c 1 -i lan0 icmp",
    ):
        assert [" ICMP echo " in line for line in lab(command).lines] == [True]


# ---- owners of files ----


def outside(lab: Lab, uid: int) -> int:
    """The host's id for an id in a lab with a range of ids."""
    lines = Path(f"/proc/{holder_of(lab)}/uid_map").read_text().splitlines()
    for first, host, count in (map(int, line.split()) for line in lines):
        if first <= uid < first + count:
            return host + uid - first
    raise AssertionError(f"no {uid} in {lines}")


@pytest.mark.parametrize("kind", KINDS)
def test_owners_in_a_guest_and_on_the_host(people: People, kind: str) -> None:
    lab = people.lab(kind, "owners")
    lab("dumm-guest create alice --start")
    name = "root/file"
    if kind == "single":
        sh(lab, "alice", f"touch /{name}; ! chown 1000:33 /{name}")
        assert (lab.directory / "host/alice" / name).stat().st_uid == os.stat(lab.directory).st_uid
        return
    sh(lab, "alice", f"mkdir -m 700 /srv/closed; touch /{name} /srv/closed/x")
    sh(lab, "alice", f"chown 1000:33 /{name}; chown -R 1000:33 /srv/closed")
    assert sh(lab, "alice", f"stat -c %u:%g /{name}") == "1000:33\n"
    for side in ("mount", "host"):
        assert lab.host(f"stat -c %u:%g {side}/alice/{name}").out == "1000:33\n"
    if ROOT:
        found = (lab.directory / "host/alice" / name).stat()
        assert found.st_uid == outside(lab, 1000)
        assert (found.st_uid == 1000) == (kind == "root")
        if kind == "range":
            assert found.st_uid == people.user("range").first_id + 999
    lab("dumm-guest stop alice")
    lab("dumm-guest delete alice")
    assert list((lab.directory / "host").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_setuid_programs_in_a_guest(people: People, kind: str) -> None:
    lab = people.lab(kind, "setuid")
    lab("dumm-guest create alice --start")
    sh(lab, "alice", "chmod u+s /usr/bin/busybox")
    for command, wanted in (
        ("id -u", "1000\n"),
        ("su -c 'id -u'", "0\n"),
        ("ping -c1 127.0.0.1 >/dev/null && echo pong", "pong\n"),
    ):
        line = ["dumm-guest", "exec", "-u", "user", "alice", "--", "sh", "-c", command]
        assert lab(line).out == wanted


def archive(tree: Path) -> bytes:
    """A tar archive of a tree, as root would make it, with owners and a setuid program."""
    file = io.BytesIO()

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        if member.name == "./usr/bin/busybox":
            member.mode = 0o4755
        return member

    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(tree, ".", filter=owned)
        for name, mode, uid, kind in (
            ("./srv/private", 0o700, 1000, tarfile.DIRTYPE),
            ("./srv/private/note", 0o640, 1000, tarfile.REGTYPE),
            ("./dev/oddity", 0o600, 0, tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.mode, member.uid, member.gid, member.type = mode, uid, 33, kind
            tar.addfile(member)
    return file.getvalue()


@pytest.mark.parametrize("kind", USERS)
def test_master_from_a_tar_keeps_owners(people: People, kind: str) -> None:
    lab = people.lab(kind, "imported")
    busybox = Path(os.path.realpath(lab.directory / "master"))
    lab("dumm-fs master import - --name owned", stdin=archive(busybox))
    try:
        lab("dumm-guest create alice --master owned --start")
        who = "0:0" if kind == "single" else "1000:33"
        script = "stat -c '%u:%g %a' /srv/private/note /usr/bin/busybox; ls /dev/oddity"
        assert sh(lab, "alice", script, status=1).splitlines() == [f"{who} 640", "0:0 4755"]
        line = "dumm-guest exec -u user alice -- su -c"
        assert lab([*line.split(), "id -u"]).out == "0\n"
        read = "dumm-guest exec -u user alice -- cat /srv/private/note"
        lab(read, status=1 if kind == "single" else 0)
        one_line_error(lab("dumm-fs master delete owned", status=4).err, "dumm-fs")
        lab("dumm-guest stop alice")
        lab("dumm-guest delete alice")
    finally:
        lab("dumm-fs destroy")
        lab("dumm-fs master delete owned")
    assert "owned" not in lab("dumm-fs master list -q").lines


@pytest.mark.skipif(not Path(UML).exists(), reason="no UML kernel on the host")
@pytest.mark.parametrize("kind", USERS)
def test_helper_programs_run_for_an_isolated_lab(people: People, kind: str) -> None:
    """A command that has entered a lab cannot start threads."""
    lab = people.lab(kind, "programs")
    lab("dumm-bridge create lan0 --address 10.0.0.254/24")
    lab(f"dumm-guest create alice --kernel {UML} --start")
    assert "<svg" in lab("dumm-bridge graph --format svg").out
    busybox = Path(os.path.realpath(lab.directory / "master"))
    packed = subprocess.run(["zstd"], input=archive(busybox), capture_output=True, check=True)
    lab("dumm-fs master import - --name packed", stdin=packed.stdout)
    lab("dumm-fs master delete packed")


@pytest.mark.parametrize("kind", USERS)
def test_packs_and_images_from_elsewhere(people: People, kind: str, tmp_path: Path) -> None:
    """An exported pack and a container image on stdin, then a guest from the two."""
    lab = people.lab(kind, "elsewhere")
    again, app = f"again{os.getpid()}", f"app{os.getpid()}"  # in a cache that others use, too
    lab("dumm-guest create bob --start")  # the lab has been entered before
    exported = lab("dumm-fs kernel export sid -").stdout
    assert lab("dumm-fs kernel import -", status=4, stdin=exported).out == ""
    lab(f"dumm-fs kernel import - --name {again}", stdin=exported)
    busybox = Path(os.path.realpath(lab.directory / "master"))
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.add(busybox, ".")
    second = layer(
        Entry("etc/motd", "two"), Entry("etc/.wh.issue"), Entry("srv/mine", "x", uid=1000)
    )
    image = packed(oci(tmp_path / "image", [whole.getvalue(), second], gzip.compress))
    lab(f"dumm-fs master import - --name {app}", stdin=image.read_bytes())
    try:
        assert lab(f"dumm-fs master show {app} -o user").out == "www\n"
        lab(f"dumm-guest create alice --kernel {again} --master {app} --start")
        assert lab("dumm-guest exec alice -- cat /etc/motd").out == "two"
        owner = lab("dumm-guest exec alice -- stat -c %u /srv/mine").out
        assert owner == ("0\n" if kind == "single" else "1000\n")
        lab("dumm-guest stop alice")
        lab("dumm-guest delete alice")
    finally:
        lab(f"dumm-fs master delete --if-exists {app}", status=None)
        lab(f"dumm-fs kernel delete {again}", status=None)


# ---- the guest's process ----


@pytest.mark.root
def test_guests_on_the_hosts_network_are_in_user_namespaces(
    new_lab: Callable[..., Lab],
) -> None:
    lab = new_lab()
    lab("dumm-guest create alice bob --start")
    lab("dumm-iface create alice-eth0 --address 10.0.0.1/24")
    own = namespaces("self")
    found = [namespaces(pid_of(lab, name)) for name in ("alice", "bob")]
    for spaces in found:
        assert spaces["net"] == own["net"]
        for kind in ("user", "mnt", "pid", "ipc", "uts"):
            assert spaces[kind] != own[kind]
    assert found[0]["user"] != found[1]["user"]
    capabilities = Path(f"/proc/{pid_of(lab, 'alice')}/status").read_text()
    assert re.search(r"^NoNewPrivs:\t1$", capabilities, re.MULTILINE)


@pytest.mark.parametrize("kind", USERS)
def test_guest_process_has_namespaces_of_its_own(people: People, kind: str) -> None:
    lab = people.lab(kind, "apart")
    lab("dumm-guest create alice bob --start")
    held = namespaces(holder_of(lab))
    found = [namespaces(pid_of(lab, name)) for name in ("alice", "bob")]
    for spaces in found:
        assert spaces["net"] == held["net"]
        for each in ("user", "mnt", "pid", "ipc", "uts"):
            assert spaces[each] != held[each]
    assert not (set(found[0].values()) & set(found[1].values())) - {held["net"]}


# ---- what a host lacks ----


def checked(lab: Lab, status: int, before: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """The results of `check` by name; text and JSON must agree."""
    done = lab([*before, "dumm-fs", "check", "--format", "json"], status=status)
    found = {record["name"]: record for record in json.loads(done.out)}
    text = lab([*before, "dumm-fs", "check"], status=status)
    wanted = [f"{c['name']}: {c['found']}; {c['remedy']}" for c in found.values() if c["remedy"]]
    assert (text.lines, text.err) == (wanted, "")
    assert all((c["remedy"] is None) == (c["state"] == "ok") for c in found.values())
    assert status == any(c["state"] == "missing" for c in found.values())
    return found


@pytest.mark.parametrize("kind", USERS)
def test_check_on_a_complete_host(people: People, kind: str) -> None:
    lab = people.bare(kind, "check")
    if kind == "root":
        lab("dumm-fs init --isolated")
    found = checked(lab, 0)
    everything = "agent namespaces ids files tun shm overlay kernel master"
    programs = "gcc tcpdump nft pasta dot mmdebstrap apt-get toolchain"
    assert list(found) == [*everything.split(), *programs.split()]
    assert found["namespaces"]["state"] == found["overlay"]["state"] == "ok"
    if kind != "single":
        assert found["ids"]["state"] == "ok"
    elif ROOT:
        assert found["ids"]["state"] == "absent"
        assert found["ids"]["found"] == "no newuidmap: all files in guests belong to root"
        assert found["ids"]["remedy"] == "apt-get install uidmap"


@pytest.mark.netns
@pytest.mark.root
def test_check_of_a_lab_on_the_hosts_network(lab: Lab, tmp_path: Path) -> None:
    """There it also concerns what the host's kernel does with segments."""
    found = checked(lab, 0)
    assert found["filters"]["state"] == found["nft"]["state"] == "ok"
    settings = sorted(Path("/proc/sys/net/bridge").glob("bridge-nf-call-*tables"))
    for path in settings:
        path.write_text("0")
    assert checked(lab, 0)["br_netfilter"]["state"] == "ok"
    for path in settings:
        path.write_text("1")
        seen = checked(lab, 0)["br_netfilter"]
        assert seen["state"] == "absent"
        assert f"sysctl -w net.bridge.{path.name}=0, or" in seen["remedy"]
        path.write_text("0")

    nft = tmp_path / "bin/nft"
    nft.parent.mkdir()
    nft.write_text("#!/bin/sh\necho 'Error: Operation not supported' >&2; exit 1\n")
    nft.chmod(0o755)
    lab.env["PATH"] = f"{nft.parent}:{lab.env['PATH']}"
    seen = checked(lab, 0)["nft"]
    assert (seen["state"], seen["remedy"].split()[0]) == ("absent", "modprobe")


@pytest.fixture
def poor(packs: Path) -> Iterator[Callable[..., Lab]]:
    """Make users whose host lacks something (users.User), each with a directory."""
    users: list[User] = []

    def make(**lacks: object) -> Lab:
        users.append(User(50 + len(users), packs, **lacks))  # type: ignore[arg-type]
        return users[-1].lab("poor")

    yield make
    for user in users:
        user.end()


@pytest.mark.root
@pytest.mark.parametrize(
    ("lacks", "name", "state", "says", "remedy"),
    [
        ({"tun": None}, "tun", "missing", "no /dev/net/tun", "modprobe tun"),
        ({"tun": "600"}, "tun", "missing", "Permission denied", "chmod 0666 /dev/net/tun"),
        ({"ids": False}, "ids", "absent", "no ids for this user", "usermod --add-subuids"),
        ({"without": ["newgidmap"]}, "ids", "absent", "no newuidmap", "apt-get install uidmap"),
        ({"without": ["gcc"]}, "gcc", "absent", "no gcc", "apt-get install gcc libc6-dev"),
        ({"without": ["tcpdump"]}, "tcpdump", "absent", "no tcpdump", "apt-get install tcpdump"),
        ({"packs": False}, "kernel", "missing", "no kernel", "dumm-fs kernel fetch"),
        ({}, "master", "missing", "no master", "dumm-fs master build busybox"),
    ],
)
def test_check_on_a_host_that_lacks_something(
    poor: Callable[..., Lab],
    lacks: dict[str, object],
    name: str,
    state: str,
    says: str,
    remedy: str,
) -> None:
    lab = poor(**lacks)
    if name != "master":
        lab("dumm-fs master build busybox")
    found = checked(lab, state == "missing")
    # Programs that only some features need may be absent anyway.
    others = {n for n, c in found.items() if c["state"] != "ok"} - {name}
    assert not [n for n in others if found[n]["state"] == "missing" or shutil.which(n)]
    assert found[name]["state"] == state
    assert says in found[name]["found"]
    assert remedy in found[name]["remedy"]


@pytest.mark.parametrize("kind", USERS)
def test_check_without_user_namespaces(people: People, kind: str) -> None:
    lab = people.lab(kind, "forbidden")
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    who = "--map-root-user" if kind == "root" else "--map-current-user"
    before = ["unshare", "--user", who, "--keep-caps", "sh", "-c", script, "sh"]
    found = checked(lab, 1, before)["namespaces"]
    assert (found["state"], found["found"]) == ("missing", "No space left on device")
    assert found["remedy"] == "allow user namespaces: sysctl user.max_user_namespaces=100000"
    done = lab([*before, "dumm-bridge", "create", "lan0"], status=1)
    assert "cannot make the lab's namespaces" in one_line_error(done.err, "dumm-bridge")
    assert "dumm-fs check" in done.err


@pytest.mark.parametrize(
    ("file", "value", "remedy"),
    [
        ("unprivileged_userns_clone", 0, "sysctl kernel.unprivileged_userns_clone=1"),
        ("unprivileged_userns_clone", 1, "sysctl user.max_user_namespaces=100000"),
        (
            "apparmor_restrict_unprivileged_userns",
            1,
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile",
        ),
        ("apparmor_restrict_unprivileged_userns", 0, "sysctl user.max_user_namespaces=100000"),
    ],
)
def test_check_names_what_forbids_user_namespaces(
    people: People, file: str, value: int, remedy: str
) -> None:
    """Files of Debian's or Ubuntu's kernel, which this kernel may lack, are mounted over /proc."""
    lab = people.bare(USERS[-1], "forbidding")
    script = (
        "mount -t tmpfs none /proc/sys/kernel && "
        f"echo {value} >/proc/sys/kernel/{file} && "
        'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    )
    who = ["--mount", "--map-current-user", "--keep-caps"]
    found = checked(lab, 1, ["unshare", "--user", *who, "sh", "-c", script, "sh"])["namespaces"]
    assert found["state"] == "missing"
    assert remedy in found["remedy"]


@pytest.mark.root
@pytest.mark.parametrize(
    ("lacks", "fuse"),
    [({}, True), ({"without": ["fuse-overlayfs"]}, False), ({"fuse": "600"}, False)],
    ids=["fuse", "no-program", "no-device"],
)
def test_working_set_on_a_file_system_without_overlays(
    poor: Callable[..., Lab], tmp_path: Path, lacks: dict[str, object], fuse: bool
) -> None:
    """The working set is on an overlay, as in a container; the kernel cannot mount another one
    there."""
    lab = poor(**lacks)
    lab("dumm-fs master build busybox")
    for name in "luw":
        (tmp_path / name).mkdir(mode=0o755)
    os.chown(tmp_path / "u", lab.directory.stat().st_uid, -1)
    options = f"lowerdir={tmp_path}/l,upperdir={tmp_path}/u,workdir={tmp_path}/w"
    mount = ["mount", "-t", "overlay", "none", str(lab.directory), "-o", options]
    subprocess.run([*lab.prefix[:2], *mount], check=True)
    found = checked(lab, not fuse)["overlay"]
    assert found["state"] == ("absent" if fuse else "missing")
    assert found["found"].startswith("overlayfs: Invalid argument")
    assert ("fuse-overlayfs will be used" in found["found"]) == fuse
    assert "keep the working set on ext4" in found["remedy"]
    lab("dumm-fs init")
    if fuse:
        lab("dumm-guest create alice --start")
        assert sh(lab, "alice", "echo x >/root/x; cat /root/x") == "x\n"
        assert "fuse-overlayfs" in lab.host("cat /proc/mounts").out
    else:
        done = lab("dumm-guest create alice", status=1)
        assert "Invalid argument" in one_line_error(done.err)
        assert "dumm-fs check" in done.err
        assert lab("dumm-guest list -q").out == ""
    lab("dumm-fs destroy")  # hidden from the fixtures
