"""Preparing a boot on the host: run-time files, taps, the mounted tree."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dumm_tools import proc
from dumm_tools.errors import DummError
from dumm_tools.files import choice, mounts, workdir
from dumm_tools.guests import disks, limits, program_files, rootfs, run_dir, startup
from dumm_tools.guests.plan import Parts, Plan
from dumm_tools.images import built_in, cache, kernel
from dumm_tools.images.kernel import Kernel
from dumm_tools.images.master import Master
from dumm_tools.linux import openat2
from dumm_tools.model import Boot, Guest, State
from dumm_tools.net import iface, nic
from dumm_tools.running import contact, guest_views, liveness
from dumm_tools.statefile import load, transaction

if TYPE_CHECKING:
    from dumm_tools.images.virtiofsd import Server


@contextlib.contextmanager
def parts(labdir: str, state: State, guest: Guest, warn: Callable[[str], None]) -> Iterator[Parts]:
    """Find a guest's kernel and master, and the server of its root file system, lock them in the
    cache, and open its disks; inside a transaction."""
    with contextlib.ExitStack() as stack:
        while (found := _found(labdir, state, guest, warn, stack)) is None:
            stack.close()
        opened = disks.taken(labdir, state, guest) if guest.disks else []
        for fd in opened:
            stack.callback(os.close, fd)
        yield found._replace(disks=tuple(opened))


def _found(
    labdir: str,
    state: State,
    guest: Guest,
    warn: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> Parts | None:
    """The parts of a guest, apart from its disks; None if one of them was replaced meanwhile, so
    that what is known of it is not true of what is locked."""
    locks: dict[str, int] = {}

    def hold(part: Kernel | Master | Server) -> None:
        if part.lock is not None and part.lock not in locks:
            locks[part.lock] = cache.hold(part.lock, part.path)
            stack.callback(os.close, locks[part.lock])

    core, master = choice.resolve_kernel(labdir, guest), choice.resolve_master(labdir, guest)
    hold(core)
    hold(master)
    kernel.check(core)
    server = rootfs.server(guest, core, master, warn)
    if server is not None:
        hold(server)
    found = Parts(
        core,
        kernel.release_number(kernel.release(core) or ""),
        master,
        server,
        tuple(locks.values()),
        drivers=built_in.drivers(core),
        patches=kernel.patches(core),
        kernel_files=program_files.opened(core, stack),
        server_files=program_files.opened(server, stack) if server is not None else None,
    )
    same = all(cache.guards(lock, fd) for lock, fd in locks.items())
    return found if same and core == choice.resolve_kernel(labdir, guest) else None


def give_files(labdir: str, name: str, warn: Callable[[str], None]) -> None:
    """Copy the files that the user gives a guest, which is not running, to its tree. That may take
    long: not under the lab's lock."""
    guest = load(labdir).guests.get(name)
    if guest is None or not guest.files:
        return
    from dumm_tools.files import given

    with transaction(labdir) as change:
        guest = guest_views.get(change.state, name)
        master = choice.resolve_master(labdir, guest).path
        choice.leave_master(labdir, change.state, guest, master)
        _mount(labdir, change.state, guest, master)
    given.put(os.path.join(labdir, "mount", name), name, guest.files, warn)


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
    _mount(labdir, state, guest, plan.master.path)
    records = nic.boot_records(state, name)
    if guest.init is not None:
        from dumm_tools.guests import identity

        _need_init(labdir, name, guest.init)
        tree = os.path.join(labdir, "mount", name)
        records += identity.boot_records(tree, plan.master.path, name)
    startup.instruct(labdir, guest, plan.master.path)
    contact.write_boot(labdir, guest, records)


def _mount(labdir: str, state: State, guest: Guest, master: str) -> None:
    """Mount the tree of a guest that is not running, unless it is mounted."""
    if not mounts.is_mounted(labdir, state, guest.name):
        workdir.drop(labdir, guest.name)
    if mounts.mount(labdir, state, guest, master):
        proc.log(f"mounted mount/{guest.name}")


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
