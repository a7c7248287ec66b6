"""Starting a guest's processes: jails with the descriptors that its kernel and server need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dumm_tools import proc
from dumm_tools.agent import JAIL
from dumm_tools.guests import jail, run_dir
from dumm_tools.guests.plan import Plan
from dumm_tools.linux import child, fifo, mount
from dumm_tools.linux.child import Child
from dumm_tools.running import liveness

if TYPE_CHECKING:
    import socket

_LOG = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
#: Connections that wait: more than a kernel and, after a reboot, its successor.
_BACKLOG = 4


class Launchers(NamedTuple):
    """The launchers of a guest's jails, which report whether they could start the programs."""

    jails: tuple[Child, ...]

    def wait(self) -> str:
        """Wait until all of them have ended; return the first error, or "" if there was none."""
        return next(filter(None, [each.wait() for each in self.jails]), "")


def spawn(
    labdir: str, plan: Plan, cgroup: str, turn: int, locks: list[int], disks: Sequence[int]
) -> Launchers:
    """Start the jails; return their launchers. The kernel's jail has mounts of the disks, which are
    open files.

    The keepers hold copies of the locks until the guest has ended. The launchers hold copies of the
    turn until they are done, so that no other command has the turn while the pid is not known. All
    descriptors that are opened here are closed again.

    Each of the keepers of kernel and server has one end of a pair of sockets: when one is gone, for
    whatever reason, the other ends.
    """
    run = liveness.run_dir(labdir, plan.name)
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        def log(name: str) -> int:
            fd = opened(os.open(os.path.join(run, name), _LOG, 0o600))
            os.fchmod(fd, 0o600)
            return fd

        started: list[Child] = []
        peer: list[int] = []
        if (server := plan.server) is not None:
            import socket

            ends = [stack.enter_context(end) for end in socket.socketpair()]
            listening = stack.enter_context(_listening(run))
            row = [*locks, ends[0].fileno(), listening.fileno(), log("server.log"), turn]
            started.append(
                _spawn(
                    row,
                    lambda n: jail.server_command(labdir, plan, server, cgroup, len(locks), n),
                )
            )
            peer = [ends[1].fileno()]
        # Through a read-only mount, so that the guest cannot change their modes and owners.
        mounted = opened(mount.clone_tree(run))
        mount.close_for_writing(mounted)
        terminals = [
            opened(fifo.open_both(f"/proc/self/fd/{mounted}/{name}"))
            for name in run_dir.terminals()
        ]
        trees = [opened(mount.clone_tree(f"/proc/self/fd/{fd}")) for fd in disks]
        row = [*terminals, *trees, *locks, *peer, log("console.log"), turn]
        started.append(
            _spawn(row, lambda first: jail.command(labdir, plan, cgroup, len(locks), first))
        )
        return Launchers(tuple(started))


def _spawn(descriptors: Sequence[int], command: Callable[[int], list[str]]) -> Child:
    def logged(first: int) -> list[str]:
        argv = command(first)
        proc.log(" ".join(argv), 2)
        return argv

    return child.spawn(JAIL, descriptors, logged, env={})


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
