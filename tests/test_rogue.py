"""The jail: a program that replaces the guest's kernel tries to attack the host.

tests/rogue.c makes the attempts, and man/jail-attempts.inc lists them. Each must have been made,
and each must have failed, in every kind of lab. The same program outside a jail shows that they
would succeed there.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import BIN, PATIENCE, ROOT
from support.host import scopes_sockets
from support.masters import cache_home
from support.programs import compiled
from support.users import User

from dumm_tools.guests import limits
from dumm_tools.linux import mount

TOP = Path(__file__).resolve().parent.parent
TABLE = TOP / "man" / "jail-attempts.inc"
MEMORY = 64 << 20

pytestmark = pytest.mark.uml


def listed() -> set[str]:
    """The attempts that the manual lists."""
    text = TABLE.read_text().replace("\\-", "-")
    return set(re.findall(r"^\.TP\n\.B (\S+)$", text, re.MULTILINE))


# ---- the labs and their owners ----


@dataclass(frozen=True)
class Owner:
    """A user with a place for a lab, and the prefix that runs a command as that user."""

    place: Path
    kind: str
    run_as: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def command(self, *argv: str) -> tuple[str, ...]:
        return (*self.run_as, *argv)

    def __call__(self, *argv: str, status: int | None = 0) -> str:
        done = subprocess.run(
            self.command(*argv),
            env=self.env,
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE,
        )
        assert status is None or done.returncode == status, (argv, done.stdout, done.stderr)
        return done.stdout


def _is_host_root() -> bool:
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] == "4294967295"


#: Root makes up its ordinary users; an ordinary user has what this host gives them.
KINDS = ("root", "root-isolated", "user-range", "user-single") if ROOT else ("user",)
#: Whether a guest's kernel passes descriptors to its processes, as recent ones do: there each guest
#: has a user of its own.
PASSING = {"root", "user-range"}


@pytest.fixture(params=KINDS)
def owner(request: pytest.FixtureRequest, rogue: Path) -> Iterator[Owner]:
    kind = str(request.param)
    # pytest's own directories are closed to other users.
    place = Path(tempfile.mkdtemp(prefix="dumm-rogue-"))
    try:
        with contextlib.ExitStack() as stack:
            run_as: tuple[str, ...] = ()
            if kind.startswith("user-"):
                user = User(90, cache_home(), ids=kind == "user-range", packs=False)
                stack.callback(user.end)
                run_as = tuple(user.prefix(place))
            for name in ("pack/usr/bin", "master/tmp", "home"):
                (place / name).mkdir(parents=True)
            (place / "home" / "secret").write_text("secret")
            shutil.copy(rogue, place / "pack/usr/bin/linux.uml")
            if kind != "root-isolated":
                (place / "pack/pack.json").write_text('{"release": "7.2.0"}')
            made = Owner(
                place,
                kind,
                run_as,
                {
                    **{k: v for k, v in os.environ.items() if not k.startswith(("DUMM_", "XDG_"))},
                    "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin",
                    "HOME": str(place / "home"),
                    "DUMM_DIR": str(place / "lab"),
                },
            )
            if run_as:
                for path in (place, *place.rglob("*")):
                    os.chown(path, user.uid, user.uid)
            yield made
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="session")
def rogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    return compiled("rogue.c", tmp_path_factory.mktemp("rogue") / "rogue")


# ---- targets on the host ----


@dataclass
class Prey:
    """Sockets and a process on the host."""

    tcp: socket.socket
    stream: socket.socket
    datagram: socket.socket
    process: subprocess.Popen[bytes]

    @property
    def arguments(self) -> list[str]:
        return [
            f"rogue.port={self.tcp.getsockname()[1]}",
            f"rogue.stream={self.stream.getsockname()[1:].decode()}",
            f"rogue.datagram={self.datagram.getsockname()[1:].decode()}",
        ]

    def reached(self) -> list[str]:
        """The attempts that succeeded."""
        found = []
        for name in ("tcp", "stream"):
            with contextlib.suppress(BlockingIOError):
                getattr(self, name).accept()
                found.append(name)
        with contextlib.suppress(BlockingIOError):
            self.datagram.recv(1)
            found.append("datagram")
        if self.process.poll() is not None:
            found.append("process")
        return found


@pytest.fixture
def prey() -> Iterator[Prey]:
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.socket(socket.AF_INET))
        tcp.bind(("127.0.0.1", 0))
        stream = stack.enter_context(socket.socket(socket.AF_UNIX))
        datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        for each in (stream, datagram):
            each.bind("")
        for each in (tcp, stream):
            each.listen()
        for each in (tcp, stream, datagram):
            each.setblocking(False)
        with subprocess.Popen(["sleep", "1000"]) as process:
            yield Prey(tcp, stream, datagram, process)
            process.kill()


def verdicts(text: str) -> dict[str, str]:
    """The result of each attempt."""
    return dict(re.findall(r"^([a-z0-9-]+): ((?:failed|SUCCEEDED|not tried).*)$", text, re.M))


# ---- the tests ----


def not_stopped(kind: str) -> set[str]:
    """The attempts that nothing prevents there, according to the manual."""
    found = set()
    if kind == "user-single":
        found.add("tap-idle")  # one group only: nothing separates the guests of a lab
    if kind in PASSING or kind == "user":
        found.add("in-flight")  # they belong to the guest itself
    if kind == "root" and not scopes_sockets():
        found.add("unix-datagram")  # abstract sockets belong to the network namespace
    return found


def test_rogue_kernel_reaches_nothing(owner: Owner, prey: Prey) -> None:
    place, lab = owner.place, owner.place / "lab"
    isolation = {"root": "--host-net", "root-isolated": "--isolated"}.get(owner.kind)
    owner(
        *("dumm-fs", "init", "--kernel", str(place / "pack"), "--master", str(place / "master")),
        *([isolation] if isolation else []),
    )
    allowance = MEMORY + limits.MEMORY_OVERHEAD + limits.PROCESS_DATA
    told = {
        "victim": ["rogue.role=victim", "rogue.own=victim-eth0"],
        "late": [
            "rogue.role=victim",
            "rogue.flood=1",
            f"rogue.passing={int(owner.kind in PASSING)}",
        ],
        "rogue": [
            "rogue.own=rogue-eth0",
            "rogue.tap=victim-eth0",
            "rogue.idle=victim-eth1",
            f"rogue.home={place / 'home'}",
            f"rogue.run={lab / 'run/victim'}",
            f"rogue.tree={lab / 'mount/victim'}",
            f"rogue.memory={allowance}",
            # The name that the host's commands use for the mconsole, made a trap.
            f"rogue.trap={'m' if owner.kind in ('root', 'user-range') else 'mconsole'}",
            # The limit of a pid namespace applies to pids from 300 on.
            f"rogue.processes={limits.processes(MEMORY) + 300}",
            *prey.arguments,
        ],
    }
    try:
        if owner.run_as:
            ids = owner("dumm-guest", "exec", "--host", "--", "cat", "/proc/self/gid_map")
            assert len(ids.splitlines()) == (2 if owner.kind == "user-range" else 1)
        for name, arguments in told.items():
            words = [word for argument in arguments for word in ("--arg", argument)]
            owner("dumm-guest", "create", name, "--memory", "64M", *words)
        owner("dumm-iface", "create", "victim-eth0", "victim-eth1", "rogue-eth0")
        owner("dumm-guest", "start", "victim", "--no-wait")
        _wait_for(lab / "run/victim/console.log", "victim: ")
        owner("dumm-guest", "start", "rogue", "--no-wait")
        log = _wait_for(lab / "run/rogue/console.log", "done")
        found = verdicts(log)
        assert set(found) == listed()
        got = {name: text for name, text in found.items() if not text.startswith("failed")}
        assert set(got) <= not_stopped(owner.kind), got
        assert not set(prey.reached()) - ({"datagram"} & {n[5:] for n in got}), log
        assert "traps: laid" in log
        assert "taken: timers until EAGAIN" in log
        owner("timeout", "1", "true")
        owner("python3", "-c", PASS_DESCRIPTORS)
        owner("dumm-guest", "start", "late", "--no-wait")
        text = _wait_for(lab / "run/late/console.log", "victim: ")
        assert "victim: ready" in text
        _look_at_the_logs(lab, text)
        _look_from_the_host(owner, lab)
        _look_at_the_process(lab, owner)
    finally:
        owner("dumm-guest", "stop", "--all", "--kill", status=None)
        owner("dumm-fs", "destroy")
    # Files that the rogue left in its tree belong to the user.
    if owner.run_as:
        subprocess.run(["rm", "-rf", str(lab)], check=True, timeout=PATIENCE)


def _wait_for(path: Path, text: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        log = path.read_text(errors="replace") if path.exists() else ""
        if re.search(f"^{text}", log, re.MULTILINE):
            return log
        time.sleep(0.05)
    raise AssertionError(f"no '{text}' in {path}: {log}")


def _look_from_the_host(owner: Owner, lab: Path) -> None:
    """Run the host's commands on what the rogue has made of its run directory and its tree."""
    assert "victim: ready" in (lab / "run/victim/console.log").read_text()
    states = owner("dumm-guest", "list", "-o", "name,state").split()
    assert states == ["late", "starting", "rogue", "starting", "victim", "starting"]
    owner("dumm-guest", "mconsole", "rogue", "--", "version", status=4)
    owner("dumm-guest", "exec", "rogue", "--", "true", status=125)
    # Clearing the run directory for the next start does not follow the rogue's links either.
    owner("dumm-guest", "stop", "rogue", "--kill")
    owner("dumm-guest", "start", "rogue", "--no-wait")
    owner("dumm-guest", "pause", "rogue", status=4)
    assert (lab / "run/victim/uml/m/mconsole").is_socket()
    assert "got a message" not in (lab / "run/victim/console.log").read_text()
    if owner.kind == "root":
        flags = os.statvfs(lab / "mount/rogue").f_flag
        assert flags & os.ST_NOSUID
        assert flags & mount.MS_NODEV
    else:
        mounts = owner("dumm-guest", "exec", "--host", "--", "cat", "/proc/self/mounts")
        options = next(
            line.split()[3].split(",")
            for line in mounts.splitlines()
            if line.split()[1] == str(lab / "mount/rogue")
        )
        assert {"nosuid", "nodev"} <= set(options)
    # These directories contain setuid files, too, on the host's own file system.
    for name in ("host", "run", "mount"):
        assert (lab / name).stat().st_mode & 0o077 == 0


