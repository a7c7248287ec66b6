"""virtiofsd, the server of a guest's root file system with `--rootfs virtiofs`: which one is used.

A kernel pack may contain one with its own loader and libraries, in a root tree of its own. Those
are made by `virtiofsd_pack.py`; this module only finds one, at the start of a guest that needs it.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from dumm_tools import trust
from dumm_tools.errors import DummError
from dumm_tools.images import cache, kernel
from dumm_tools.images.kernel import Kernel

#: The root tree in a pack, and the server in such a tree and on Debian.
PLACE = "virtiofsd"
BINARY = "/usr/libexec/virtiofsd"
HOST_BINARY = BINARY
#: An option of the server that is written in Rust. QEMU's older one, in C, cannot be used; in some
#: distributions it has the same path.
_OPTION = b"--shared-dir"


class Server(NamedTuple):
    """The virtiofsd to use: `binary` is its path inside its jail. One of a pack provides the jail's
    `root`; the host's has none, but `binds`, as in `kernel.Kernel`. `lock` guards the pack at
    `path` in the cache: see `cache.hold`."""

    path: str
    binary: str
    root: str | None = None
    binds: tuple[tuple[str, str], ...] = ()
    lock: str | None = None


def find(core: Kernel) -> Server | None:
    """The server for a guest with the kernel `core`: that of its pack, or else the host's, or else
    that of the newest pack in the cache that has one; None if there is none."""
    own = of_pack(core.root, core.lock) if core.root is not None else None
    return own or of_host() or _of_cache()


def of_pack(pack: str, lock: str | None) -> Server | None:
    """The server in a kernel pack, if it has one. Conflict if others could have changed it."""
    root = os.path.join(pack, PLACE)
    if not os.path.lexists(root):
        return None
    trust.check_pack(root)
    if os.path.islink(root) or not _is_program(root + BINARY):
        raise DummError(f"'{root}' contains no {BINARY.lstrip('/')}")
    return Server(pack, BINARY, root=root, lock=lock)


def of_host() -> Server | None:
    """The server of this host, if it has one that is trusted and can be used."""
    from dumm_tools.images import elf, libraries

    if not _is_program(HOST_BINARY):
        return None
    try:
        trust.check_cache(HOST_BINARY)
        fd = elf.opened(HOST_BINARY)
        try:
            if not is_server(fd):
                return None
            binds = libraries.binds(elf.image(fd, HOST_BINARY), HOST_BINARY)
        finally:
            os.close(fd)
    except (DummError, OSError):
        return None
    return Server(HOST_BINARY, BINARY, binds=((os.path.realpath(HOST_BINARY), BINARY), *binds))


def is_server(fd: int) -> bool:
    """Whether an open file is the virtiofsd that we can use."""
    from dumm_tools.images import elf

    return stat.S_ISREG(os.fstat(fd).st_mode) and elf.find(fd, _OPTION) is not None


def _of_cache() -> Server | None:
    for pack in sorted(kernel.list_(), key=kernel.order, reverse=True):
        try:
            found = of_pack(pack.path, cache.lock_of("kernels", pack.path))
        except DummError:
            continue
        if found is not None:
            return found
    return None


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
