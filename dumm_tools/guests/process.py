"""A guest's process: descriptors opened and handed to the jail, which starts the kernel."""

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
#: Not TMPDIR: a C library forgets that one where the real user is another (ld.so(8)).
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "TMP": "/dev/shm"}


def spawn(labdir: str, plan: Plan, cgroup: str, turn: int, locks: list[int]) -> Child:
    """Start the jail, whose launcher reports whether it could start the kernel. The guest's keeper
    has copies of the locks as long as it lives, the launcher one of the turn: until it has ended,
    nobody else has that guest's. All that is opened here is closed again."""
    run = liveness.run_dir(labdir, plan.name)
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        log = opened(os.open(os.path.join(run, "console.log"), _LOG, 0o600))
        os.fchmod(log, 0o600)
        # By a mount that is read-only: their modes and owners are ours.
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

        return child.spawn(JAIL, [*terminals, *locks, log, turn], command, _ENVIRONMENT)
