"""Probes for `check`: each runs in its own child process, in namespaces that end with it."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable

from dumm_tools import errors
from dumm_tools.linux import child, namespaces
from dumm_tools.linux import mount as mnt
from dumm_tools.running import isolation


def in_child(attempt: Callable[[], object]) -> str:
    """Run `attempt` in a child; return the error message, or nothing."""
    return child.run(attempt, errors.explain)


def make_namespaces() -> None:
    """Create all the namespaces of an isolated lab; a guest's are a subset of these."""
    with tempfile.TemporaryDirectory(prefix="dumm-check-") as place:
        isolation.rehearse(place)


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
