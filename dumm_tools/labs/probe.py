"""Probes for `check`: each runs in its own child process, in namespaces that end with it."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable

from dumm_tools import errors, nft
from dumm_tools.linux import child, namespaces, netlink
from dumm_tools.linux import filter as packets
from dumm_tools.linux import mount as mnt
from dumm_tools.running import isolation

#: Rules of each kind that bridges with addresses and uplinks use.
_RULES = """\
add table inet probe
add chain inet probe input { type filter hook input priority filter; policy accept; }
add rule inet probe input fib daddr . iif type != local drop
add rule inet probe input ct state established,related accept
add table ip probe
add chain ip probe out { type nat hook postrouting priority srcnat; policy accept; }
add rule ip probe out masquerade
"""


def in_child(attempt: Callable[[], object]) -> str:
    """Run `attempt` in a child; return the error message, or nothing."""
    return child.run(attempt, errors.explain)


def make_namespaces() -> None:
    """Create all the namespaces of an isolated lab; a guest's are a subset of these."""
    with tempfile.TemporaryDirectory(prefix="dumm-check-") as place:
        isolation.rehearse(place)


def is_in_chroot() -> bool:
    """Whether our root directory is not that of our mount namespace: the kernel then refuses user
    namespaces to everyone, root included (user_namespaces(7)). An ordinary user cannot always tell.
    """
    with contextlib.suppress(OSError):
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            if not any(line.split()[4] == "/" for line in file):
                return True
        return bool(in_child(_return_to_root))
    return False


def _return_to_root() -> None:
    """Raise DummError if entering our own mount namespace leads to another root directory."""
    before = _mount_of_root()
    try:
        with open("/proc/self/ns/mnt", "rb") as namespace:
            namespaces.enter_mounts(namespace.fileno())
    except PermissionError:
        return
    if _mount_of_root() != before:
        raise errors.DummError("in a chroot")


def _mount_of_root() -> list[str]:
    """The mount and the inode of the root directory (proc_pid_fdinfo(5))."""
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            return [*file, str(os.fstat(fd).st_ino)]
    except FileNotFoundError:  # this /proc is of another namespace, or missing now
        return []
    finally:
        os.close(fd)


def _private() -> None:
    """A mount namespace whose mounts are visible to nobody else."""
    isolation.become_root()
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mnt.mount("none", "/", "none", mnt.MS_REC | mnt.MS_PRIVATE, "")


def executable_tmpfs() -> None:
    """A tmpfs from which memory can be mapped as executable (as UML does with a guest's memory)."""
    _private()
    mnt.mount("dumm-check", "/proc", "tmpfs", mnt.MS_NOSUID | mnt.MS_NODEV, "size=1M")
    with tempfile.TemporaryFile(dir="/proc") as file:
        file.truncate(mmap.PAGESIZE)
        mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def mount_overlay(top: str, isolated: bool) -> None:
    """Mount an overlay of the directories lower, upper, work and merged in `top`."""
    _private()
    options = ",".join(
        f"{name}dir={os.path.join(top, name)}" for name in ("lower", "upper", "work")
    )
    if isolated:
        options += ",userxattr"
    mnt.mount("dumm-check", os.path.join(top, "merged"), "overlay", mnt.MS_NODEV, options)


def _own_network() -> None:
    isolation.become_root()
    namespaces.unshare(namespaces.CLONE_NEWNET)


def add_rules() -> None:
    """Add rules of nftables in a network namespace."""
    _own_network()
    nft.run(_RULES)


def filter_device() -> None:
    """Put a filter on a device, lo, in a network namespace."""
    _own_network()
    with netlink.host() as channel:
        netlink.transact(channel, packets.put(1, [packets.DROP], "lo"))
