"""The lab's own namespaces: how an ordinary user gets links, mounts and guests without root.

One tiny process holds them (agent/jail/hold.c); the first command that needs them starts it, and
each command enters them before its real work. When it ends, everything that the lab has in the
kernel ends with it. A lab of root on the host's network has none of this.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Any

from dumm_tools import agent, errors, holder, messages, proc
from dumm_tools.errors import Conflict, DummError, NotFound
from dumm_tools.linux import namespaces, pinned, process
from dumm_tools.running import liveness
from dumm_tools.statefile import load, transaction
from dumm_tools.waiting import lock

#: Seconds to wait for another command that is creating the namespaces.
MAKE_TIMEOUT = 10.0
#: Seconds to wait for the end of namespaces whose holder was killed.
END_TIMEOUT = 1.0

#: The key of the holder in the state.
_NOTE = "holder"

HINT = "'dumm-fs check' reports what this host lacks"


def enter(labdir: str) -> bool:
    """Enter the lab's namespaces; False if there are none: a lab on the host's network, or one that
    is not up."""
    _check_owner(labdir)
    pidfd = _holder(labdir)
    if pidfd is None:
        return False
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = "/"
    pinned.pin()
    try:
        namespaces.enter(pidfd)
    except OSError as e:
        if not holder.lives(labdir):  # it has just ended
            return enter(labdir)
        raise DummError(f"cannot enter the lab's namespaces: {e.strerror}", hint=HINT) from None
    finally:
        os.close(pidfd)
    with contextlib.suppress(OSError):
        os.chdir(here)
    return True


def make(labdir: str) -> None:
    """Create the lab's namespaces and the process that holds them, if necessary."""
    _check_owner(labdir)
    pidfd = _holder(labdir)
    if pidfd is None:
        pidfd = _made(labdir)
        _note(labdir)
    os.close(pidfd)


def _check_owner(labdir: str) -> None:
    owner = os.stat(labdir).st_uid
    if owner != os.geteuid():  # even if it was named as safe, which does not cover its namespaces
        raise Conflict(
            f"the lab in '{labdir}' has namespaces of user {owner}, which nobody else can enter"
        )


def _holder(labdir: str, *, ending: bool = False) -> int | None:
    known = holder.find(labdir)
    return process.open_pidfd(*known, ending=ending) if known else None


