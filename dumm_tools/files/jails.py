"""Work in the mount namespaces of guests' jails."""

from __future__ import annotations

import os
from collections.abc import Callable

from dumm_tools import errors
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import child, namespaces, pinned
from dumm_tools.model import Guest
from dumm_tools.running import liveness


def work_in(labdir: str, guest: Guest, work: Callable[[], None], what: str) -> None:
    """Do `work` in the mount namespace that has the guest's tree: in a child, since a process that
    enters a mount namespace loses its place in ours. `what` is the verb of the message if it
    fails."""
    pidfd = liveness.files_pidfd_of(labdir, guest)
    if pidfd is None:
        raise Conflict(f"guest '{guest.name}' has ended")

    def pinned_work() -> None:
        pinned.pin()  # in a jail, the files at the paths of Python's modules are not Python's
        namespaces.enter_mounts(namespaces.mounts_of(pidfd))
        work()

    try:
        error = child.run(pinned_work, errors.explain)
    finally:
        os.close(pidfd)
    if error:
        raise DummError(f"cannot {what} the root of guest '{guest.name}': {error}")
