"""The machine that the tests run on."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumm_tools.linux import mount


def scopes_sockets() -> bool:
    """Whether this kernel has a recent enough Landlock (landlock_create_ruleset(2), version 6)."""
    version: int = ctypes.CDLL(None).syscall(444, None, 0, 1)
    return version >= 6


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount.mount("small", str(place), "tmpfs", 0, "size=2M,mode=0700")
    yield place
    mount.umount(str(place), detach=True)


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that has the package."""
    return sys.executable


def installed(program: str) -> bool:
    """Whether a program exists on this machine."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None
