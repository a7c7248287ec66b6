"""Labs for the tests of the library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumm_tools import Bridge, Guest, Lab
from support import ROOT

#: The kinds of labs that the library is tested with.
KINDS = ["--isolated", *(["--host-net"] if ROOT else [])]


def pair(lab: Lab) -> tuple[Guest, Guest, Bridge]:
    """Make two guests on one segment, and start them."""
    lan = lab.bridge("lan0").create()
    alice, bob = lab.guest("alice").create(memory="64M"), lab.guest("bob").create()
    alice.iface("eth0").create(bridge=lan, addresses=["10.0.0.1/24"])
    bob.iface("eth0").create(bridge=lan, addresses=["10.0.0.2/24"])
    lab.start()
    return alice, bob, lan


def descriptors(pid: int | str = "self") -> int:
    """The number of open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def sessions() -> list[int]:
    """The session processes that we have started and that still run."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        # A thread that has been joined, or a process, may be gone by the time it is looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for pid in map(int, (task / "children").read_text().split()):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"--json" in words:
                    found.append(pid)
    return found


@pytest.fixture
def library(packs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of a program that uses the library, which must not leave sessions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(packs))
    for name in [name for name in os.environ if name.startswith("DUMM_")]:
        monkeypatch.delenv(name)
    before = sessions()
    yield
    assert sessions() == before
