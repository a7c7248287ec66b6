"""Starting and stopping guests' processes: from records to a kernel that answers, and back.

A start writes its intent first, then makes taps, lines and the mount, then hands the alive lock
to the keeper of the guest's jail. Whatever moment it is killed at, the state it leaves is one
that the next start can go on from: not alive, or alive and booting by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping

from dumm_tools import proc
from dumm_tools.agent import protocol
from dumm_tools.agent.protocol import Ready
from dumm_tools.errors import Conflict, DummError, NotFound, TimedOut
from dumm_tools.files import choice, mounts, workdir
from dumm_tools.guests import launch
from dumm_tools.guests.launch import Launch
from dumm_tools.images import cache
from dumm_tools.linux import cgroup, process, rtnl
from dumm_tools.model import Boot, Guest, State
from dumm_tools.net import iface
from dumm_tools.running import contact, guest_views, liveness, turn
from dumm_tools.statefile import load, lock, must_not_wait, transaction

#: How many guests of one command boot at the same time.
WINDOW = 32
#: Seconds that one of them is waited for while others may be ready.
TURN = 1.0
#: Seconds a killed process may take to be gone.
KILL_TIMEOUT = 10.0
#: Seconds that the log of a kernel that has ended may take until it is whole.
LAST_WORDS = 1.0

OnError = Callable[[str, Exception], None]


# ---- start ----


def start(
    labdir: str,
    names: Iterable[str],
    *,
    timeout: float,
    wait: bool = True,
    on_error: OnError,
    warn: Callable[[str], None] = lambda _: None,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Start guests side by side; return when each is ready or has failed (`on_error`). What goes
    wrong inside one that is ready all the same is said to `warn`."""
    names = list(names)
    state = load(labdir)
    if state.bridges or state.ifaces:
        rtnl.load()  # 10 ms at the first call, or 20: not under the state's lock
    pending: list[Launch] = []
    done = 0

    def settle() -> None:
        """Bring one to its end, be it another than the first: each has its turn."""
        nonlocal done
        while True:
            started = pending[0]
            try:
                settled = _settle(labdir, started, warn, wait=wait, least=min(TURN, timeout))
            except Exception as e:  # whatever one does, the others go on
                _abort(labdir, started)
                on_error(started.name, e)
                break
            if settled:
                done += 1
                progress(f"{done} of {len(names)} guests ready")
                break
            pending.append(pending.pop(0))
        del pending[0]

    try:
        for name in names:
            try:
                _launch(labdir, name, timeout, pending)
            except Exception as e:
                if pending and pending[-1].name == name:
                    _abort(labdir, pending.pop())
                on_error(name, e)
            if len(pending) >= WINDOW:
                settle()
        while pending:
            settle()
    except BaseException:
        for started in pending:
            _abort(labdir, started)
        raise


def _launch(labdir: str, name: str, timeout: float, pending: list[Launch]) -> None:
    """Start one guest's process; it is in `pending` from before there is one."""
    nonce = os.urandom(8).hex()
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(turn.taken(labdir, name)):
            raise NotFound(f"no guest '{name}'")
        alive = _take_alive_lock(labdir, name, stack)
        stack.callback(launch.sweep, labdir, name)
        change = stack.enter_context(transaction(labdir))
        state = change.state
        guest = guest_views.get(state, name)
        if alive is None:
            now = liveness.guest_state(labdir, state, guest)
            if now == "starting" and guest.boot:
                # Its starter is still there or was killed: either way it boots by itself.
                pending.append(Launch(name, guest.boot.nonce, deadline, None, ours=False))
                return
            raise Conflict(f"guest '{name}' is {now}")
        launch.need_parts()
        core, tree = choice.resolve_kernel(labdir, guest), choice.resolve_master(labdir, guest)
        held = [cache.hold(part.lock, part.path) for part in (core, tree) if part.lock is not None]
        for fd in held:
            stack.callback(os.close, fd)
        launch.fresh_run_dir(labdir, name)
        choice.leave_master(labdir, state, guest, tree.path)
        guest.boot = Boot(
            nonce,
            "starting",
            liveness.epoch(labdir, state),
            kernel=core.path,
            master=tree.path,
            group=launch.own_group(state),
            cgroup=launch.ceiling(state, guest),
        )
        change.save()
        # Until the hand-over, a failure puts everything back.
        undo = stack.enter_context(contextlib.ExitStack())
        undo.callback(release, state, guest)
        nics = iface.prepare(state, name)
        if not mounts.is_mounted(labdir, state, name):
            workdir.drop(labdir, name)
        if mounts.mount(labdir, state, guest, tree.path):
            proc.log(f"mounted mount/{name}")
        launch.need_init(labdir, guest)
        contact.write_boot(labdir, guest, iface.boot_records(state, name))
        args = launch.kernel_args(labdir, guest, core, nonce)
        started = Launch(name, nonce, deadline, None)
        pending.append(started)
        launch.spawn(labdir, guest, core, args, nics, [alive, *held], started)
        undo.pop_all()


