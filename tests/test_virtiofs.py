"""Guests whose root file system is served by virtiofs: their life, and the end of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, PLACES, ROOT, SUITES, TOP
from support.checks import one_line_error
from support.guests import children, kernel_of, pid_of, state_of
from support.labs import Lab
from support.masters import BUILT
from support.programs import compiled
from support.users import User

from dumm_tools.agent import JAIL, build
from dumm_tools.linux import child

pytestmark = [pytest.mark.uml, pytest.mark.netns]


@pytest.fixture
def served(lab: Lab) -> Lab:
    """A lab with a running guest on virtiofs."""
    lab("dumm-guest create a --rootfs virtiofs --start")
    return lab


def server_of(lab: Lab, name: str) -> int:
    """The process that starts a guest's server."""
    return int((lab.directory / "run" / name / "server.pid").read_text().split()[0])


def until(condition: Callable[[], object]) -> None:
    """Wait for something that must happen."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


#: Programs that have the server busy at any time.
BUSY = "for n in 1 2 3 4; do (while :; do echo >/f$n; rm /f$n; done) >/dev/null 2>&1 & done"


@pytest.mark.parametrize("kernel", [SUITES[0], BUILT])
def test_ends_and_reboots_while_files_are_used(
    new_lab: Callable[..., Lab], built: str, kernel: str
) -> None:
    """A kernel does not wait for ever for the last answers of the server."""
    lab = new_lab(kernel=kernel)
    lab("dumm-guest create a --rootfs virtiofs --start")
    pid = pid_of(lab, "a")
    # A kernel without our patch has a parent that starts it anew.
    assert (kernel_of(pid) != pid) == (kernel != BUILT)
    for _ in range(3):
        lab(["dumm-guest", "exec", "a", "--", "sh", "-c", BUSY])
        lab("dumm-guest exec a -- reboot -f", status=None)
        lab("dumm-guest wait a")
        assert pid_of(lab, "a") == pid
    stuck = lab("dumm-console log a").out.count("[the kernel did not come to its end]")
    assert stuck == 0 or kernel != BUILT
    for _ in range(2):
        lab(["dumm-guest", "exec", "a", "--", "sh", "-c", BUSY])
        lab("dumm-guest exec a -- poweroff -f", status=None)
        lab("dumm-guest wait a --for stopped")
        lab("dumm-guest start a")
    # Neither has it a parent that would start it after a panic.
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo c >/proc/sysrq-trigger"], status=125)
    until(lambda: state_of(lab, "a") == "crashed")


@pytest.mark.parametrize(("suite", "kind"), PLACES)
def test_life(new_lab: Callable[..., Lab], suite: str, kind: str) -> None:
    """A guest boots, writes, reboots, is paused and stops; users own what they create."""
    lab = new_lab("lab", kind, kernel=suite)
    lab("dumm-guest create a --rootfs virtiofs --start")
    assert lab("dumm-guest list -o name,rootfs").lines == ["a\tvirtiofs"]
    mounts = lab("dumm-guest exec a -- cat /proc/mounts").lines
    assert mounts[0].split()[1:3] == ["/", "virtiofs"]
    lab("dumm-guest exec a -- sh -c 'mkdir -m 777 /work; echo one > /work/f'")
    assert (lab.mounted("a") / "work/f").read_text() == "one\n"
    users = "touch f2; echo two >> f2; mkdir d; mkfifo p; stat -c %u:%g f2 d p"
    done = lab(
        ["dumm-guest", "exec", "a", "-u", "65534:65534", "-w", "/work", "--", "sh", "-c", users]
    )
    assert set(done.lines) == {"65534:65534"}
    (lab.mounted("a") / "work/from-host").write_text("three\n")
    assert lab("dumm-guest exec a -- cat /work/from-host").out == "three\n"
    lab("dumm-guest exec a -- reboot", status=None)
    until(lambda: "has rebooted" not in lab("dumm-guest exec a -- true", status=None).err)
    lab("dumm-guest wait a")
    assert lab("dumm-guest exec a -- cat /work/f2").out == "two\n"
    lab("dumm-guest pause a")
    lab("dumm-guest resume a")
    lab("dumm-guest exec a -- cat /work/f")
    server = server_of(lab, "a")
    lab("dumm-guest stop a")
    assert state_of(lab, "a") == "stopped"
    assert gone(server)
    assert (lab.directory / "host/a/work/f2").read_text() == "two\n"


def test_kernel_has_no_capabilities(served: Lab) -> None:
    """It needs none: its files are the server's. A disk may belong to another user."""
    (served.directory / "disk").write_bytes(bytes(1 << 20))
    served("dumm-guest create b --rootfs virtiofs --disk disk --start")
    for name, wanted in (("a", 0), ("b", 1 << 1)):  # CAP_DAC_OVERRIDE
        text = Path(f"/proc/{pid_of(served, name)}/status").read_text()
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        assert {int(status[f"Cap{which}"], 16) for which in ("Prm", "Eff", "Bnd")} == {wanted}


