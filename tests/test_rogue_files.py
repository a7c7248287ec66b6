"""The jail of the server of a root file system: a program that replaces the guest's kernel makes
requests that it must refuse.

tests/rogue_files.c makes the attempts, and man/server-attempts.inc lists them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, TOP
from support.guests import state_of
from support.host import scopes_sockets
from support.labs import Lab
from support.programs import compiled

pytestmark = [pytest.mark.uml, pytest.mark.netns]

TABLE = TOP / "man" / "server-attempts.inc"
#: Attempts that may end the server, and with it the guest.
FATAL = {"malformed", "stray", "truncated-memory"}


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
    mark = f"{'user' if isolated == '--isolated' else 'trusted'}.overlay.opaque"
    kernel = ["--kernel", str(pack), "--rootfs", "virtiofs"]
    for name in sorted(FATAL):
        other = f"rogue.other={lab.directory}/mount/other"
        lab(["dumm-guest", "create", name, *kernel, "--arg", f"rogue.{name}", "--arg", other])
        # A directory that hides the master's, as the guest itself makes it.
        opaque = lab.directory / "host" / name / "opaque"
        opaque.mkdir(parents=True)
        os.setxattr(opaque, mark, b"y")
    service = socket.socket(socket.AF_UNIX)
    service.bind(b"\0" + b"dumm-rogue".ljust(107, b"\0"))
    service.listen()
    lab(["dumm-guest", "start", *sorted(FATAL), "--no-wait"])
    for name in sorted(FATAL):
        log = log_of(lab, name, "survived")
        found = dict(re.findall(r"^([a-z-]+): (failed|SUCCEEDED)", log, re.MULTILINE))
        assert set(found) == listed() - FATAL, log
        done = {attempt for attempt, result in found.items() if result != "failed"}
        unscoped = isolated == "--host-net" and not scopes_sockets()
        assert done == ({"abstract-sockets"} if unscoped else set()), log
        assert "done" in log
        marked = lab.directory / "host" / name / "marked"
        names = os.listxattr(marked)
        assert not [n for n in names if re.match(r"(trusted|user)\.overlay\.(redirect|opaque)$", n)]
        assert os.getxattr(lab.directory / "host" / name / "opaque", mark) == b"y"
    service.close()
    # A server that crashes ends its guest, as the lists say and the logs explain.
    assert state_of(lab, "truncated-memory") == "crashed"
    said = lab("dumm-console log truncated-memory").lines[-1]
    assert said == "[the server of the root file system has ended]"
    why = (lab.directory / "run/truncated-memory/server.log").read_text()
    assert why.endswith(f"virtiofsd was ended by signal {signal.SIGBUS.value}\n")
    lab("dumm-guest exec other -- touch /still-here")
    lab("dumm-guest stop --all --kill", status=None)
