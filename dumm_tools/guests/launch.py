"""From a guest's record to its process: arguments, files, descriptors, the jail."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass

from dumm_tools import proc
from dumm_tools.agent import INITRD, JAIL
from dumm_tools.agent.client import LINES
from dumm_tools.errors import DummError
from dumm_tools.images import kernel
from dumm_tools.linux import cgroup, fifo, mount, namespaces
from dumm_tools.model import Guest, State
from dumm_tools.running import liveness
from dumm_tools.trees import tree

#: Consoles besides the kernel's own: tty1 to tty3 in the guest.
CONSOLES = 4
#: What a guest may take of the host besides its `--memory`: files in its /dev/shm (bytes), ...
MEMORY_OVERHEAD = 32 << 20
#: ... and memory of the kernel's own, in each of its processes on the host (bytes).
PROCESS_DATA = 8 << 20
#: ... and, where a control group can be made, all that its processes and the host's kernel use for
#: it together beyond its memory (bytes).
CEILING_OVERHEAD = 128 << 20
#: Files that a guest's kernel may have open: each that is open in the guest is one of its own.
FILES = 4096
#: Signals that may wait for all its processes, timers among them (its kernel needs two).
SIGNALS = 32
#: The kernel's command line (COMMAND_LINE_SIZE, arch/um/include/asm/setup.h), less a margin for
#: what the user adds; NICs that do not fit are plugged in once the guest runs.
COMMAND_LINE_MAX = 3500
#: How the names of what earlier boots left begin.
_GONE = "gone-"


#: Arguments that are ours alone: another value, or words behind `--`, cut a guest off from us.
_OURS = re.compile(
    r"--.*|(mem|umid|uml_dir|initrd|rdinit|DUMM_\w+|(con|ssl|vec)\d*)(=.*)?", re.DOTALL
)


def is_ours(argument: str) -> bool:
    """Is a kernel argument one that only we give?"""
    return _OURS.fullmatch(argument) is not None


@dataclass(slots=True)
class Launch:
    """A guest that was started and has not answered yet."""

    name: str
    nonce: str
    deadline: float
    errors: int | None  # descriptor: the jail's last words; None when another command started it
    jail: int = 0
    ours: bool = True
    later: int = 0  # the last so many NICs did not fit on the command line


def kernel_args(labdir: str, guest: Guest, core: kernel.Kernel, nonce: str) -> list[str]:
    release = kernel.release_number(kernel.release(core) or "")
    args = [
        f"mem={guest.memory >> 10}K",
        "initrd=/initrd",
        "uml_dir=/run/uml",
        "umid=m",
        "quiet",
        # 81 % of a stock boot is a speed test of RAID6; 20 % of the rest is the delay loop.
        "initcall_blacklist=raid6_init,raid6_select_algo,calibrate_xor_blocks",
        "lpj=20000000",
        # Each of the 256 old pairs of terminals has the kernel run a /sbin/hotplug that is not
        # there: 512 threads, of which all but a few may wait for their end at once. With 64M it
        # has 502, and what is made next fails (-EAGAIN): the whole of IPv6, mostly.
        "pty.legacy_count=0",
        f"DUMM_NONCE={nonce}",
        f"DUMM_LINES={LINES}",
    ]
    # Where guests share a user, those that pass descriptors can keep each other from it.
    if release >= (6, 16) and own_user(guest):
        args.append("seccomp=on")
    # What the user says stands in place of ours.
    said = {a.partition("=")[0] for a in guest.args}
    return [a for a in args if a.partition("=")[0] not in said] + guest.args


def processes(memory: int) -> int:
    """How many processes a guest of so much memory may have on the host, where each of its own
    is one: no more than it has memory for anyway, or than a kernel counts."""
    return min(64 + (memory >> 20) * 8, 1 << 20)


def own_group(state: State) -> int:
    """A group that no other guest has; 0 where the lab has but one."""
    groups = namespaces.spare_groups()
    taken = {g.boot.group for g in state.guests.values() if g.boot}
    while groups:
        # By chance: labs of root's share the host's network, and know nothing of each other.
        group = groups[int.from_bytes(os.urandom(8), "big") % len(groups)]
        if group not in taken:
            return group
    return 0


def own_user(guest: Guest) -> int:
    """A user that no other guest has, of the same number as its group; 0 where there is none."""
    number = guest.boot.group if guest.boot else 0
    return number if number and namespaces.has_id("uid", number) else 0


def passes_descriptors(args: list[str]) -> bool:
    """Does a kernel with these arguments hand descriptors to its processes?"""
    return any(arg in ("seccomp=on", "seccomp=auto") for arg in args)


def jail_args(labdir: str, guest: Guest, core: kernel.Kernel) -> list[str]:
    run = liveness.run_dir(labdir, guest.name)
    steps: list[str] = []
    if core.root is not None:
        for entry in ("usr", "lib", "lib64", "bin", "linux"):
            path = os.path.join(core.root, entry)
            if os.path.islink(path) and entry != "linux":
                steps += ["--symlink", os.readlink(path), f"/{entry}"]
            elif os.path.exists(path):
                steps += ["--ro-bind", path, f"/{entry}"]
    for host, inside in core.binds:
        steps += ["--ro-bind", host, inside]
    # fmt: off
    steps += [
        "--bind", os.path.join(labdir, "mount", guest.name), "/guest",
        "--bind", os.path.join(run, "uml"), "/run/uml",
        "--symlink", "run/uml", "/uml",
        "--ro-bind", os.path.join(run, "xfer"), "/xfer",
        "--ro-bind", INITRD, "/initrd",
        "--dev", "/dev/null", "/dev/null",
        "--dev", "/dev/urandom", "/dev/urandom",
        "--dev", "/dev/net/tun", "/dev/net/tun",
        # UML keeps the guest's memory in a file there, and some MiB beside it.
        "--tmpfs", "/dev/shm",
        f"size={guest.memory + MEMORY_OVERHEAD >> 10}K,nr_inodes=1K,mode=1777",
        "--tmpfs", "/tmp", "size=1M,nr_inodes=1K,mode=1777",
        # The features of the processor are all that UML reads of /proc.
        "--ro-bind", "/proc/cpuinfo", "/proc/cpuinfo",
        "--hostname", guest.name,
        "--data", str(PROCESS_DATA),
        "--processes", str(processes(guest.memory)),
        "--files", str(FILES),
        "--signals", str(SIGNALS),
        "--group", str(guest.boot.group if guest.boot else 0),
        "--user", str(own_user(guest)),
    ]
    # fmt: on
    return steps


def ceiling(state: State, guest: Guest) -> str:
    """A control group for the guest's memory; nothing where the host lets us have none."""
    try:
        return cgroup.make(f"dumm-{state.id}-{guest.name}", guest.memory + CEILING_OVERHEAD)
    except OSError as e:
        proc.log(f"cannot limit the memory of guest '{guest.name}': {e}", 2)
        return ""


