"""A small master with a static busybox, from this host or from a Debian package."""

from __future__ import annotations

import os
from collections.abc import Callable

from dumm_tools import names
from dumm_tools.errors import DummError
from dumm_tools.images import applets, apt, busybox_tree, cache, elf, existing, master
from dumm_tools.model import RootFS

Report = Callable[[str], None]

#: Applets that a guest needs.
NEEDED_APPLETS = (
    "sh init mount umount login getty ip ping nc httpd telnetd telnet udhcpc wget ifconfig route "
    "traceroute vi ps kill cat ls cp mv rm mkdir sed grep awk tar dmesg modprobe insmod"
)
_HOST_BUSYBOX = ("/usr/bin/busybox", "/bin/busybox")


def build(
    name: str = "busybox",
    *,
    suite: str | None = None,
    mirror: str | None = None,
    allow_expired: bool = False,
    rootfs: RootFS | None = None,
    may_exist: bool = False,
    progress: Report | None = None,
) -> str:
    """Build a small master from a static busybox: this host's, or that of `suite`.

    If a suite is named, its busybox is used. Return the name of the master.
    """
    from dumm_tools.running import isolation

    names.pack(name, "master name")
    isolation.become_root()  # for the owners of the files in it
    with master.build(name, rootfs, may_exist=may_exist, progress=progress) as target:
        if target is None:
            existing.need_busybox(name)
            return name
        host = None if suite or mirror else _host_busybox()
        if host:
            _fill(target, host)
        else:
            with cache.scratch("masters", "busybox") as work:
                lists = os.path.join(work, "apt")
                os.mkdir(lists)
                binary = _fetched_busybox(
                    work,
                    apt.open_suite(
                        lists,
                        suite or apt.DEFAULT_SUITE,
                        mirror=mirror,
                        allow_expired=allow_expired,
                        progress=progress,
                    ),
                    progress,
                )
                _fill(target, binary)
    return name


def _host_busybox() -> str | None:
    """This host's busybox, if it is static and has everything needed."""
    for path in _HOST_BUSYBOX:
        try:
            if elf.is_static(path) and not _missing(applets.of(path)):
                return path
        except DummError:
            continue
    return None


def _fetched_busybox(work: str, lists: apt.Tree, progress: Report | None) -> str:
    root = os.path.join(work, "root")
    os.mkdir(root)
    [deb] = apt.download(lists, ["busybox-static"], progress)
    apt.unpack(deb, root)
    for each in _HOST_BUSYBOX:
        path = root + each
        if os.path.isfile(path) and not os.path.islink(path):
            return path
    raise DummError("the package busybox-static contains no busybox")


def _fill(target: str, binary: str) -> None:
    found = applets.of(binary)
    if missing := _missing(found):
        raise DummError(f"this busybox lacks {', '.join(missing)}")
    busybox_tree.fill(target, binary, found)


def _missing(found: dict[str, str]) -> list[str]:
    return sorted(set(NEEDED_APPLETS.split()) - set(found))
