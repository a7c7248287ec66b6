"""Starting and stopping guests' processes: from records to a kernel that answers, and back.

A start writes its intent first, then makes taps, lines and the mount, then hands the alive lock
to the keeper of the guest's jail. Whatever moment it is killed at, the state it leaves is one
that the next start can go on from: not alive, or alive and booting by itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dumm_tools import cache, iface, kernel, live, master, overlay, proc, reach, view
from dumm_tools.agent import INITRD, JAIL
from dumm_tools.agent.client import LINES
from dumm_tools.errors import Conflict, DummError, NotFound, TimedOut
from dumm_tools.linux import cgroup, fifo, namespaces, netlink, process
from dumm_tools.model import Boot, Guest, State
from dumm_tools.state import load, lock, transaction

#: Consoles besides the kernel's own: tty1 to tty3 in the guest.
CONSOLES = 4
#: What a guest may take of the host besides its `--memory`: files in its /dev/shm (bytes), ...
MEMORY_OVERHEAD = 32 << 20
#: ... and memory of the kernel's own, in each of its processes on the host (bytes).
PROCESS_DATA = 8 << 20
#: ... and, where a control group can be made, all that its processes and the host's kernel use for
#: it together beyond its memory (bytes).
CEILING_OVERHEAD = 128 << 20
#: How many guests of one command boot at the same time.
WINDOW = 32
#: The kernel's command line (COMMAND_LINE_SIZE, arch/um/include/asm/setup.h), less a margin for
#: what the user adds; NICs that do not fit are plugged in once the guest runs.
COMMAND_LINE_MAX = 3500
#: Seconds a killed process may take to be gone.
KILL_TIMEOUT = 10.0

OnError = Callable[[str, Exception], None]


@dataclass(slots=True)
class _Launch:
    """A guest that was started and has not answered yet."""

    name: str
    nonce: str
    deadline: float
    errors: int | None  # descriptor: the jail's last words; None when another command started it
    jail: int = 0
    ours: bool = True
    later: int = 0  # the last so many NICs did not fit on the command line


# ---- what a guest is started from ----


def resolve_kernel(root: str, guest: Guest) -> kernel.Kernel:
    """The guest's kernel: its own, else the working set's, which the first look pins to the
    newest pack of the cache. Called inside a transaction."""
    if guest.kernel is not None:
        return kernel.resolve(guest.kernel)
    link = os.path.join(root, "linux")
    if os.path.lexists(link):
        return kernel.resolve(os.path.realpath(link))
    found = kernel.default()
    if found is None:
        raise NotFound("there is no kernel for guests", hint="dumm-fs kernel fetch")
    os.symlink(found.path, link)
    return found


def resolve_master(root: str, guest: Guest) -> master.Master:
    """The guest's master: its own, else the working set's, which the first look pins to the one
    of the cache. Called inside a transaction."""
    if guest.master is not None:
        return master.resolve(guest.master)
    link = os.path.join(root, "master")
    if os.path.lexists(link):
        return master.resolve(os.path.realpath(link))
    found = master.default()
    if found is None:
        if master.list_():
            raise NotFound("several masters, and none is the default", hint="name one by --master")
        raise NotFound("there is no master for guests", hint="dumm-fs master build busybox")
    os.symlink(found.path, link)
    return found


def mount(root: str, state: State, guest: Guest) -> bool:
    """Mount the guest's tree; False when it was mounted already."""
    return overlay.mount(root, state, guest, resolve_master(root, guest).path)


def _kernel_args(root: str, guest: Guest, core: kernel.Kernel, nonce: str) -> list[str]:
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
        f"DUMM_NONCE={nonce}",
        f"DUMM_LINES={LINES}",
    ]
    if release >= (6, 16):
        args.append("seccomp=on")
    # What the user says stands in place of ours.
    said = {a.partition("=")[0] for a in guest.args}
    return [a for a in args if a.partition("=")[0] not in said] + guest.args


def processes(memory: int) -> int:
    """How many processes a guest of so much memory may have on the host, where each of its own
    is one: no more than it has memory for anyway."""
    return 64 + (memory >> 20) * 8


