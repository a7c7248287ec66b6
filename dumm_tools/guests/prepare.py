"""Preparing a boot on the host: run-time files, taps, the mounted tree."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from dumm_tools import proc
from dumm_tools.errors import DummError
from dumm_tools.files import choice, mounts, workdir
from dumm_tools.guests import disks, limits, rootfs, run_dir, startup
from dumm_tools.guests.plan import Parts, Plan
from dumm_tools.images import built_in, cache, kernel
from dumm_tools.linux import openat2
from dumm_tools.model import Boot, Guest, State
from dumm_tools.net import iface, nic
from dumm_tools.running import contact, liveness


@contextlib.contextmanager
def parts(labdir: str, state: State, guest: Guest, warn: Callable[[str], None]) -> Iterator[Parts]:
    """Find a guest's kernel and master, and the server of its root file system, lock them in the
    cache, and open its disks; inside a transaction."""
    core, master = choice.resolve_kernel(labdir, guest), choice.resolve_master(labdir, guest)
    kernel.check(core)
    release = kernel.release_number(kernel.release(core) or "")
    server = rootfs.server(guest, core, master, warn)
    there = {part.lock: part.path for part in (core, master, server) if part is not None}
    with contextlib.ExitStack() as stack:
        locks = []
        for lock, path in there.items():
            if lock is not None:
                locks.append(cache.hold(lock, path))
                stack.callback(os.close, locks[-1])
        opened = disks.taken(labdir, state, guest) if guest.disks else []
        for fd in opened:
            stack.callback(os.close, fd)
        drivers = built_in.drivers(core)
        yield Parts(core, release, master, server, tuple(locks), tuple(opened), drivers)


def clear(labdir: str, state: State, plan: Plan) -> Boot:
    """Put aside what an earlier boot has left; return the record of the new one."""
    run_dir.renew(labdir, plan.name)
    choice.leave_master(labdir, state, state.guests[plan.name], plan.master.path)
    return Boot(
        plan.nonce,
        "starting",
        liveness.epoch(labdir, state),
        kernel=plan.kernel.path,
        master=plan.master.path,
        group=plan.group,
        cgroup=limits.ceiling(
            f"dumm-{state.id}-{plan.name}", plan.name, plan.memory, plan.server is not None
        ),
        init=state.guests[plan.name].init,
        rootfs="hostfs" if plan.server is None else "virtiofs",
        disks=list(plan.disks),
    )


def make(labdir: str, state: State, plan: Plan) -> None:
    """Create the taps, mount the tree, and write the configuration for the agent. After a failure
    the caller has `stop.release` clean up."""
    name, guest = plan.name, state.guests[plan.name]
    iface.prepare(state, name)
    if not mounts.is_mounted(labdir, state, name):
        workdir.drop(labdir, name)
    if mounts.mount(labdir, state, guest, plan.master.path):
        proc.log(f"mounted mount/{name}")
    records = nic.boot_records(state, name)
    if guest.init is not None:
        from dumm_tools.guests import identity

        _need_init(labdir, name, guest.init)
        tree = os.path.join(labdir, "mount", name)
        records += identity.boot_records(tree, plan.master.path, name)
    startup.instruct(labdir, guest, plan.master.path)
    contact.write_boot(labdir, guest, records)


def _need_init(labdir: str, name: str, init: str) -> None:
    """DummError unless the guest's tree, which is mounted, contains its init."""
    error = 0
    tree = os.open(os.path.join(labdir, "mount", name), os.O_PATH | os.O_CLOEXEC)
    try:
        fd = openat2.open_in_root(tree, init, os.O_PATH)
        mode = os.fstat(fd).st_mode
        os.close(fd)
        if not (stat.S_ISREG(mode) and mode & 0o111):
            error = errno.EACCES
    except OSError as e:
        error = e.errno or 0
    finally:
        os.close(tree)
    if error:
        raise DummError(f"cannot start guest '{name}': init '{init}': {os.strerror(error)}")
