"""Starting a guest's process: a jail with the descriptors that its kernel needs."""

from __future__ import annotations

import contextlib
import os

from dumm_tools import proc
from dumm_tools.agent import JAIL
from dumm_tools.guests import jail, run_dir
from dumm_tools.guests.plan import Plan
from dumm_tools.linux import child, fifo, mount
from dumm_tools.linux.child import Child
from dumm_tools.running import liveness

_LOG = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


def spawn(labdir: str, plan: Plan, cgroup: str, turn: int, locks: list[int]) -> Child:
    """Start the jail; return its launcher, which reports whether it could start the kernel.

    The keeper holds copies of the locks until the guest has ended. The launcher holds a copy of the
    turn until it is done, so that no other command has the turn while the pid is not known. All
    descriptors that are opened here are closed again.
    """
    run = liveness.run_dir(labdir, plan.name)
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        log = opened(os.open(os.path.join(run, "console.log"), _LOG, 0o600))
        os.fchmod(log, 0o600)
        # Through a read-only mount, so that the guest cannot change their modes and owners.
        mounted = opened(mount.clone_tree(run))
        mount.close_for_writing(mounted)
        terminals = [
            opened(fifo.open_both(f"/proc/self/fd/{mounted}/{name}"))
            for name in run_dir.terminals()
        ]

        def command(first: int) -> list[str]:
            argv = jail.command(labdir, plan, cgroup, len(locks), first)
            proc.log(" ".join(argv), 2)
            return argv

        return child.spawn(JAIL, [*terminals, *locks, log, turn], command, env={})
