"""The command line of a guest's jail (jail.c)."""

from __future__ import annotations

import os

from dumm_tools.agent import INITRD, JAIL, LISTING, PRELOAD
from dumm_tools.guests import arguments, limits, run_dir
from dumm_tools.guests.plan import Plan
from dumm_tools.images.kernel import Kernel
from dumm_tools.running import liveness

#: The program that executes the kernel, at each boot anew (boot.c).
_BOOT = "/boot"


def command(labdir: str, plan: Plan, cgroup: str, locks: int, first: int) -> list[str]:
    """The jail's arguments. Its descriptors are numbered consecutively from `first`: the terminals,
    the locks, the log, the guest's turn, the error pipe."""
    hold = first + len(run_dir.terminals())
    log = hold + locks
    # fmt: off
    return [
        JAIL, "jail",
        "--errors", str(log + 2),
        "--turn", str(log + 1),
        "--hold", str(hold), str(locks + 1),  # with the log
        "--log", str(log),
        "--pid-file", os.path.join(liveness.run_dir(labdir, plan.name), "pid"),
        "--passing", str(int(arguments.passes_descriptors(plan.arguments))),
        *(["--cgroup", cgroup] if cgroup else []),
        *_kernel_files(plan.kernel),
        *_guest_files(labdir, plan),
        "--hostname", plan.name,
        *limits.jail_options(plan.memory),
        "--group", str(plan.group),
        "--user", str(plan.user),
        "--", _BOOT, *plan.arguments, *arguments.of_terminals(first),
    ]
    # fmt: on


def _kernel_files(core: Kernel) -> list[str]:
    """The kernel pack, or a plain binary with the files that it needs from the host."""
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
    return steps


def _guest_files(labdir: str, plan: Plan) -> list[str]:
    """The guest's tree, the directories that it shares with the host, and devices."""
    run = liveness.run_dir(labdir, plan.name)
    # fmt: off
    return [
        "--bind", os.path.join(labdir, "mount", plan.name), "/guest",
        "--bind", os.path.join(run, "uml"), "/run/uml",
        "--symlink", "run/uml", "/uml",
        "--ro-bind", os.path.join(run, "xfer"), "/xfer",
        "--ro-bind", INITRD, "/initrd",
        "--ro-bind", JAIL, _BOOT,
        "--ro-bind", LISTING, "/etc/listing.so",
        "--ro-bind", PRELOAD, "/etc/ld.so.preload",
        "--symlink", plan.kernel.binary, "/kernel",
        "--dev", "/dev/null", "/dev/null",
        "--dev", "/dev/urandom", "/dev/urandom",
        "--dev", "/dev/net/tun", "/dev/net/tun",
        # UML keeps the guest's memory in a file there, and some more MiB.
        "--tmpfs", "/dev/shm",
        f"size={plan.memory + limits.MEMORY_OVERHEAD >> 10}K,nr_inodes=1K,mode=1777",
        "--tmpfs", "/tmp", "size=1M,nr_inodes=1K,mode=1777",
        # UML reads nothing else in /proc.
        "--ro-bind", "/proc/cpuinfo", "/proc/cpuinfo",
    ]
    # fmt: on