def _own_group(state: State) -> int:
    """A group that no other guest has; 0 where the lab has but one."""
    groups = namespaces.spare_groups()
    taken = {g.boot.group for g in state.guests.values() if g.boot}
    while groups:
        # By chance: labs of root's share the host's network, and know nothing of each other.
        group = groups[int.from_bytes(os.urandom(8), "big") % len(groups)]
        if group not in taken:
            return group
    return 0


def _jail_args(root: str, guest: Guest, core: kernel.Kernel) -> list[str]:
    run = live.run_dir(root, guest.name)
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
        "--bind", os.path.join(root, "mount", guest.name), "/guest",
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
    ]
    # fmt: on
    return steps


# ---- start ----


def start(
    root: str,
    names: Iterable[str],
    *,
    timeout: float,
    wait: bool = True,
    on_error: OnError,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Start guests side by side; return when each is ready or has failed (`on_error`)."""
    names = list(names)
    state = load(root)
    if state.bridges or any(state.ifaces_of(name) for name in names):
        netlink.load()  # 30 ms at the first call: not under the state's lock
    pending: list[_Launch] = []
    done = 0

    def settle() -> None:
        nonlocal done
        launch = pending[0]
        try:
            _settle(root, launch, wait=wait)
            done += 1
            progress(f"{done} of {len(names)} guests ready")
        except (DummError, OSError) as e:
            _abort(root, launch)
            on_error(launch.name, e)
        del pending[0]

    try:
        for name in names:
            try:
                _launch(root, name, timeout, pending)
            except (DummError, OSError) as e:
                if pending and pending[-1].name == name:
                    _abort(root, pending.pop())
                on_error(name, e)
            if len(pending) >= WINDOW:
                settle()
        while pending:
            settle()
    except BaseException:
        for launch in pending:
            _abort(root, launch)
        raise


def _launch(root: str, name: str, timeout: float, pending: list[_Launch]) -> None:
    """Start one guest's process; it is in `pending` from before there is one."""
    nonce = os.urandom(8).hex()
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack, transaction(root) as change:
        state = change.state
        guest = view.get(state, name)
        now = live.guest_state(root, state, guest)
        if now == "starting" and guest.boot:
            # Its starter is still there or was killed: either way it boots by itself.
            pending.append(_Launch(name, guest.boot.nonce, deadline, None, ours=False))
            return
        if now not in ("stopped", "crashed"):
            raise Conflict(f"guest '{name}' is {now}")
        core, tree = resolve_kernel(root, guest), resolve_master(root, guest)
        _need_parts()
        alive = _take_alive_lock(root, name, stack)
        held = [cache.hold(part.lock, part.path) for part in (core, tree) if part.lock is not None]
        for fd in held:
            stack.callback(os.close, fd)
        fresh_run_dir(root, name)
        _leave_master(root, state, guest, tree.path)
        guest.boot = Boot(
            nonce,
            "starting",
            live.epoch(root, state),
            kernel=core.path,
            master=tree.path,
            group=_own_group(state),
            cgroup=_ceiling(state, guest),
        )
        change.save()
        # Until the hand-over, a failure puts everything back.
        undo = stack.enter_context(contextlib.ExitStack())
        undo.callback(release, state, guest)
        nics = iface.prepare(state, name)
        if not overlay.is_mounted(root, state, name):
            overlay.drop_work_dirs(root, name)
        if overlay.mount(root, state, guest, tree.path):
            proc.log(f"mounted mount/{name}")
        reach.write_boot(root, guest, iface.boot_records(state, name))
        args = _kernel_args(root, guest, core, nonce)
        launch = _Launch(name, nonce, deadline, None)
        pending.append(launch)
        _spawn(root, guest, core, args, nics, [alive, *held], launch)
        undo.pop_all()


def _need_parts() -> None:
    for part in (INITRD, JAIL):
        if not os.path.exists(part):
            raise DummError(
                f"'{part}' is missing: the package was not built",
                hint="python3 -m dumm_tools.agent.build",
            )


def _take_alive_lock(root: str, name: str, stack: contextlib.ExitStack) -> int:
    os.makedirs(live.run_dir(root, name), mode=0o700, exist_ok=True)
    path = os.path.join(live.run_dir(root, name), "lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    stack.callback(os.close, fd)
    # A reader holds it for microseconds; a guest that just ended, until its memory is freed.
    lock(fd, KILL_TIMEOUT, f"guest '{name}'")
    return fd


def fresh_run_dir(root: str, name: str) -> None:
    """Make run/NAME as a boot needs it; nothing of an earlier boot may look like this one's."""
    run = live.run_dir(root, name)
    # The guest's kernel may have made of its own directory what it liked, with links to elsewhere.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(os.path.join(run, "uml"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(run, "pid"))
    for directory in ("uml", "xfer"):
        os.makedirs(os.path.join(run, directory), mode=0o700, exist_ok=True)
    # The kernel takes this directory for its own; a clean halt removes it, a crash does not.
    os.makedirs(live.umid_dir(root, name), exist_ok=True)
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


def _spawn(
    root: str,
    guest: Guest,
    core: kernel.Kernel,
    args: list[str],
    nics: list[str],
    locks: list[int],
    launch: _Launch,
) -> None:
    """Start the jail, which starts the kernel; all that is open here closes again, the guest's
    copies stay open as long as it lives."""
    run = live.run_dir(root, guest.name)
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        null = opened(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        log = opened(
            os.open(
                os.path.join(run, "console.log"),
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW,
                0o600,
            )
        )
        handed = [opened(fifo.open_both(os.path.join(run, "tty0.in")))]
        for number in range(1, CONSOLES):
            for way in ("in", "out"):
                handed.append(opened(fifo.open_both(os.path.join(run, f"tty{number}.{way}"))))
        for number in range(LINES):
            for way in ("in", "out"):
                handed.append(opened(fifo.open_both(os.path.join(run, f"line{number}.{way}"))))
        errors, theirs = os.pipe2(os.O_CLOEXEC)
        opened(theirs)
        # Above all that is open, so that no dup2 hits what a later one still needs.
        base = max([errors, theirs, log, null, *locks, *handed]) + 1
        everything = [*handed, *locks, theirs]
        actions = [
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
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
            launch.later += 1
        # fmt: off
        argv = [
            JAIL, "jail",
            "--errors", str(base + len(everything) - 1),
            "--hold", str(base + len(handed)), str(len(locks)),
            "--pid-file", os.path.join(run, "pid"),
            *(["--group", str(guest.boot.group)] if guest.boot and guest.boot.group else []),
            *(["--cgroup", guest.boot.cgroup] if guest.boot and guest.boot.cgroup else []),
            *_jail_args(root, guest, core),
            "--", core.binary, *args, *nics,
        ]
        # fmt: on
        proc.log(" ".join(argv), 2)
        launch.errors = errors
        try:
            launch.jail = os.posix_spawn(
                JAIL, argv, {"PATH": "/usr/bin:/bin", "TMPDIR": "/dev/shm"}, file_actions=actions
            )
        except OSError:
            launch.errors = None
            os.close(errors)
            raise


def _settle(root: str, launch: _Launch, *, wait: bool) -> None:
    """Wait until the jail has let the kernel go, and (`wait`) until the agent has answered."""
    name = launch.name
    if launch.errors is not None:
        text = b""
        while piece := os.read(launch.errors, 4096):
            text += piece
        os.close(launch.errors)
        launch.errors = None
        os.waitpid(launch.jail, 0)
        if text:
            reason = text.decode(errors="replace").strip().rpartition("\n")[2]
            raise DummError(f"cannot start guest '{name}': {reason}")
    if not wait and not launch.later:
        return
    left = max(0.0, launch.deadline - time.monotonic())
    try:
        await_pid(root, name, launch.deadline)
        if launch.later:
            reach.wait_ready(root, name, launch.nonce, left)
            state = load(root)
            for late in state.ifaces_of(name)[-launch.later :]:
                iface.realize(root, state, late)
        ready = reach.wait_ready(root, name, launch.nonce, left)
    except TimedOut:
        raise TimedOut(
            f"guest '{name}' was not ready in time", hint=f"dumm-console log {name}"
        ) from None
    except DummError as e:
        raise DummError(f"cannot start guest '{name}': {last_words(root, name) or e}") from None
    if ready.trouble:
        print(f"guest '{name}': {ready.trouble}", file=sys.stderr)


def await_pid(root: str, name: str, deadline: float) -> None:
    """Another command's jail may not have written the pid yet."""
    while live.pid_of(root, name) is None and live.alive(root, name):
        if time.monotonic() > deadline:
            raise TimedOut(f"guest '{name}' was not ready in time")
        time.sleep(0.005)


def last_words(root: str, name: str) -> str:
    """The line of the console log that says why a kernel ended, when there is one. It is the
    guest's text: neither its length nor what a terminal would do with it is to be relied on."""
    try:
        with open(os.path.join(live.run_dir(root, name), "console.log"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [
        "".join(c if c.isprintable() else " " for c in line).strip()[-500:]
        for line in text.splitlines()
    ]
    for line in reversed(lines):
        if "Kernel panic" in line:
            return line
    return lines[-1] if lines else ""


def _abort(root: str, launch: _Launch) -> None:
    """Undo a start that failed: the process, its taps, the record. One that another command
    began is left to it."""
    if not launch.ours:
        return
    if launch.errors is not None:
        os.close(launch.errors)
        launch.errors = None
        with contextlib.suppress(ChildProcessError):
            os.waitpid(launch.jail, 0)
    with contextlib.suppress(DummError, OSError):
        kill(root, launch.name)
    with contextlib.suppress(DummError, OSError):
        ended(root, launch.name, launch.nonce)


# ---- the end ----


def kill(root: str, name: str) -> None:
    """End the guest's process by force and wait until it and its jail are gone; TimedOut."""
    pidfd = live.pidfd_of(root, name)
    if pidfd is not None:
        try:
            process.send_signal(pidfd, signal.SIGKILL)
            process.wait_exit(pidfd, KILL_TIMEOUT)
        finally:
            os.close(pidfd)
    wait_gone(root, name, KILL_TIMEOUT)


def wait_gone(root: str, name: str, timeout: float) -> None:
    """Wait for the alive lock; TimedOut."""
    path = os.path.join(live.run_dir(root, name), "lock")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        lock(fd, timeout, f"guest '{name}'")
    finally:
        os.close(fd)


def _leave_master(root: str, state: State, guest: Guest, path: str) -> bool:
    """Unmount a tree whose guest was given another master, `path`, while it ran."""
    if guest.boot is None or guest.boot.master in ("", path):
        return False
    return overlay.umount(root, state, guest.name)


def _ceiling(state: State, guest: Guest) -> str:
    """A control group for the guest's memory; nothing where the host lets us have none."""
    try:
        return cgroup.make(f"dumm-{state.id}-{guest.name}", guest.memory + CEILING_OVERHEAD)
    except OSError as e:
        proc.log(f"no memory ceiling for '{guest.name}': {e}", 2)
        return ""


def release(state: State, guest: Guest) -> None:
    """Remove what a boot that is over has left in the host's kernel: taps, the control group."""
    iface.release(state, guest.name)
    if guest.boot is not None and guest.boot.cgroup:
        cgroup.remove(guest.boot.cgroup)


def ended(root: str, name: str, nonce: str) -> None:
    """The boot `nonce` is over: remove the taps, forget the boot, unless another has begun."""
    with transaction(root) as change:
        guest = change.state.guests.get(name)
        if guest is None or guest.boot is None or guest.boot.nonce != nonce:
            return
        release(change.state, guest)
        with contextlib.suppress(DummError):  # it may be gone, and is looked for at the next start
            path = resolve_master(root, guest).path
            if _leave_master(root, change.state, guest, path):
                overlay.mount(root, change.state, guest, path)
        guest.boot = None
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(live.run_dir(root, name), "uml", "ready"))