def _made(labdir: str) -> int:
    """Start the holder, unless another command has just done so; return its pidfd."""
    run = os.path.join(labdir, "run")
    os.makedirs(run, 0o700, exist_ok=True)
    fd = os.open(os.path.join(run, "holder.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(fd, MAKE_TIMEOUT, "the lab's holder")
        pidfd = _holder(labdir)
        if pidfd is None:
            _end_lost(labdir)
            _await_end(labdir)
            _spawn(labdir, fd)
            pidfd = _holder(labdir)
        if pidfd is None:
            raise DummError("the lab's namespaces ended immediately", hint=HINT)
        return pidfd
    finally:
        os.close(fd)


def _note(labdir: str) -> None:
    """Record the holder in the state, so that it can still be found after run/ was removed."""
    with transaction(labdir, apart=True) as change:
        if known := holder.find(labdir):
            change.state.extra[_NOTE] = [liveness.host_boot(), *known]


def _end_lost(labdir: str) -> None:
    """End a holder that run/ no longer knows. Its guests cannot be reached, as the paths to them
    were in run/, too. Call this under the holder's lock: another command may have just created one.
    """
    try:
        note = load(labdir).extra.get(_NOTE)
    except NotFound:  # a rehearsal has no state
        return
    match note:
        case [str(boot), int(pid), int(started)] if boot == liveness.host_boot():
            pidfd = process.open_pidfd(pid, started)
            if pidfd is not None:
                if namespaces.is_holder(pidfd):
                    process.send_signal(pidfd, signal.SIGKILL)
                    process.wait_exit(pidfd, MAKE_TIMEOUT)
                os.close(pidfd)


def _await_end(labdir: str) -> None:
    """Wait for the remains of an earlier holder to disappear from the kernel. Not for long: they
    exist until its last process is reaped, and an orphan is left to a pid 1 that may not reap it.
    """
    pidfd = _holder(labdir, ending=True)
    if pidfd is not None:
        process.wait_exit(pidfd, END_TIMEOUT)
        os.close(pidfd)


def _spawn(labdir: str, locked: int) -> None:
    """Start it with a range of ids if newuidmap grants one, otherwise with our own id only. The
    lock stays taken until the holder is set up, even if we are killed."""
    uids, gids = namespaces.id_map("uid"), namespaces.id_map("gid")
    ways = [("--map", uids, gids)]
    if os.geteuid() != 0:
        ways = [("--map", uids.split("\n")[0] + "\n", gids.split("\n")[0] + "\n")]
        if uids.count("\n") > 1 and gids.count("\n") > 1:
            ways.insert(0, ("--helpers", uids, gids))
    for number, way in enumerate(ways):
        error = _hold(labdir, way, locked)
        if not error:
            return
        if number == len(ways) - 1:
            raise DummError(f"cannot make the lab's namespaces: {error}", hint=HINT)


def _hold(labdir: str, way: Sequence[str], locked: int) -> str:
    """Run the holder; return its error message if it fails."""
    agent.need(agent.JAIL)
    from dumm_tools.linux import child  # rarely needed

    path = holder.file_of(labdir)

    def command(first: int) -> list[str]:
        return [agent.JAIL, "hold", "--errors", str(first + 1), "--pid-file", path, *way]

    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    return child.spawn(agent.JAIL, [locked], command, env).wait()


def end(labdir: str) -> None:
    """End the holder, and with it everything that the lab has in the kernel."""
    pidfd = _holder(labdir, ending=True)
    if pidfd is not None:
        process.send_signal(pidfd, signal.SIGKILL)
        if not process.wait_exit(pidfd, END_TIMEOUT) and holder.lives(labdir):
            process.wait_exit(pidfd, MAKE_TIMEOUT)
        os.close(pidfd)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(holder.file_of(labdir))


def rehearse(place: str) -> None:
    """Create namespaces like a lab's, and end them; DummError. `place` is a directory for them."""
    os.mkdir(os.path.join(place, "run"))
    os.mknod(os.path.join(place, ".lock"))
    os.close(_made(place))
    end(place)


def run_inside(argv: Sequence[str], *, prog: str, shell: bool = False) -> int:
    """Run a program of the host inside the lab's namespaces (after `enter`); return its status.

    It is run as a child: children are in the lab's pid namespace, and end with the lab. Signals
    from a terminal reach it directly; those sent to us are forwarded to it. A `shell` with job
    control needs a process group that it can see, which ours is not, and control of its terminal.
    """
    pid = 0
    terminal = shell and os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()

    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, perhaps by the same signal
            os.kill(pid, number)

    ours: dict[int, Any] = {signal.SIGINT: signal.SIG_IGN, signal.SIGQUIT: signal.SIG_IGN}
    ours |= {signal.SIGTERM: forward, signal.SIGHUP: forward, signal.SIGTTOU: signal.SIG_IGN}
    # Signals are blocked until both processes are set up.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    previous = {number: signal.signal(number, handler) for number, handler in ours.items()}
    try:
        pid = os.fork()
        if pid == 0:
            if terminal:
                os.setpgid(0, 0)
                os.tcsetpgrp(0, os.getpgrp())
            for number in (*ours, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            with contextlib.suppress(OSError):  # matters only to few programs
                namespaces.ease_setgroups()
            try:
                os.execvp(argv[0], list(argv))
            except OSError as e:
                code = 127 if isinstance(e, FileNotFoundError) else 126
                messages.say(f"{prog}: cannot run '{argv[0]}': {e.strerror}")
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _, status = os.waitpid(pid, os.WUNTRACED if terminal else 0)
        while os.WIFSTOPPED(status):  # nobody else could wake it
            os.killpg(pid, signal.SIGCONT)
            _, status = os.waitpid(pid, os.WUNTRACED)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if terminal:
            os.tcsetpgrp(0, os.getpgrp())
        for number, handler in previous.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def become_root() -> None:
    """For an ordinary user: become root of a new user namespace with a lab's id map, so that
    masters made there have the owners that guests will see. Root is not affected."""
    if os.geteuid() == 0:
        return
    from dumm_tools.linux import child  # rarely needed

    uids, gids = namespaces.id_map("uid"), namespaces.id_map("gid")
    ranges = uids.count("\n") > 1 and gids.count("\n") > 1
    own_uid, own_gid = uids.split("\n")[0], gids.split("\n")[0]
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()

    def write_maps() -> None:
        os.close(go_write)
        if not (os.read(go_read, 1) and ranges):
            raise DummError("there are no ranges of ids to map")
        for program, text in (("newuidmap", uids), ("newgidmap", gids)):
            proc.run([program, str(parent), *text.split()])

    # newuidmap must run outside the new namespace: in a child that stays there.
    helper = child.fork(write_maps, errors.explain)
    os.close(go_read)
    try:
        try:
            namespaces.unshare(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS)
        except OSError as e:
            os.close(go_write)
            helper.wait()
            raise DummError(f"cannot make a user namespace: {e.strerror}", hint=HINT) from None
        os.write(go_write, b"g")
        os.close(go_write)
        if helper.wait():
            for name, text in (("setgroups", "deny"), ("uid_map", own_uid), ("gid_map", own_gid)):
                with open(f"/proc/self/{name}", "r+", encoding="ascii") as file:
                    if (
                        name == "setgroups" or not file.read()
                    ):  # one of the helpers may have succeeded
                        file.write(text)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as e:
        raise DummError(f"cannot become root of a user namespace: {e.strerror}") from None