def need_parts() -> None:
    for part in (INITRD, JAIL):
        if not os.path.exists(part):
            raise DummError(
                f"'{part}' is missing: the package was not built",
                hint="python3 -m dumm_tools.agent.build",
            )


def need_init(labdir: str, guest: Guest) -> None:
    """DummError unless the guest's tree, which is mounted, has the init that it is to start."""
    if guest.init is None:
        return
    from dumm_tools.linux import openat2

    error = 0
    tree = os.open(os.path.join(labdir, "mount", guest.name), os.O_PATH | os.O_CLOEXEC)
    try:
        fd = openat2.open_in_root(tree, guest.init, os.O_PATH)
        mode = os.fstat(fd).st_mode
        os.close(fd)
        if not (stat.S_ISREG(mode) and mode & 0o111):
            error = errno.EACCES
    except OSError as e:
        error = e.errno or 0
    finally:
        os.close(tree)
    if error:
        raise DummError(
            f"cannot start guest '{guest.name}': init '{guest.init}': {os.strerror(error)}"
        )


def fresh_run_dir(labdir: str, name: str) -> None:
    """Make run/NAME as a boot needs it; nothing of an earlier boot may look like this one's."""
    run = liveness.make_run_dir(labdir, name)
    with contextlib.suppress(FileNotFoundError):
        os.rename(os.path.join(run, "uml"), os.path.join(run, f"{_GONE}{os.urandom(4).hex()}"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(run, "pid"))
    # The kernel takes the last of them for its own; a clean halt removes it, a crash does not.
    for directory in ("uml", "xfer", "uml/m"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(run, directory), 0o700)
    link = os.path.join(run, "mconsole")
    if not os.path.islink(link):
        os.symlink("uml/m/mconsole", link)
    for number in range(LINES):
        fifo.make(os.path.join(run, f"line{number}.in"))
        fifo.make(os.path.join(run, f"line{number}.out"))
    fifo.make(os.path.join(run, "tty0.in"))
    for number in range(1, CONSOLES):
        fifo.make(os.path.join(run, f"tty{number}.in"))
        fifo.make(os.path.join(run, f"tty{number}.out"))


def sweep(labdir: str, name: str) -> None:
    """Remove what `fresh_run_dir` put aside. The guest's kernel may have made of its own directory
    what it liked: with links to elsewhere, deeper than recursion goes, and much."""
    run = liveness.run_dir(labdir, name)
    for entry in os.listdir(run):
        if entry.startswith(_GONE):
            with contextlib.suppress(OSError, DummError):  # it stays for the next time
                tree.remove(os.path.join(run, entry), look=False)


def spawn(
    labdir: str,
    guest: Guest,
    core: kernel.Kernel,
    args: list[str],
    nics: list[str],
    locks: list[int],
    started: Launch,
) -> None:
    """Start the jail, which starts the kernel; all that is open here closes again, the guest's
    copies stay open as long as it lives."""
    run = liveness.run_dir(labdir, guest.name)
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        null = opened(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        log = opened(
            os.open(
                os.path.join(run, "console.log"),
                os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
        )
        os.fchmod(log, 0o600)
        # By a mount that is read-only: their modes and owners are ours.
        lines = opened(mount.clone_tree(run))
        mount.close_for_writing(lines)
        names = [f"tty{number}.{way}" for number in range(CONSOLES) for way in ("in", "out")]
        names += [f"line{number}.{way}" for number in range(LINES) for way in ("in", "out")]
        names.remove("tty0.out")  # that goes to the log
        handed = [opened(fifo.open_both(f"/proc/self/fd/{lines}/{name}")) for name in names]
        errors, theirs = os.pipe2(os.O_CLOEXEC)
        opened(theirs)
        # Above all that is open, so that no dup2 hits what a later one still needs.
        base = max([errors, theirs, log, null, lines, *locks, *handed]) + 1
        everything = [*handed, *locks, log, theirs]
        actions = [
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, null, 1),
            (os.POSIX_SPAWN_DUP2, null, 2),
            *((os.POSIX_SPAWN_DUP2, fd, base + i) for i, fd in enumerate(everything)),
        ]
        args = [*args, "con=null", f"con0=fd:{base},fd:1"]
        for number in range(1, CONSOLES):
            at = base + 2 * number - 1
            args.append(f"con{number}=fd:{at},fd:{at + 1}")
        first = base + 2 * CONSOLES - 1
        args += [f"ssl{n}=fd:{first + 2 * n},fd:{first + 2 * n + 1}" for n in range(LINES)]
        room = COMMAND_LINE_MAX - len(" ".join(args))
        while nics and len(" ".join(nics)) > room:
            nics.pop()
            started.later += 1
        # fmt: off
        argv = [
            JAIL, "jail",
            "--errors", str(base + len(everything) - 1),
            "--hold", str(base + len(handed)), str(len(locks) + 1),
            "--log", str(base + len(handed) + len(locks)),
            "--pid-file", os.path.join(run, "pid"),
            "--passing", str(int(passes_descriptors(args))),
            *(["--cgroup", guest.boot.cgroup] if guest.boot and guest.boot.cgroup else []),
            *jail_args(labdir, guest, core),
            "--", core.binary, *args, *nics,
        ]
        # fmt: on
        proc.log(" ".join(argv), 2)
        started.errors = errors
        try:
            # Not TMPDIR: a C library forgets that one where the real user is another (ld.so(8)).
            started.jail = os.posix_spawn(
                JAIL, argv, {"PATH": "/usr/bin:/bin", "TMP": "/dev/shm"}, file_actions=actions
            )
        except OSError:
            started.errors = None
            os.close(errors)
            raise