def test_large_input(served: Lab) -> None:
    """Large pieces of stdin go through hostfs, whatever the umask is."""
    data = os.urandom(300_000)
    before = os.umask(0o077)
    try:
        done = served("dumm-guest exec a -- cat", stdin=data)
    finally:
        os.umask(before)
    assert done.stdout == data


@pytest.mark.parametrize("victim", ["kernel", "launcher", "server"])
def test_end(served: Lab, victim: str) -> None:
    """Kernel and server end together, whichever is killed."""
    kernel, launcher = pid_of(served, "a"), server_of(served, "a")
    server = children(launcher)[0]
    os.kill({"kernel": kernel, "launcher": launcher, "server": server}[victim], signal.SIGKILL)
    until(lambda: state_of(served, "a") == "crashed")
    assert gone(kernel)
    assert gone(launcher)
    assert gone(server)
    log = served("dumm-console log a").out
    assert ("[the server of the root file system has ended]" in log) == (victim != "kernel")
    served("dumm-guest start a")


@pytest.mark.parametrize("which", ["pid", "server.pid"])
def test_keeper_killed(served: Lab, which: str) -> None:
    """The end of either jail is the end of the other."""
    kernel, launcher = pid_of(served, "a"), server_of(served, "a")
    program = {"pid": kernel, "server.pid": launcher}[which]
    fields = Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()
    os.kill(int(fields[1]), signal.SIGKILL)
    until(lambda: gone(kernel) and gone(launcher))
    until(lambda: state_of(served, "a") == "crashed")


def test_descriptors_of_the_caller_are_not_kept(lab: Lab) -> None:
    """Not a lock, either, that a script holds while it starts a guest."""
    lab("dumm-guest create a --rootfs virtiofs")
    lab(["sh", "-c", "exec 7>held 9>held; exec dumm-guest start a"])
    launcher = server_of(lab, "a")
    programs = [pid_of(lab, "a"), launcher, *children(launcher)]
    parents = [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] for pid in programs
    ]
    for pid in {*map(str, programs), *parents} - {"0", "1"}:
        opened = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        assert str(lab.directory / "held") not in opened, pid


def without_server(lab: Lab) -> tuple[Path, Path]:
    """A kernel pack, and where its server would be."""
    pack = lab.directory / "pack"
    source = Path(lab.env["XDG_CACHE_HOME"]) / "dumm/kernels" / SUITES[0]
    lab.host(["cp", "-a", source, pack])
    server = pack / "virtiofsd/usr/libexec/virtiofsd"
    server.unlink()
    return pack, server


def test_jail_whose_peer_has_gone_before_it_starts(tmp_path: Path) -> None:
    """It ends, and its launcher does not fail, whenever it looks for the program."""
    build.build()
    for _ in range(60):
        near, far = socket.socketpair()
        far.close()
        with near, (tmp_path / "log").open("w+") as log:

            def command(first: int) -> list[str]:
                return [
                    *(JAIL, "jail", "--errors", str(first + 2), "--hold", str(first), "2"),
                    *("--role", "client", "--peer", str(first), "--log", str(first + 1)),
                    *("--ro-bind", JAIL, "/program", "--dev", "/dev/null", "/dev/null"),
                    *("--pid-file", str(tmp_path / "pid"), "--", "/program"),
                ]

            assert child.spawn(JAIL, [near.fileno(), log.fileno()], command, env={}).wait() == ""