def _take_alive_lock(labdir: str, name: str, stack: contextlib.ExitStack) -> int | None:
    """The alive lock of a guest whose turn we have; None for one that runs or is starting."""
    path = os.path.join(liveness.run_dir(labdir, name), "lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    stack.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        state = load(labdir)
        if liveness.guest_state(labdir, state, guest_views.get(state, name)) not in (
            "stopped",
            "crashed",
        ):
            return None
        # A reader holds it for microseconds; a guest that just ended, until its memory is freed.
        lock(fd, KILL_TIMEOUT, f"guest '{name}'")
    return fd


def _settle(
    labdir: str, started: Launch, warn: Callable[[str], None], *, wait: bool, least: float
) -> bool:
    """Wait until the jail has let the kernel go, and (`wait`) until the agent has answered. False
    when it has not in its turn, and has time left; its first is `least` seconds, however late."""
    name, begin = started.name, time.monotonic()
    end = min(begin + TURN, started.deadline)
    if started.errors is not None:
        _await_jail(started)
        end = max(end, begin + least)
    if not wait and not started.later:
        return True
    try:
        await_pid(labdir, name, end)
        ready = _ready(labdir, started, end)
        if started.later:
            iface.plug_late(labdir, name, started.later)
            started.later = 0
            ready = _ready(labdir, started, end)
    except TimedOut:
        if time.monotonic() < started.deadline:
            return False
        raise TimedOut(
            f"guest '{name}' was not ready in time", hint=f"dumm-console log {name}"
        ) from None
    except DummError as e:
        raise DummError(f"cannot start guest '{name}': {last_words(labdir, name) or e}") from None
    if ready.trouble:
        warn(f"guest '{name}': {ready.trouble}")
    return True


def _await_jail(started: Launch) -> None:
    """Read what the jail could not do; nothing when it has become the kernel."""
    assert started.errors is not None
    text = b""
    while piece := os.read(started.errors, 4096):
        text += piece
    os.close(started.errors)
    started.errors = None
    os.waitpid(started.jail, 0)
    if text:
        reason = text.decode(errors="replace").strip().rpartition("\n")[2]
        raise DummError(f"cannot start guest '{started.name}': {reason}")


def _ready(labdir: str, started: Launch, end: float) -> Ready:
    """Wait for the agent until `end`: later than that it may be another's turn."""
    left = max(0.0, end - time.monotonic())
    return contact.wait_ready(labdir, started.name, started.nonce, left)


def await_pid(labdir: str, name: str, deadline: float) -> None:
    """Another command's jail may not have written the pid yet."""
    while liveness.pid_of(labdir, name) is None and liveness.alive(labdir, name):
        if time.monotonic() > deadline:
            raise TimedOut(f"guest '{name}' was not ready in time")
        time.sleep(0.005)


def last_words(labdir: str, name: str) -> str:
    """The line of the console log that says why a kernel ended, when there is one. It is the
    guest's text: neither its length nor what a terminal would do with it is to be relied on."""
    with contextlib.suppress(TimedOut):  # its keeper is still writing
        wait_gone(labdir, name, LAST_WORDS)
    try:
        with open(os.path.join(liveness.run_dir(labdir, name), "console.log"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            text = file.read(65536)
    except OSError:
        return ""
    lines = [" ".join(protocol.printable(line[-500:]).split()) for line in text.splitlines()]
    for line in reversed(lines):
        if "Kernel panic" in line:
            return line
    return lines[-1] if lines else ""


def _abort(labdir: str, started: Launch) -> None:
    """Undo a start that failed: the process, its taps, the record. One that another command
    began is left to it."""
    if not started.ours:
        return
    if started.errors is not None:
        with contextlib.suppress(OSError):  # Ctrl-C may have come just when it was closed
            os.close(started.errors)
        started.errors = None
        with contextlib.suppress(ChildProcessError):
            os.waitpid(started.jail, 0)
    with contextlib.suppress(DummError, OSError):
        kill(labdir, started.name)
    with contextlib.suppress(DummError, OSError):
        ended(labdir, {started.name: started.nonce})


# ---- the end ----


def kill(labdir: str, name: str) -> None:
    """End the guest's process by force and wait until it and its jail are gone; TimedOut."""
    pidfd = liveness.pidfd_of(labdir, name)
    if pidfd is not None:
        try:
            process.send_signal(pidfd, signal.SIGKILL)
            process.wait_exit(pidfd, KILL_TIMEOUT)
        finally:
            os.close(pidfd)
    wait_gone(labdir, name, KILL_TIMEOUT)


def wait_gone(labdir: str, name: str, timeout: float) -> None:
    """Wait for the alive lock; TimedOut."""
    must_not_wait(f"the end of guest '{name}'")
    path = os.path.join(liveness.run_dir(labdir, name), "lock")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        lock(fd, timeout, f"guest '{name}'")
    finally:
        os.close(fd)


def release(state: State, *guests: Guest) -> None:
    """Remove what boots that are over have left in the host's kernel: taps, control groups."""
    iface.release(state, *(guest.name for guest in guests))
    for guest in guests:
        if guest.boot is not None and guest.boot.cgroup:
            cgroup.remove(guest.boot.cgroup)


def ended(labdir: str, nonces: Mapping[str, str]) -> None:
    """The boots of these guests are over: remove the taps, all in one step, and forget the boots,
    but for those guests that have begun another."""
    if not nonces:
        return
    state = load(labdir)
    if state.ifaces:
        rtnl.load()
    with contextlib.ExitStack() as turns:
        for name in sorted(nonces.keys() & state.guests.keys()):
            if _has_left_master(labdir, state.guests[name]):
                with contextlib.suppress(TimedOut):  # who has it is about to end, as the guest did
                    turns.enter_context(turn.taken(labdir, name))
        change = turns.enter_context(transaction(labdir))
        known = change.state.guests
        over = [
            guest
            for guest in (known[name] for name in nonces if name in known)
            if (guest.boot.nonce if guest.boot else "") == nonces[guest.name]
        ]
        release(change.state, *over)
        for guest in over:
            with contextlib.suppress(DummError):  # it may be gone; the next start looks for it
                path = choice.resolve_master(labdir, guest).path
                if choice.leave_master(labdir, change.state, guest, path):
                    mounts.mount(labdir, change.state, guest, path)
            guest.boot = None
    for guest in over:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(liveness.run_dir(labdir, guest.name), "uml", "ready"))


def _has_left_master(labdir: str, guest: Guest) -> bool:
    """Was a guest given another master while it ran, so that its tree is to be mounted anew?"""
    with contextlib.suppress(DummError):
        path = choice.resolve_master(labdir, guest).path
        return guest.boot is not None and guest.boot.master not in ("", path)
    return False
