"""How a guest reaches its root file system: by hostfs, or by virtiofs from a server beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from dumm_tools.errors import DummError
from dumm_tools.guests import limits
from dumm_tools.images import master
from dumm_tools.images.kernel import Kernel
from dumm_tools.images.master import Master
from dumm_tools.linux import namespaces, procfs
from dumm_tools.model import Guest, RootFS

if TYPE_CHECKING:
    from dumm_tools.images.virtiofsd import Server

#: The fate of a guest for which virtiofs is only the default, if there is no server for it.
_INSTEAD = "uses hostfs, where all files belong to one user"
#: How to get ids, and how to get a server.
_IDS = "see dumm-fs check"
_HIDDEN = "parts of /proc are hidden here, as in containers"
_OTHERWISE = "use --rootfs hostfs; from Linux 7.2 on, virtiofs works there, too"
_HINT = "install virtiofsd, or fetch a kernel pack that has one: dumm-fs kernel fetch"


def default(spec: str) -> RootFS | None:
    """How guests with this master reach their root file system by default; None if it is gone."""
    with contextlib.suppress(DummError):
        return master.rootfs(master.resolve(spec).path)
    return None


def server(guest: Guest, core: Kernel, below: Master, warn: Callable[[str], None]) -> Server | None:
    """The server that a guest needs; None for hostfs. If there is none to be found, that is an
    error for a guest whose record says virtiofs, and otherwise reported to `warn`, as it is if we
    have a single id: then the server could not create files of other users than root. The same goes
    for a host where the server cannot have a procfs."""
    if (guest.rootfs or master.rootfs(below.path)) == "hostfs":
        return None
    if guest.rootfs is None and not namespaces.has_id("uid", 1):
        warn(f"guest '{guest.name}' {_INSTEAD}: you have no ids for others ({_IDS})")
        return None
    if not procfs.may_be_mounted():
        if guest.rootfs is not None:
            raise DummError(
                f"cannot start guest '{guest.name}' with virtiofs: {_HIDDEN}", hint=_OTHERWISE
            )
        warn(f"guest '{guest.name}' {_INSTEAD}: {_HIDDEN}")
        return None
    from dumm_tools.images import virtiofsd

    found = virtiofsd.find(core)
    if found is None:
        if guest.rootfs is not None:
            raise DummError(
                f"cannot start guest '{guest.name}' with virtiofs: there is no virtiofsd",
                hint=_HINT,
            )
        warn(f"guest '{guest.name}' {_INSTEAD}: there is no virtiofsd ({_HINT})")
    elif (files := limits.files_needed(guest.memory)[0]) < limits.SERVER_NEEDS:
        warn(
            f"guest '{guest.name}' will run out of files: its server may have only {files} open"
            " (ulimit -Hn)"
        )
    return found