def test_failing_server(lab: Lab) -> None:
    """A server that does not come up fails the start in one line, which says why."""
    pack, server = without_server(lab)
    server.write_bytes(b"#!/nonexistent\n")
    server.chmod(0o755)
    lab(["dumm-guest", "create", "a", "--rootfs", "virtiofs", "--kernel", pack])
    done = lab("dumm-guest start a", status=1)
    assert "cannot start guest 'a': the server of the root file system has ended: " in done.err
    assert len(done.err.splitlines()) == 1
    assert state_of(lab, "a") == "stopped"


@pytest.mark.root
@pytest.mark.parametrize("isolated", ["--isolated", "--host-net"])
def test_server_that_becomes_another_user(new_lab: Callable[..., Lab], isolated: str) -> None:
    """It ends with its guest nevertheless."""
    lab = new_lab("lab", isolated)
    pack, server = without_server(lab)
    compiled("hider.c", server)
    lab(["dumm-guest", "create", "a", "--rootfs", "virtiofs", "--kernel", pack])
    lab("dumm-guest start a --no-wait")
    log = lab.directory / "run/a/server.log"
    until(lambda: "hidden" in log.read_text())
    lab("dumm-guest stop a --kill")
    assert state_of(lab, "a") == "stopped"
    assert gone(server_of(lab, "a"))


def test_server_that_only_closes_its_connection(lab: Lab) -> None:
    """Its guest has ended, whether or not the server has."""
    pack, server = without_server(lab)
    compiled("lingering.c", server)
    lab(["dumm-guest", "create", "a", "--rootfs", "virtiofs", "--kernel", pack])
    done = lab("dumm-guest start a", status=1)
    assert "/usr/libexec/virtiofsd did not end with its connection" in done.err
    assert len(done.err.splitlines()) == 1
    assert state_of(lab, "a") == "stopped"


def test_reboot_with_a_server_that_does_not_end(lab: Lab) -> None:
    """It is killed, and the next kernel gets a new one."""
    pack, server = without_server(lab)
    real = Path(lab.env["XDG_CACHE_HOME"]) / "dumm/kernels" / SUITES[0] / "virtiofsd"
    lab.host(["cp", "-a", f"{real}/usr/libexec/virtiofsd", f"{server}.real"])
    compiled("lingering.c", server)
    lab(["dumm-guest", "create", "a", "--rootfs", "virtiofs", "--kernel", pack])
    lab("dumm-guest start a")
    first = children(server_of(lab, "a"))
    lab("dumm-guest exec a -- sh -c 'echo here >/file; reboot'", status=None)
    until(lambda: "has rebooted" not in lab("dumm-guest exec a -- true", status=None).err)
    lab("dumm-guest wait a")
    assert lab("dumm-guest exec a -- cat /file").out == "here\n"
    assert children(server_of(lab, "a")) != first
    assert gone(first[0])


@pytest.mark.root
def test_hidden_parts_of_proc(new_lab: Callable[..., Lab], tmp_path: Path, packs: Path) -> None:
    """In a container, the server of an isolated lab cannot have a procfs before Linux 7.2."""
    release = tuple(int(n) for n in os.uname().release.split(".")[:2])
    hide = (
        "findmnt -rn -t proc -o TARGET | grep -vx /proc | xargs -r umount -l;"
        'mount --bind /dev/null /proc/cmdline; exec "$@"'
    )
    directory = tmp_path / "hidden"
    directory.mkdir()
    lab = Lab(directory, packs)
    lab.prefix = ["unshare", "--mount", "sh", "-c", hide, "sh"]
    try:
        lab(f"dumm-fs init --isolated --kernel {SUITES[0]} --master busybox")
        lab("dumm-guest create a --rootfs virtiofs")
        if release >= (7, 2):
            lab("dumm-guest start a")
            return
        done = lab("dumm-guest start a", status=1)
        hidden = "parts of /proc are hidden here, as in containers"
        assert f"cannot start guest 'a' with virtiofs: {hidden}\n" in done.err
        lab("dumm-guest set a --rootfs hostfs")
        lab("dumm-guest start a")
        tree = packs / "dumm/masters/busybox"
        lab.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        lab(["dumm-fs", "master", "import", tree, "--name", "served", "--rootfs", "virtiofs"])
        pack = packs / "dumm/kernels" / SUITES[0]
        done = lab(["dumm-guest", "create", "b", "--master", "served", "--kernel", pack, "--start"])
        assert done.err.endswith(f"uses hostfs, where all files belong to one user: {hidden}\n")
    finally:
        lab.end()


