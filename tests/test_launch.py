"""Starting jails: packs are taken as a whole, and nothing is left if one cannot be started."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.labs import recorded

from dumm_tools.agent import build
from dumm_tools.errors import Conflict
from dumm_tools.guests import plan, prepare, process
from dumm_tools.guests.plan import Parts
from dumm_tools.guests.program_files import ProgramFiles
from dumm_tools.images import cache, kernel
from dumm_tools.images.kernel import Kernel
from dumm_tools.images.master import Master
from dumm_tools.images.virtiofsd import Server
from dumm_tools.model import Guest, State
from dumm_tools.statefile import load

pytestmark = [pytest.mark.netns, pytest.mark.root]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def fill(target: str | None, release: str) -> None:
    """Make a kernel pack."""
    assert target is not None
    for entry in ("bin/linux.uml", "release"):
        path = Path(target, "usr", entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(release)
    Path(target, "bin").symlink_to("usr/bin")
    facts = {"release": release, "features": ""}
    Path(target, "pack.json").write_text(json.dumps(facts))


def replace(release: str) -> None:
    with cache.replacing("kernels", "k") as target:
        fill(target, release)


@pytest.fixture
def lab(tmp_path: Path) -> tuple[str, State, Guest]:
    """A lab with a guest whose kernel is a pack, release 1."""
    for name in ("lab", "master"):
        (tmp_path / name).mkdir()
    with cache.build("kernels", "k") as target:
        fill(target, "1")
    (tmp_path / "master/etc").mkdir()
    labdir = recorded(tmp_path / "lab", "a")
    state = load(labdir)
    guest = state.guests["a"]
    guest.kernel, guest.master = "k", str(tmp_path / "master")
    return labdir, state, guest


def release_of(parts: Parts) -> str:
    """The release of the files that the jail gets."""
    ((fd, place),) = parts.kernel_files.mounts
    assert place == "/usr"
    return Path(f"/proc/self/fd/{fd}/release").read_text()


@pytest.mark.parametrize("when", ["check", "release", "facts"])
def test_pack_that_is_replaced_meanwhile(
    lab: tuple[str, State, Guest], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Everything is of the new one, which is protected from deletion."""
    real: Callable[..., object] = getattr(kernel, when)
    replaced: list[bool] = []

    def meddled(*args: object) -> object:
        if not replaced:
            replaced.append(True)
            before = real(*args)
            replace("2")
            return before
        return real(*args)

    monkeypatch.setattr(kernel, when, meddled)
    with prepare.parts(*lab, warn=lambda _: None) as parts:
        assert replaced
        assert (parts.release, release_of(parts)) == ((2,), "2")
        with pytest.raises(Conflict):
            cache.delete("kernels", "k")
    cache.delete("kernels", "k")


def test_pack_that_is_replaced_before_the_jail_is_made(lab: tuple[str, State, Guest]) -> None:
    """The jail gets the old one, which is kept."""
    with prepare.parts(*lab, warn=lambda _: None) as parts:
        replace("2")
        assert (parts.release, release_of(parts)) == ((1,), "1")
        cache.delete("kernels", "k")
        assert release_of(parts) == "1"
    with cache.scratch("kernels", "k"):  # which cleans up
        pass
    assert list(Path(cache.directory("kernels")).glob(".k.tmp-*")) == []


def test_server_is_not_left_if_the_kernel_cannot_be_started(
    lab: tuple[str, State, Guest], tmp_path: Path
) -> None:
    build.build()
    labdir, state, guest = lab
    for name in ("run/a", "mount/a"):
        (Path(labdir) / name).mkdir(parents=True)
    parts = Parts(
        Kernel("/pack", "/usr/bin/linux"),
        (7, 2),
        Master("/master", None),
        Server("/pack", "/virtiofsd"),
        server_files=ProgramFiles(),
    )
    planned = plan.make(state, guest, parts, "0" * 16)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text(), len(os.listdir("/proc/self/fd"))
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # There are no lines.
        with pytest.raises(OSError, match="No such file"):
            process.spawn(labdir, planned, parts, "", lock.fileno(), lock.fileno())
    assert (children.read_text(), len(os.listdir("/proc/self/fd"))) == before
    with (tmp_path / "lock").open("w") as lock:  # the keeper ends by itself, and with it the lock
        fcntl.flock(lock, fcntl.LOCK_EX)