#: As an ordinary program would, with its usual limit.
PASS_DESCRIPTORS = """
import array, resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
one, two = socket.socketpair()
socket.send_fds(one, [b"x"], [0])
assert len(socket.recv_fds(two, 1, 1)[1]) == 1
"""


def _look_at_the_logs(lab: Path, text: str) -> None:
    """Check that endless output takes no more space than a log may have, and that its end is
    complete."""
    head, *lines = text.splitlines()
    gone = re.fullmatch(r"\[(\d+) bytes before this are gone\]", head)
    assert gone
    first = int(gone[1]) // 13  # of lines of 13 bytes each
    flood = [line for line in lines if line.startswith("flood ")]
    assert flood == [f"flood {number:06}" for number in range(first, 1_000_000)]
    for name in ("rogue", "victim", "late"):
        st = (lab / "run" / name / "console.log").stat()
        assert st.st_mode & 0o7777 == 0o600
        assert st.st_size <= 4 << 20
        for line in (lab / "run" / name).glob("*.in"):
            assert line.stat().st_mode & 0o7777 == 0o600


def _look_at_the_process(lab: Path, owner: Owner) -> None:
    """Check that the rogue still exists, with as few rights as before."""
    pid = int((lab / "run/rogue/pid").read_text().split()[0])
    if owner.kind != "root":
        return  # the pid may be one in the lab's own namespace
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0b11011
    release = tuple(int(n) for n in platform.release().split(".")[:2])
    assert status["NoNewPrivs"] == str(int(release >= (6, 18)))
    assert status["Seccomp"] == "2"
    real, *others = map(int, status["Uid"].split())
    assert real
    assert others == [0, 0, 0]
    own = Path("/proc/self")
    for kind in ("user", "mnt", "pid", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(own / "ns" / kind)


#: Attempts that may fail for root even outside a jail: there is no such module, device or terminal,
#: or the host's kernel does not support them, or the tests run in a container.
NO_CONTROL = {
    *("umount", "setns", "ambient", "tiocsti", "modules", "kexec", "iopl", "swapon", "settime"),
    *("device-open", "net-other", "net-tcp6", "perf", "bpf", "userfaultfd", "io-uring", "keyrings"),
    *("quotactl", "other-abi", "syslog", "acct", "reboot", "memory-huge"),
}


@pytest.mark.root
def test_attempts_succeed_without_a_jail(rogue: Path, prey: Prey, tmp_path: Path) -> None:
    """The positive control; attempts may fail that the host does not support, or its own container
    forbids."""
    if not _is_host_root():
        pytest.skip("root is what the guest's kernel might be")
    run, home = tmp_path / "run/victim", tmp_path / "home"
    for directory in (run / "uml/m", home):
        directory.mkdir(parents=True)
    os.mkfifo(run / "line0.in")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mconsole,
        (tmp_path / "lock").open("w") as lock,
    ):
        top = os.open(tmp_path, os.O_RDONLY)
        here = os.getcwd()
        os.chdir(run)
        mconsole.bind("uml/m/mconsole")
        os.chdir(here)
        words = [
            f"rogue.home={home}",
            f"rogue.run={run}",
            f"rogue.tree={home}",
            "rogue.own=rogue-own0",
            "rogue.tap=rogue-tap0",
            "rogue.idle=rogue-tap1",
            f"rogue.memory={8 << 20}",
            "rogue.processes=100",
            *prey.arguments,
        ]
        # Mounts, a host name and shared memory of its own to change.
        done = subprocess.run(
            ["unshare", "--mount", "--uts", "--ipc", rogue, "rogue.role=control", *words],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
            pass_fds=(lock.fileno(), top),
        )
        os.close(top)
    found = verdicts(done.stdout)
    assert set(found) == listed()
    failed = {n: text for n, text in found.items() if not text.startswith("SUCCEEDED")}
    assert set(failed) <= NO_CONTROL, failed
    assert len(failed) < len(found) / 4