def with_files(count: int, command: str) -> list[str]:
    """A command line that runs another with a limit of open files that it cannot raise."""
    unable = ["setpriv", "--bounding-set=-sys_resource"] if ROOT else []
    return [*unable, "sh", "-c", f"ulimit -n {count}; exec {command}"]


@pytest.mark.parametrize("suite", [SUITES[0], SUITES[-1]])
def test_more_files_than_descriptors(new_lab: Callable[..., Lab], suite: str) -> None:
    """The guest's kernel forgets files in time: of some 8300, at least 800. How late the server
    hears of that depends on how busy the host is."""
    lab = new_lab("lab", "--isolated", kernel=suite)
    for number in range(8):
        (lab.directory / f"layer/many/{number}").mkdir(parents=True)
        for name in range(1000):
            (lab.directory / f"layer/many/{number}/{name}").touch()
    lab("dumm-guest create a --rootfs virtiofs --memory 128M")
    lab("dumm-fs overlay add a layer")
    lab(with_files(7500, "dumm-guest start a"))
    look = "find /many -type f | wc -l && cat /many/$0/*"
    found = [lab.start(["dumm-guest", "exec", "a", "--", "sh", "-c", look, name]) for name in "246"]
    for each in found:
        assert each.communicate(timeout=PATIENCE) == (b"8000\n", b"")
    assert "drop_caches: 2" not in lab("dumm-guest exec a -- dmesg").out
    # It keeps what it has room for.
    lab("dumm-guest restart a")
    enough = lab("dumm-guest exec a -- cat /proc/cmdline").out.count("DUMM_FILES=") == 0
    lab("dumm-guest exec a -- find /many -type f")
    kept = int(lab("dumm-guest exec a -- cat /proc/sys/fs/inode-nr").out.split()[0])
    assert kept > 8000
    assert enough or kept < 15000


def test_few_descriptors_are_reported(lab: Lab) -> None:
    lab("dumm-guest create a --rootfs virtiofs")
    few = lab(with_files(2000, "dumm-guest start a")).err
    assert one_line_error(few) == (
        "warning: guest 'a' will run out of files: its server may have only 2000 open (ulimit -Hn)"
    )
    checks = lab(with_files(2000, "dumm-fs check -o name,state,found")).lines
    assert [c for c in checks if c.startswith("files\tabsent\t2000 open files: ")]


def test_override(lab: Lab) -> None:
    """The master's default can be overridden, and comes back."""
    lab("dumm-guest create a")
    assert lab("dumm-guest show a -o rootfs").out == "hostfs\n"
    lab("dumm-guest set a --rootfs virtiofs")
    assert lab("dumm-guest show a -o rootfs").out == "virtiofs\n"
    lab("dumm-guest start a")
    lab("dumm-guest set a --rootfs default")  # from the next start on
    assert lab("dumm-guest show a -o rootfs").out == "virtiofs\n"
    lab("dumm-guest restart a")
    assert lab("dumm-guest show a -o rootfs").out == "hostfs\n"
    assert lab("dumm-guest exec a -- cat /proc/mounts").lines[0].split()[2] == "hostfs"
    lab("dumm-guest create b --rootfs ext4", status=2)


def test_remount(served: Lab) -> None:
    """A tree that was unmounted on the host is fetched from the running guest."""
    served("dumm-guest exec a -- touch /here")
    served("dumm-fs umount a")
    assert not (served.mounted("a") / "here").exists()
    served("dumm-fs mount a")
    assert (served.mounted("a") / "here").exists()


