"""The session's own world, the kernels and the master that guests run, and labs to use them in.

Tests marked `net` run first, in the host's network. Before the first other test this very
process moves to a network and mount namespace of its own, where links and mounts harm nobody
and vanish at the end: nothing has to be run under unshare(1), and one pytest does it all.
With `-n` several processes (pytest-xdist's workers) share the tests, each in its own namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import importlib.metadata
import os
import platform
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dumm_tools.linux import mount

TOP = Path(__file__).resolve().parent.parent
#: Where the commands under test are installed.
BIN = Path(sysconfig.get_path("scripts"))
#: The kernels that guests are tested with: UML 7.x, 6.12 and 6.1.
SUITES = ("sid", "trixie", "bookworm")
#: Seconds after which what a test waits for counts as hung. How quick it is, no test says: the
#: machine may be busy with other things.
PATIENCE = 300.0

STRICT = os.environ.get("DUMM_TEST_STRICT") == "1"
#: Is it root who runs the tests? In the session's namespace anybody is.
ROOT = os.geteuid() == 0


# ---- the session ----

_before = pytest.StashKey["World"]()
_failed = pytest.StashKey[bool]()
_no_namespace = pytest.StashKey[str]()


def pytest_configure() -> None:
    """A shell starts what is to run in the background with Ctrl-C ignored, and so would be all
    that we start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is tested with what."""

    def first_line(*argv: str) -> str:
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
        except OSError:
            return f"no {argv[0]}"
        return (done.stdout or done.stderr).partition("\n")[0]

    packages = ("click", "pyroute2", "sh", "tabulate")
    return [
        f"host: {platform.platform()}, uid {os.geteuid()}, {os.cpu_count()} cpus",
        "packages: " + ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages),
        f"compiler: {first_line(os.environ.get('CC', 'gcc'), '--version')}",
        f"tools: {first_line('unshare', '--version')}, {first_line('tcpdump', '--version')}",
        f"strict: {'yes, a skip is a failure' if STRICT else 'no'}; cache: {cache_home()}",
    ]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Leave a chroot, where the kernel makes no user namespaces, before the first lab with one:
    tests of the host's network have such labs, too."""
    if ROOT and not session.config.option.collectonly:
        with contextlib.suppress(OSError):  # the tests that need it say so themselves
            _call("unshare", _CLONE_NEWNS)
            _make_mounts_private()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto`: as many processes as keep the processors busy, for tests wait for much of their
    time. One file needs none; nor can there be any where an ordinary user makes namespaces, which
    a process with threads may not, as all workers are."""
    one = len(config.args) == 1 and not Path(config.args[0].partition("::")[0]).is_dir()
    return 0 if one or not ROOT else len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what needs the host's network first: there is no way back from the namespace. Leave
    out what is for the others: marked `root` for all but root. Mark what needs kernel packs.

    Tests that share what takes long to make, by a fixture of their module's, go to one worker; the
    others to any, and last, so that the workers end at the same time.
    """
    for item in items:
        if "packs" in getattr(item, "fixturenames", ()):
            item.add_marker("packs")
    if not ROOT:
        others = [item for item in items if item.get_closest_marker("root")]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    for item in items:
        if item.get_closest_marker("net"):
            item.add_marker(pytest.mark.xdist_group("net"))
    items.sort(key=lambda item: (_turn(item), item.get_closest_marker("xdist_group") is None))


def _turn(item: pytest.Item) -> int:
    if item.get_closest_marker("net"):
        return 0
    # An ordinary user's labs have namespaces of their own, and these are to be tested: not some
    # within those where the session is root.
    return 1 if ROOT or not item.get_closest_marker("netns") else 2


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch what guests need while there still is a network."""
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if not session.config.option.collectonly:
        with _alone():
            if "packs" in needed:
                _prepare(session.config, PACKS)
            if "example_masters" in needed:
                _prepare(session.config, EXAMPLE_MASTERS)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Of all workers one does this, and the others find it done."""
    cache_home().mkdir(parents=True, exist_ok=True)
    with (cache_home() / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Enter the namespace before the first test that is to run there."""
    stash = item.config.stash
    if _turn(item) != (1 if ROOT else 2):
        return
    if _before not in stash and _no_namespace not in stash:
        try:
            _isolate()
            stash[_before] = World.now()
        except OSError as e:
            stash[_no_namespace] = str(e)
    if _no_namespace in stash and any(item.get_closest_marker(m) for m in ("netns", "uml")):
        pytest.skip(f"no namespace of our own here: {stash[_no_namespace]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skip a failure when DUMM_TEST_STRICT=1; remember failures for the lab."""
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although DUMM_TEST_STRICT=1: {report.longrepr}"
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(scope="session", autouse=True)
def _nothing_left(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No link, no mount and no process is left of all that the session did."""
    pids = World.now().pids
    yield
    now = World.now()
    # Of the host's own network, before there is a namespace, others may make use too.
    before = pytestconfig.stash.get(_before, now)
    left = now.beyond(World(before.links, before.mounts, pids), tmp_path_factory.getbasetemp())
    assert not left, "the session left things behind: " + "; ".join(left)


# ---- the namespace ----

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000  # linux/sched.h
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18  # linux/mount.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h


def _isolate() -> None:
    """Move this process to new network and mount namespaces with /sys and lo of their own."""
    if os.geteuid() == 0:
        _call("unshare", _CLONE_NEWNET | _CLONE_NEWNS)
    else:
        _become_root(_CLONE_NEWNET | _CLONE_NEWNS)
    _make_mounts_private()
    # sysfs shows the network namespace that it was mounted in. Control groups stay where they were.
    groups = mount.clone_tree("/sys/fs/cgroup", recursive=True)
    mount.mount("sysfs", "/sys", "sysfs", 0, "")
    mount.attach(groups, "/sys/fs/cgroup")
    os.close(groups)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16xh", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _make_mounts_private() -> None:
    """Keep our mounts from the namespace that we came from."""
    if ROOT and _chrooted():
        _leave_chroot()
    else:
        mount.mount("none", "/", "none", _MS_REC | _MS_PRIVATE, "")


def _chrooted() -> bool:
    """Are we in a chroot(2)? There the kernel makes no user namespace, for root either."""
    pid = os.fork()
    if pid == 0:
        try:
            _call("unshare", _CLONE_NEWUSER)
        except OSError as e:
            os._exit(e.errno == errno.EPERM)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def _leave_chroot() -> None:
    """Make our root directory, which is no mount but was given to chroot(2), that of the namespace.

    In a chroot the kernel makes no user namespaces, which jails and ordinary users' labs are.
    """
    root, here = os.open("/", os.O_PATH), os.getcwd()
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    # Entering the mount namespace that we are in makes its root ours (setns(2)).
    _call("setns", namespace, _CLONE_NEWNS)
    mount.mount("none", "/", "none", _MS_REC | _MS_PRIVATE, "")
    os.fchdir(root)
    mount.mount(".", ".", "none", _MS_BIND | _MS_REC, "")
    os.chdir(os.getcwd())  # into the mount
    # pivot_root(2), "pivot_root(".", ".")": the old root ends up under the new one, and goes.
    _call("pivot_root", b".", b".")
    mount.umount(".", detach=True)
    os.chdir(here)
    os.close(root)
    os.close(namespace)


def _call(name: str, *arguments: int | bytes) -> None:
    """A function of the C library that Python 3.11 has not."""
    libc = ctypes.CDLL("libc.so.6", use_errno=True)
    if getattr(libc, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)


def _become_root(flags: int) -> None:
    """Enter a user namespace as its root: with the ids of /etc/subuid, else with ours alone."""
    own = {"uid": os.geteuid(), "gid": os.getegid()}
    maps = []
    for kind in own:
        line = _granted(f"/etc/sub{kind}", os.getuid())
        maps.append(
            shlex.join([f"new{kind}map", str(os.getpid()), "0", str(own[kind]), "1", *line])
        )
    # These maps can only be written from outside, by a process that was started before.
    script = f"read -r _ && {maps[0]} && {maps[1]}"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, text=True) as outside:
        _call("unshare", _CLONE_NEWUSER | flags)
        outside.communicate("go\n", timeout=10)
    if outside.returncode:
        Path("/proc/self/setgroups").write_text("deny")
        for kind in own:
            Path(f"/proc/self/{kind}_map").write_text(f"0 {own[kind]} 1")


def _granted(path: str, uid: int) -> list[str]:
    """The arguments of newuidmap(1) for the ids that `path` grants us, from 1 on."""
    import pwd

    names = {str(uid), pwd.getpwuid(uid).pw_name}
    for line in Path(path).read_text().splitlines():
        user, start, count = line.split(":")
        if user in names:
            return ["1", start, count]
    return []


# ---- what is there, and what is left ----


@dataclass(frozen=True)
class World:
    """The links, mounts and processes of a moment."""

    links: frozenset[str]
    mounts: frozenset[str]
    pids: frozenset[int]

    @classmethod
    def now(cls) -> World:
        """Look at this process's namespaces."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = frozenset(line.split(" ")[4] for line in file)
        return cls(
            frozenset(os.listdir("/sys/class/net")),
            mounts,
            frozenset(int(entry) for entry in os.listdir("/proc") if entry.isdigit()),
        )

    def beyond(self, before: World, place: Path) -> list[str]:
        """What is there now and was not before; of processes, those that use `place`."""
        found = [f"link {name}" for name in sorted(self.links - before.links)]
        found += [f"mount {name}" for name in sorted(self.mounts - before.mounts)]
        for pid in sorted(self.pids - before.pids - {os.getpid()}):
            use = use_of(pid, str(place))
            if use:
                found.append(f"process {pid} ({use})")
        return found


def use_of(pid: int, place: str) -> str | None:
    """How a process uses a directory; None when it does not, or is gone."""
    proc = f"/proc/{pid}"
    try:
        with open(f"{proc}/cmdline", "rb") as file:
            command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        if place in command:
            return command
        links = [
            f"{proc}/cwd",
            f"{proc}/root",
            *(f"{proc}/fd/{n}" for n in os.listdir(f"{proc}/fd")),
        ]
    except OSError:
        return None
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith(place):
            return f"{command}: {link} -> {target}"
    return None


# ---- kernels and masters ----


def cache_home() -> Path:
    """Where the session's kernel packs and masters are kept from run to run."""
    return Path(os.environ.get("DUMM_TEST_CACHE") or TOP / ".cache-tests")


PACKS = [
    *(f"dumm-fs kernel fetch --suite {s} --name {s} --may-exist" for s in SUITES),
    "dumm-fs master build busybox --may-exist",
]
#: What examples/*.sh have themselves built where it is missing, word for word.
EXAMPLE_MASTERS = [
    "dumm-fs master build debian --name strongswan --may-exist"
    " --include strongswan-swanctl,strongswan-charon",
    "dumm-fs master build debian --name frr --may-exist --include frr",
]


def _prepare(config: pytest.Config, commands: Sequence[str]) -> None:
    # Tests need a kernel, not a recent one: a mirror that was frozen does.
    env = {**os.environ, "XDG_CACHE_HOME": str(cache_home()), "DUMM_ALLOW_EXPIRED": "1"}
    for argv in map(str.split, commands):
        done = subprocess.run(
            [BIN / argv[0], *argv[1:]],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode:
            raise pytest.UsageError(f"{shlex.join(argv)}: {done.stderr.strip()}")


@pytest.fixture(scope="session")
def packs() -> Path:
    """XDG_CACHE_HOME with the kernel packs `sid`, `trixie`, `bookworm` and the master `busybox`."""
    return cache_home()


@pytest.fixture(scope="session")
def example_masters(packs: Path) -> Path:
    """XDG_CACHE_HOME with the masters `strongswan` and `frr` besides."""
    return packs


# ---- labs ----


@dataclass(frozen=True)
class Done:
    """What a command answered."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "surrogateescape")

    @property
    def err(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "surrogateescape")

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()


class Lab:
    """A working set, and the installed commands to use it with.

    A call runs a command line as a user would type it, or a list of arguments, with DUMM_DIR
    naming the working set, and fails the test unless the exit status is as expected.
    """

    def __init__(self, directory: Path, cache: Path) -> None:
        self.directory = directory
        #: What makes a command one of another user's (users.py).
        self.prefix: list[str] = []
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("DUMM_")},
            "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "XDG_CACHE_HOME": str(cache),
            "DUMM_DIR": str(directory),
            "LC_ALL": "C.UTF-8",
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def __call__(
        self,
        command: str | Sequence[str | Path],
        *,
        status: int | None = 0,
        stdin: bytes = b"",
        timeout: float = PATIENCE,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a command to its end; `status` None takes any exit status."""
        argv = _argv(command)
        process = self.start(argv, env=env)
        try:
            out, err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"{shlex.join(argv)}: not done after {timeout} s\n{_text(out, err)}")
        if status is not None and process.returncode != status:
            pytest.fail(
                f"{shlex.join(argv)}: exit {process.returncode}, not {status}\n{_text(out, err)}"
            )
        return Done(argv, process.returncode, out, err)

    def start(
        self, command: str | Sequence[str | Path], *, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command with pipes for its three streams; it is killed when the lab ends."""
        process = subprocess.Popen(
            [*self.prefix, *_argv(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.env, **(env or {})},
            cwd=self.directory,
        )
        self._started.append(process)
        return process

    def host(self, command: str | Sequence[str | Path], *, status: int | None = 0) -> Done:
        """Run a program of the host where the lab's links and mounts are."""
        return self(["dumm-guest", "exec", "--host", "--", *_argv(command)], status=status)

    def mounted(self, guest: str) -> Path:
        """A guest's tree on the host: mount/NAME, seen in the lab's own mount namespace."""
        tree = self.directory / "mount" / guest
        for file in self.directory.glob("run/holder-*"):
            return Path(f"/proc/{file.read_text().split()[0]}/root{tree}")
        return tree

    def end(self) -> None:
        """Kill what `start` left running, and destroy the working set."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=PATIENCE)
        if (self.directory / "state.json").exists():
            self("dumm-fs destroy")

    def logs(self) -> str:
        """The ends of the guests' console logs, for the reader of a failure."""
        return "\n".join(
            f"--- {path}\n{path.read_bytes()[-4000:].decode(errors='replace')}"
            for path in sorted(self.directory.glob("run/*/console.log"))
        )


def _argv(command: str | Sequence[str | Path]) -> tuple[str, ...]:
    return tuple(shlex.split(command) if isinstance(command, str) else map(str, command))


def _text(out: bytes, err: bytes) -> str:
    return f"stdout: {out[-2000:]!r}\nstderr: {err.decode(errors='replace')[-4000:]}"


@pytest.fixture
def new_lab(
    packs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Lab]]:
    """Make working sets: `new_lab(name="lab", kernel="sid")`; all are destroyed at the end, and
    nothing of them may be left.
    """
    labs: list[Lab] = []
    before = World.now()

    def make(name: str = "lab", kernel: str = SUITES[0]) -> Lab:
        directory = tmp_path / name
        directory.mkdir()
        lab = Lab(directory, packs)
        labs.append(lab)
        lab(["dumm-fs", "init", "--kernel", kernel, "--master", "busybox"])
        return lab

    yield make
    if request.node.stash.get(_failed, False):
        for lab in labs:
            print(lab.logs())
    for lab in labs:
        lab.end()
    left = World.now().beyond(before, tmp_path)
    for lab in labs:
        for name in ("run", "mount"):
            there = lab.directory / name
            left += [f"file {path}" for path in there.glob("*")] if there.exists() else []
    assert not left, "left behind: " + "; ".join(left)


@pytest.fixture
def lab(new_lab: Callable[..., Lab]) -> Lab:
    """A working set in a fresh directory, with the newest kernel and the busybox master."""
    return new_lab()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount.mount("small", str(place), "tmpfs", 0, "size=2M,mode=0700")
    yield place
    mount.umount(str(place), detach=True)


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that has the package."""
    return sys.executable


def installed(program: str) -> bool:
    """Is a program on this machine?"""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None
