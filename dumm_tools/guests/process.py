"""Starting a guest's processes: jails with the descriptors that its kernel and server need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dumm_tools import proc
from dumm_tools.agent import JAIL
from dumm_tools.errors import DummError
from dumm_tools.guests import jail, run_dir
from dumm_tools.guests.plan import Parts, Plan
from dumm_tools.linux import child, fifo, mount
from dumm_tools.linux.child import Child
from dumm_tools.running import liveness

if TYPE_CHECKING:
    import socket

_LOG = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
#: The hint if the host refuses to start a process.
LIMIT = "the limit of processes is too low: ulimit -u"
#: Connections that wait: more than a kernel and, after a reboot, its successor.
_BACKLOG = 4


class Launchers(NamedTuple):
    """The launchers of a guest's jails, which report whether they could start the programs."""

    jails: tuple[Child, ...]

    def wait(self) -> str:
        """Wait until all of them have ended; return the first error, or "" if there was none."""
        return next(filter(None, [each.wait() for each in self.jails]), "")


def spawn(labdir: str, plan: Plan, parts: Parts, cgroup: str, turn: int, alive: int) -> Launchers:
    """Start the jails; return their launchers. The kernel's jail has mounts of the disks, which are
    open files.

    The keepers hold copies of the locks until the guest has ended. The launchers hold copies of the
    turn until they are done, so that no other command has the turn while the pid is not known. All
    descriptors that are opened here are closed again; a launcher is waited for if the other one
    cannot be started.

    Each of the keepers of kernel and server has one end of a pair of sockets: when one is gone, for
    whatever reason, the other ends.
    """
    run = liveness.run_dir(labdir, plan.name)
    locks = [alive, *parts.locks, *parts.disks]
    with contextlib.ExitStack() as failed, contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        def log(name: str) -> int:
            fd = opened(os.open(os.path.join(run, name), _LOG, 0o600))
            os.fchmod(fd, 0o600)
            return fd

        started: list[Child] = []
        peer: list[int] = []
        server, files = plan.server, parts.server_files
        if server is not None and files is not None:
            import socket

            ends = [stack.enter_context(end) for end in socket.socketpair()]
            listening = stack.enter_context(_listening(run))
            row = [*files.descriptors, *locks, ends[0].fileno(), listening.fileno()]
            started.append(
                _spawn(
                    [*row, log("server.log"), turn],
                    lambda n: jail.server_command(
                        labdir, plan, server, files, cgroup, len(locks), n
                    ),
                )
            )
            failed.callback(started[0].wait)
            peer = [ends[1].fileno()]
        # Through a read-only mount, so that the guest cannot change their modes and owners.
        mounted = opened(mount.clone_tree(run))
        mount.close_for_writing(mounted)
        terminals = [
            opened(fifo.open_both(f"/proc/self/fd/{mounted}/{name}"))
            for name in run_dir.terminals()
        ]
        trees = [opened(mount.clone_tree(f"/proc/self/fd/{fd}")) for fd in parts.disks]
        row = [*terminals, *parts.kernel_files.descriptors, *trees, *locks, *peer]
        started.append(
            _spawn(
                [*row, log("console.log"), turn],
                lambda n: jail.command(labdir, plan, parts.kernel_files, cgroup, len(locks), n),
            )
        )
        failed.pop_all()
        return Launchers(tuple(started))


def _spawn(descriptors: Sequence[int], command: Callable[[int], list[str]]) -> Child:
    def logged(first: int) -> list[str]:
        argv = command(first)
        proc.log(" ".join(argv), 2)
        return argv

    try:
        return child.spawn(JAIL, descriptors, logged, env={})
    except BlockingIOError as e:  # the limit of processes
        raise DummError(f"cannot start a process: {e.strerror}", hint=LIMIT) from None


def _listening(run: str) -> socket.socket:
    """The socket that the guest's kernel finds its server at: connections are queued from now on,
    so the two need not wait for each other."""
    import socket

    path = os.path.join(run, "files")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    found = socket.socket(socket.AF_UNIX)
    directory = os.open(run, os.O_PATH | os.O_CLOEXEC)
    try:
        before = os.umask(0o177)
        try:
            found.bind(f"/proc/self/fd/{directory}/files")  # the path itself may be too long
        finally:
            os.umask(before)
        found.listen(_BACKLOG)
    except BaseException:
        found.close()
        raise
    finally:
        os.close(directory)
    return found
