"""The command lines of a guest's jails (jail.c): its kernel's, and its server's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dumm_tools.agent import INITRD, JAIL, PRELOAD, PRELOAD_LIST
from dumm_tools.guests import arguments, disks, limits, run_dir
from dumm_tools.guests.plan import Plan
from dumm_tools.guests.program_files import ProgramFiles
from dumm_tools.model import FIRST_ROOT
from dumm_tools.running import contact, liveness

if TYPE_CHECKING:
    from dumm_tools.images.virtiofsd import Server

#: The program that executes the kernel, at each boot anew (boot.c).
_BOOT = "/boot"
#: The program that executes the server, for each boot anew (serve.c).
_SERVE = "/serve"
_NR_OPEN = "/proc/sys/fs/nr_open"
#: Attributes that mean something to overlayfs on the host get other names there (see EXTENDED
#: ATTRIBUTE MAPPING in virtiofsd's manual): the guest sees only those that it has set itself.
#: Moreover, "trusted." needs a capability that the server does not have.
_XATTRS = (
    ":bad:client:user.dumm.::"
    ":prefix:all:trusted.:user.dumm.:"
    ":prefix:all:user.overlay.:user.dumm.:"
    ":bad:server::trusted.:"
    ":bad:server::user.overlay.:"
    ":ok:all:::"
)
# fmt: off
#: The arguments of virtiofsd: it has neither to make a jail nor to filter its system calls. With a
#: pool of threads everything takes longer, since a guest has one CPU.
_SERVER_OPTIONS = [
    "--shared-dir", contact.SERVED,
    "--tag", contact.ROOT_TAG,
    "--sandbox", "none",
    "--thread-pool-size", "0",
    "--seccomp", "none",
    "--modcaps=-mknod:-dac_read_search",
    "--inode-file-handles=never",
    "--rlimit-nofile", "0",
    "--no-announce-submounts",
    "--posix-acl",
    "--xattrmap", _XATTRS,
    "--log-level", "warn",
]
# fmt: on


def command(
    labdir: str, plan: Plan, files: ProgramFiles, cgroup: str, locks: int, first: int
) -> list[str]:
    """The arguments of the kernel's jail. Its descriptors are numbered consecutively from `first`:
    the terminals, the kernel's files, the disks, the locks, the end of a socket that connects it to
    the server's jail if there is one, the log, the guest's turn, the error pipe."""
    program = first + len(run_dir.terminals())
    disk = program + len(files.mounts)
    hold = disk + len(plan.disks)
    peer = hold + locks
    log = peer + (plan.server is not None)
    # fmt: off
    return [
        JAIL, "jail",
        "--errors", str(log + 2),
        "--turn", str(log + 1),
        "--hold", str(hold), str(log + 1 - hold),
        *(["--role", "client", "--peer", str(peer)] if plan.server is not None else []),
        "--log", str(log),
        "--pid-file", os.path.join(liveness.run_dir(labdir, plan.name), "pid"),
        "--passing", str(int(arguments.passes_descriptors(plan.arguments))),
        *(["--cgroup", cgroup] if cgroup else []),
        *files.steps(program),
        *_guest_files(labdir, plan),
        *_disks(plan, disk),
        "--hostname", plan.name,
        *limits.jail_options(plan.memory),
        "--group", str(plan.group),
        "--user", str(plan.user),
        "--", _BOOT, *plan.arguments, *arguments.of_terminals(first),
    ]
    # fmt: on


def server_command(
    labdir: str,
    plan: Plan,
    server: Server,
    files: ProgramFiles,
    cgroup: str,
    locks: int,
    first: int,
) -> list[str]:
    """The arguments of the jail of the server of the root file system. Its descriptors are: the
    server's files, the locks, the end of the socket, the listening socket, the log, the guest's
    turn, the error pipe."""
    hold = first + len(files.mounts)
    peer = hold + locks
    listen, log = peer + 1, peer + 2
    run = liveness.run_dir(labdir, plan.name)
    # fmt: off
    return [
        JAIL, "jail",
        "--errors", str(log + 2),
        "--turn", str(log + 1),
        "--hold", str(hold), str(locks + 3),
        "--role", "server", "--peer", str(peer), "--listen", str(listen),
        "--log", str(log),
        "--pid-file", os.path.join(run, "server.pid"),
        *(["--cgroup", cgroup] if cgroup else []),
        *files.steps(first),
        "--ro-bind", JAIL, _SERVE,
        # Only the server's own processes; and a limit that it reads even if it is told not to.
        "--proc", "/processes",
        "--symlink", "/processes/self", "/proc/self",
        "--ro-bind", _NR_OPEN, _NR_OPEN,
        "--dev", "/dev/null", "/dev/null",
        "--tmpfs", "/tmp", "size=64K,nr_inodes=16,mode=700",
        "--bind", os.path.join(labdir, "mount", plan.name), f"{contact.SERVED}/{FIRST_ROOT}",
        "--hostname", plan.name,
        *limits.server_options(plan.memory),
        "--user", str(plan.user),
        "--", _SERVE, str(listen), server.binary, *_SERVER_OPTIONS,
    ]
    # fmt: on


def _disks(plan: Plan, first: int) -> list[str]:
    """The guest's disks, as mounts that have been opened, whatever has their names now."""
    steps: list[str] = []
    for number, text in enumerate(plan.disks):
        step = "--ro-mount" if disks.parse(text).read_only else "--mount"
        steps += [step, str(first + number), disks.place(number)]
    return steps


def _guest_files(labdir: str, plan: Plan) -> list[str]:
    """The guest's tree, or the socket of its server; the directories that it shares with the host;
    devices."""
    run = liveness.run_dir(labdir, plan.name)
    # fmt: off
    if plan.server is None:
        files = ["--bind", os.path.join(labdir, "mount", plan.name), "/guest"]
    else:
        files = ["--ro-bind", os.path.join(run, "files"), arguments.SOCKET]
    return [
        *files,
        "--ro-bind", PRELOAD, "/etc/preload.so",
        "--ro-bind", PRELOAD_LIST, "/etc/ld.so.preload",
        "--bind", os.path.join(run, "uml"), "/run/uml",
        "--symlink", "run/uml", "/uml",
        "--ro-bind", os.path.join(run, "xfer"), "/xfer",
        "--ro-bind", INITRD, "/initrd",
        "--ro-bind", JAIL, _BOOT,
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
