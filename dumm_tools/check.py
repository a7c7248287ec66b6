"""What a host must have for guests: each thing is tried, not looked up in a version table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dumm_tools import kernel, master
from dumm_tools.agent import INITRD, JAIL
from dumm_tools.errors import DummError
from dumm_tools.linux import mount as mnt


@dataclass(frozen=True, slots=True)
class Check:
    """`missing` keeps guests from starting; `absent` only costs a feature."""

    name: str
    state: Literal["ok", "missing", "absent"]
    found: str
    remedy: str | None = None


def run(root: str) -> list[Check]:
    """Try everything; `root` is where the working set is, or would be."""
    return [_privilege(), _agent(), _tun(), _shm(), _overlay(root), _kernel(), _master()] + [
        _program(name, package, why)
        for name, package, why in (
            ("tcpdump", "tcpdump", "for looking at segments"),
            ("mmdebstrap", "mmdebstrap", "for masters of a real Debian"),
            ("apt-get", "apt", "for fetching kernel packs"),
        )
    ]


def _privilege() -> Check:
    if os.geteuid() == 0:
        return Check("privilege", "ok", "root")
    return Check("privilege", "missing", "not root", "run dumm-tools as root")


def _agent() -> Check:
    if os.path.exists(INITRD) and os.access(JAIL, os.X_OK):
        return Check("agent", "ok", INITRD)
    return Check(
        "agent", "missing", "not built", "python3 -m dumm_tools.agent.build (needs gcc, libc6-dev)"
    )


def _tun() -> Check:
    path = "/dev/net/tun"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Check("tun", "missing", f"no {path}", "modprobe tun")
    except OSError as e:
        return Check("tun", "missing", f"{path}: {e.strerror}", f"chmod 0666 {path}")
    return Check("tun", "ok", path)


def _shm() -> Check:
    """The jail mounts a tmpfs for each guest's memory; here it is whether one may be executed."""
    import mmap

    try:
        with tempfile.TemporaryFile(dir="/dev/shm") as file:
            file.truncate(mmap.PAGESIZE)
            flags = mmap.PROT_READ | mmap.PROT_EXEC
            mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=flags).close()
    except OSError as e:
        return Check("shm", "absent", f"/dev/shm: {e.strerror}", "mount -o remount,exec /dev/shm")
    return Check("shm", "ok", "/dev/shm")


def _overlay(root: str) -> Check:
    """Mount an overlay with its upper layer where the working set is."""
    place = root if os.access(root, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".dumm-check-", dir=place) as top:
        names = {n: os.path.join(top, n) for n in ("lower", "upper", "work", "merged")}
        for path in names.values():
            os.mkdir(path)
        options = f"lowerdir={names['lower']},upperdir={names['upper']},workdir={names['work']}"
        try:
            mnt.mount("dumm-check", names["merged"], "overlay", mnt.MS_NODEV, options)
        except OSError as e:
            remedy = "modprobe overlay; keep the working set on ext4, xfs, btrfs or tmpfs"
            return Check("overlay", "missing", f"overlayfs: {e.strerror}", remedy)
        mnt.umount(names["merged"])
    return Check("overlay", "ok", "overlayfs")


def _kernel() -> Check:
    return _found("kernel", lambda: (k := kernel.default()) and k.path, "dumm-fs kernel fetch")


def _master() -> Check:
    def find() -> str | None:
        found = master.default()
        return found.path if found else ", ".join(m.name for m in master.list_()) or None

    return _found("master", find, "dumm-fs master build busybox")


def _found(name: str, find: Callable[[], str | None], remedy: str) -> Check:
    try:
        path = find()
    except (DummError, OSError) as e:
        return Check(name, "missing", str(e), remedy)
    if path is None:
        return Check(name, "missing", f"no {name} in the cache", remedy)
    return Check(name, "ok", path)


def _program(name: str, package: str, why: str) -> Check:
    from shutil import which

    path = which(name)
    if path:
        return Check(name, "ok", path)
    return Check(name, "absent", f"no {name}, {why}", f"apt-get install {package}")