def test_master_decides(lab: Lab, tmp_path: Path) -> None:
    """A distribution is served by virtiofs, other trees are not, and both can be made otherwise."""
    lab.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    (tmp_path / "plain/bin").mkdir(parents=True)
    (tmp_path / "distribution/etc").mkdir(parents=True)
    (tmp_path / "distribution/etc/os-release").touch()
    for tree, options in (
        ("plain", ""),
        ("distribution", ""),
        ("plain", "--name files --rootfs virtiofs"),
        ("distribution", "--name simple --rootfs hostfs"),
    ):
        lab(f"dumm-fs master import {tmp_path / tree} {options}")
    wanted = {
        "distribution": "virtiofs",
        "files": "virtiofs",
        "plain": "hostfs",
        "simple": "hostfs",
    }
    rows = lab("dumm-fs master list -o name,rootfs").lines
    assert dict(row.split("\t") for row in rows) == wanted
    for name in wanted:
        lab(f"dumm-guest create {name} --master {name}")
    rows = lab("dumm-guest list -o name,rootfs").lines
    assert dict(row.split("\t") for row in rows) == wanted
    lab("dumm-fs master import . --rootfs ext4", status=2)
    lab(f"dumm-fs master import {tmp_path / 'plain'} --rootfs virtiofs", status=4)
    assert lab("dumm-fs master show plain -o rootfs").out == "hostfs\n"
    lab(f"dumm-fs master import {tmp_path / 'plain'} --rootfs virtiofs --may-exist")
    assert lab("dumm-fs master show plain -o rootfs").out == "virtiofs\n"


@pytest.mark.root
@pytest.mark.parametrize("ids", [True, False])
def test_default_of_an_ordinary_user(packs: Path, ids: bool) -> None:
    """Without ids for the guest's users, a server could not create their files."""
    user = User(101, packs, ids=ids, without=() if ids else ("newuidmap", "newgidmap"))
    try:
        lab = user.lab("lab")
        lab("dumm-fs master build busybox")
        tree = user.cache / "dumm/masters/busybox"
        lab(["dumm-fs", "master", "import", tree, "--name", "served", "--rootfs", "virtiofs"])
        lab("dumm-fs init --kernel sid --master served")
        done = lab("dumm-guest create a --start")
        assert lab("dumm-guest show a -o rootfs").out == ("virtiofs\n" if ids else "hostfs\n")
        what = "dumm-guest: warning: guest 'a' uses hostfs, where all files belong to one user"
        why = "you have no ids for others (see dumm-fs check)"
        assert done.err == ("" if ids else f"{what}: {why}\n")
        lab(["dumm-guest", "exec", "a", "-u", "9:9", "-w", "/tmp", "--", "touch", "file"])
        lab.end()
    finally:
        user.end()


@pytest.fixture(scope="session")
def rightness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that checks a file system."""
    target = tmp_path_factory.mktemp("rightness") / "rightness"
    compiler = os.environ.get("CC", "gcc").split()
    subprocess.run(
        [*compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", target,
         TOP / "tests" / "rightness.c"],
        check=True,
        timeout=PATIENCE,
    )  # fmt: skip
    return target


@pytest.mark.parametrize(
    ("suite", "isolated", "rootfs"),
    [
        *((suite, "--isolated", "virtiofs") for suite in SUITES),
        (SUITES[0], "--host-net", "virtiofs"),
        (SUITES[0], "--isolated", "hostfs"),
        (SUITES[0], "--host-net", "hostfs"),
    ],
)
def test_rightness(
    new_lab: Callable[..., Lab], rightness: Path, suite: str, isolated: str, rootfs: str
) -> None:
    """All is as on a local file system, except for what the manual lists."""
    if isolated == "--host-net" and not ROOT:
        pytest.skip("only root has such labs")
    lab = new_lab("lab", isolated, kernel=suite)
    lab(f"dumm-guest create a --rootfs {rootfs} --start")
    lab(["dumm-fs", "cp", rightness, "a:/rightness"])
    done = lab("dumm-guest exec a -- sh -c 'mkdir /work; /rightness /work /home'")
    found = dict(line.split(maxsplit=1) for line in done.lines)
    column = {"hostfs": 1, "virtiofs": 2}[rootfs]
    table = (TOP / "man/rootfs-checks.inc").read_text().replace("\\-", "-")
    rows = [line.split("\t") for line in table.splitlines() if re.match(r"[a-z-]+\t", line)]
    assert {name: text == "ok" for name, text in found.items()} == {
        row[0]: row[column] == "yes" for row in rows
    }
