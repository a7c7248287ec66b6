"""The jail of the server of a root file system: a program that replaces the guest's kernel makes
requests that it must refuse.

tests/rogue_files.c makes the attempts, and man/server-attempts.inc lists them.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, TOP
from support.guests import state_of
from support.labs import Lab
from support.programs import compiled

pytestmark = [pytest.mark.uml, pytest.mark.netns]

TABLE = TOP / "man" / "server-attempts.inc"
#: Attempts that may end the server, and with it the guest.
FATAL = {"malformed", "stray"}


def listed() -> set[str]:
    """The attempts that the manual lists."""
    text = TABLE.read_text().replace("\\-", "-")
    return set(re.findall(r"^\.TP\n\.B (\S+)$", text, re.MULTILINE))


@pytest.fixture
def pack(tmp_path: Path, packs: Path) -> Path:
    """A kernel pack with the program in place of the kernel, and a real server."""
    place = tmp_path / "pack"
    (place / "usr/bin").mkdir(parents=True)
    (place / "pack.json").write_text('{"release": "7.2.0"}')
    shutil.copytree(packs / "dumm/kernels/sid/virtiofsd", place / "virtiofsd", symlinks=True)
    compiled("rogue_files.c", place / "usr/bin/linux.uml")
    return place


def log_of(lab: Lab, name: str, sign: str) -> str:
    """The output of the program, once it has printed `sign` or has ended."""
    path = lab.directory / "run" / name / "console.log"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        over = state_of(lab, name) in ("crashed", "stopped")
        text = path.read_text(errors="replace")
        if over or sign in text:
            return text
        time.sleep(0.1)
    pytest.fail(f"{name} does not end: {text}")


@pytest.mark.parametrize("isolated", ["--isolated", "--host-net"])
def test_rogue_kernel_gets_only_its_tree(
    new_lab: Callable[..., Lab], pack: Path, isolated: str
) -> None:
    if isolated == "--host-net" and not ROOT:
        pytest.skip("only root has such labs")
    lab = new_lab("lab", isolated)
    lab("dumm-guest create other --rootfs virtiofs --start")
    kernel = ["--kernel", str(pack), "--rootfs", "virtiofs"]
    lab(["dumm-guest", "create", "malformed", *kernel])
    lab(["dumm-guest", "create", "stray", *kernel, "--arg", "rogue.stray"])
    lab("dumm-guest start malformed stray --no-wait")
    for name in sorted(FATAL):
        log = log_of(lab, name, "survived")
        found = dict(re.findall(r"^([a-z-]+): (failed|SUCCEEDED)", log, re.MULTILINE))
        assert set(found) == listed() - FATAL, log
        assert set(found.values()) == {"failed"}, log
        assert "done" in log
        marked = lab.directory / "host" / name / "marked"
        names = os.listxattr(marked)
        assert not [n for n in names if re.match(r"(trusted|user)\.overlay\.(redirect|opaque)$", n)]
    lab("dumm-guest exec other -- touch /still-here")
    lab("dumm-guest stop --all --kill", status=None)
