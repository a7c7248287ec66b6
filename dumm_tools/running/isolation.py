"""The lab's own namespaces: how an ordinary user gets links, mounts and guests with no root.

One tiny process holds them (agent/jail/hold.c); the first command that needs them starts it, and
each command enters before its real work. When it ends, all of the lab in the kernel ends with it.
A lab of root's on the host's network has none of this.
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
from dumm_tools.statefile import load, lock, transaction

#: Seconds to wait for another command that makes the namespaces.
MAKE_TIMEOUT = 10.0
#: Seconds to wait for the end of namespaces whose holder was killed.
END_TIMEOUT = 1.0

#: What the state calls the holder.
_NOTE = "holder"

HINT = "'dumm-fs check' reports what this host lacks"


def enter(labdir: str) -> bool:
    """Enter the lab's namespaces; False when there are none: a lab on the host's network, or one
    that is not up."""
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
        if not holder.lives(labdir):  # just now
            return enter(labdir)
        raise DummError(f"cannot enter the lab's namespaces: {e.strerror}", hint=HINT) from None
    finally:
        os.close(pidfd)
    with contextlib.suppress(OSError):
        os.chdir(here)
    return True


def make(labdir: str) -> None:
    """Have the lab's namespaces, and the process that holds them."""
    _check_owner(labdir)
    pidfd = _holder(labdir)
    if pidfd is None:
        pidfd = _made(labdir)
        _note(labdir)
    os.close(pidfd)


def _check_owner(labdir: str) -> None:
    owner = os.stat(labdir).st_uid
    if owner != os.geteuid():  # it was named as safe; that is not for its namespaces
        raise Conflict(
            f"the lab in '{labdir}' has namespaces of user {owner}, which nobody else can enter"
        )


def _holder(labdir: str, *, ending: bool = False) -> int | None:
    known = holder.find(labdir)
    return process.open_pidfd(*known, ending=ending) if known else None


def _made(labdir: str) -> int:
    """Start the holder, unless another command just did; its pidfd."""
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
    """Have the state say who the holder is: whoever removes run/ must not leave it to itself."""
    with transaction(labdir, apart=True) as change:
        if known := holder.find(labdir):
            change.state.extra[_NOTE] = [liveness.host_boot(), *known]


def _end_lost(labdir: str) -> None:
    """End a holder that run/ does not know any more. Its guests cannot be reached: what leads to
    them was in run/ as well. Under the holder's lock: another command may just have made one."""
    try:
        note = load(labdir).extra.get(_NOTE)
    except NotFound:  # a rehearsal
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
    """Let what an earlier holder leaves in the kernel go first. Not for long: it is there until
    its last process is reaped, and whose parent was killed is left to a pid 1 that may not care."""
    pidfd = _holder(labdir, ending=True)
    if pidfd is not None:
        process.wait_exit(pidfd, END_TIMEOUT)
        os.close(pidfd)


def _spawn(labdir: str, locked: int) -> None:
    """With a range of ids where newuidmap grants one, else with our own id alone. The lock stays
    until the holder holds, even if we are killed."""
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
    """Run the holder; what it says when it fails."""
    agent.need(agent.JAIL)
    from dumm_tools.linux import child  # seldom needed

    path = holder.file_of(labdir)

    def command(first: int) -> list[str]:
        return [agent.JAIL, "hold", "--errors", str(first + 1), "--pid-file", path, *way]

    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    return child.spawn(agent.JAIL, [locked], command, env).wait()


def end(labdir: str) -> None:
    """End the holder, and with it what of the lab is in the kernel."""
    pidfd = _holder(labdir, ending=True)
    if pidfd is not None:
        process.send_signal(pidfd, signal.SIGKILL)
        if not process.wait_exit(pidfd, END_TIMEOUT) and holder.lives(labdir):
            process.wait_exit(pidfd, MAKE_TIMEOUT)
        os.close(pidfd)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(holder.file_of(labdir))


def rehearse(place: str) -> None:
    """Make namespaces as a lab's, and end them; DummError. `place` is a directory for them."""
    os.mkdir(os.path.join(place, "run"))
    os.mknod(os.path.join(place, ".lock"))
    os.close(_made(place))
    end(place)


def run_inside(argv: Sequence[str], *, prog: str, shell: bool = False) -> int:
    """Run a program of the host where the lab's links and mounts are (after `enter`); its status.

    It is a child: children are in the lab's pid namespace, and end with the lab. A terminal's
    signals reach it as they reach us; those that are sent to us go on to it. A `shell` that has
    jobs needs a process group that it can see, which ours is not, and gives its terminal.
    """
    pid = 0
    terminal = shell and os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()

    def forward(number: int, _frame: object) -> None:
        os.kill(pid, number)

    ours: dict[int, Any] = {signal.SIGINT: signal.SIG_IGN, signal.SIGQUIT: signal.SIG_IGN}
    ours |= {signal.SIGTERM: forward, signal.SIGHUP: forward, signal.SIGTTOU: signal.SIG_IGN}
    # What comes before both sides are set up waits until they are.
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
            with contextlib.suppress(OSError):  # only few programs mind
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
    """For an ordinary user: be root of a new user namespace with a lab's id map, so that masters
    made there have the owners that guests will see. Root stays what it is."""
    if os.geteuid() == 0:
        return
    from dumm_tools.linux import child  # seldom needed

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

    # newuidmap must come from outside the new namespace: a child that stays there.
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
                    if name == "setgroups" or not file.read():  # one helper may have done its part
                        file.write(text)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as e:
        raise DummError(f"cannot become root of a user namespace: {e.strerror}") from None
