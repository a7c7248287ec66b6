"""Setuid programs made by a guest's root user, and other users of this host who could run them."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PATIENCE, ROOT
from support.labs import Lab
from support.users import User

from dumm_tools.trees import exposure

pytestmark = pytest.mark.uml

#: cap_setuid+ep (linux/capability.h, VFS_CAP_REVISION_2).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 7, 0, 0, 0)
PROGRAM = """
int geteuid(void), printf(const char *, ...);
int main(void) { printf("%d", geteuid()); }
"""
#: A user who owns none of the labs.
OTHER = ("setpriv", "--reuid=64999", "--regid=64999", "--clear-groups")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="dumm-public-") as place:
        os.chmod(place, 0o755)
        yield Path(place)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints the user that it runs as."""
    place = tmp_path_factory.mktemp("program")
    (place / "p.c").write_text(PROGRAM)
    subprocess.run(
        ["gcc", "-static", "-o", place / "whose", place / "p.c"], check=True, timeout=PATIENCE
    )
    return place / "whose"


@pytest.fixture(params=["--host-net", "--isolated", "user"] if ROOT else ["--isolated"])
def own(
    request: pytest.FixtureRequest, packs: Path, tmp_path: Path, public: Path, program: Path
) -> Iterator[Lab]:
    """A lab in a directory that every user can enter, with a setuid program in a guest."""
    user = User(82, packs) if request.param == "user" else None
    (public / "lab").mkdir()
    if user:
        lab: Lab = user.lab("lab")
        for path in (public, public / "lab"):
            os.chown(path, user.uid, user.uid)
        lab.directory = public / "lab"
        lab.prefix = user.prefix(lab.directory)
        lab.env = {**lab.env, "DUMM_DIR": str(lab.directory)}
        lab("dumm-fs master build busybox")
        lab("dumm-fs init --kernel sid --master busybox")
    else:
        lab = Lab(public / "lab", packs)
        lab(f"dumm-fs init --kernel sid --master busybox {request.param}")
    try:
        lab("dumm-guest create alice bob --start")
        script = (
            "mkdir -p /srv/d/g; cat >/srv/d/whose; cp /srv/d/whose /srv/d/able;"
            "chmod 6755 /srv/d/whose; chmod 755 /srv/d/able; chmod 3777 /srv/d/g; mkfifo /srv/d/f;"
            "chmod 6604 /srv/d/f; ln /srv/d/whose /srv/d/again; chmod 755 / /srv /srv/d"
        )
        words = ["dumm-guest", "exec", "alice", "--", "sh", "-c", script]
        lab(words, stdin=program.read_bytes())
        os.setxattr(lab.mounted("alice") / "srv/d/able", "security.capability", CAPABILITY)
        os.setxattr(lab.mounted("alice") / "srv/d/able", "user.mine", b"kept")
        yield lab
    finally:
        lab.end()
        if user:
            user.end()


def modes(top: Path) -> dict[str, int]:
    """The modes of all entries of a directory."""
    return {p.name: stat.S_IMODE(p.lstat().st_mode) for p in top.iterdir()}


KEPT = {"whose": 0o6755, "again": 0o6755, "able": 0o755, "g": 0o3777, "f": 0o6604}
DROPPED = {"whose": 0o755, "again": 0o755, "able": 0o755, "g": 0o1777, "f": 0o604}


def rights(path: Path) -> list[str]:
    """The extended attributes that somebody set on a file."""
    return sorted(n for n in os.listxattr(path) if n.startswith(("security.cap", "user.")))


@pytest.mark.attack("setuid-copy")
def test_copies_on_the_host_lose_setuid_and_capabilities(own: Lab, public: Path) -> None:
    here = own.directory
    own("dumm-fs cp alice:/srv/d out")
    assert modes(here / "out") == DROPPED
    assert rights(here / "out/able") == ["user.mine"]
    own("dumm-fs cp alice:/srv/d/whose alice:/srv/d/able out")
    assert modes(here / "out") == DROPPED
    own("dumm-fs cp alice:/srv/d/. out")
    assert modes(here / "out") == DROPPED
    if ROOT:
        ran = subprocess.run([*OTHER, here / "out/whose"], capture_output=True, check=True)
        assert ran.stdout == b"64999"
    # An existing file loses such bits.
    (here / "out/whose").chmod(0o6755)
    own("dumm-fs cp alice:/srv/d/whose out/whose")
    assert modes(here / "out")["whose"] == DROPPED["whose"]
    # They are kept on request, and between guests.
    own("dumm-fs cp --preserve mode alice:/srv/d kept")
    assert modes(here / "kept") == KEPT
    assert rights(here / "kept/able") == ["security.capability", "user.mine"]
    own("dumm-fs cp alice:/srv/d bob:/srv")
    assert modes(own.mounted("bob") / "srv/d") == KEPT
    assert rights(own.mounted("bob") / "srv/d/able") == ["security.capability", "user.mine"]
    own("dumm-fs cp kept bob:/srv")
    assert modes(own.mounted("bob") / "srv/kept") == KEPT
    own("dumm-fs cp --preserve=owner alice:/srv/d no", status=2)


@pytest.mark.attack("setuid-layer")
def test_committed_layer_is_closed_where_others_could_enter(own: Lab, public: Path) -> None:
    here = own.directory
    own("dumm-guest stop alice")
    (here / "big").write_bytes(os.urandom(16 << 20))
    own("dumm-fs cp big alice:/srv")
    commit = own.start("dumm-fs commit alice ./layer")
    seen = set()
    while commit.poll() is None:
        for path in here.glob("*layer*"):
            with contextlib.suppress(FileNotFoundError):
                seen.add(stat.S_IMODE(path.lstat().st_mode))
    assert seen == {0o700}, "never open, be it for a moment"
    assert commit.wait() == 0
    assert commit.stderr is not None
    assert commit.stderr.read().decode() == (
        "dumm-fs: warning: './layer' is closed to other users (0700), who could run a guest's "
        "setuid programs in it; to let ordinary users of guests in, move it into a directory that "
        "is closed, and chmod 755 it\n"
    )
    info = (here / "layer").stat()
    assert stat.S_IMODE(info.st_mode) == 0o700
    assert info.st_uid == here.stat().st_uid
    assert modes(here / "layer/srv/d") == KEPT
    if ROOT:
        ran = subprocess.run([*OTHER, "ls", here / "layer"], capture_output=True, check=False)
        assert ran.returncode != 0
    # As the warning says: then ordinary users of guests can use it.
    own(["mkdir", "-m", "700", here / "closed"])
    own(["mv", here / "layer", here / "closed/layer"])
    own(["chmod", "755", here / "closed/layer"])
    done = own("dumm-fs overlay add bob closed/layer")
    assert done.err == ""
    assert own("dumm-guest exec bob -- stat -c %a / /srv/d/whose").lines == ["755", "6755"]
    # In such a directory a layer is as in the guest from the start.
    assert own("dumm-fs commit alice closed/other").err == ""
    assert modes(here / "closed")["other"] == modes(here / "host")["alice"] == 0o755
    own(["ln", "-s", "closed", here / "link"])
    assert own("dumm-fs commit alice link/third").err == ""
    own(["ln", "-s", here, here / "closed/out"])
    assert "is closed to other users" in own("dumm-fs commit alice closed/out/fourth").err
    assert modes(here)["fourth"] == 0o700


def test_layer_that_others_can_enter_is_warned_about(own: Lab) -> None:
    own(["mkdir", "-m", "755", own.directory / "own"])
    done = own("dumm-fs overlay add alice own")
    assert done.err.startswith(
        "dumm-fs: warning: other users can enter 'own' and run setuid programs"
    )
    assert len(done.err.splitlines()) == 1
    own("dumm-fs template save T")
    assert all(m & 0o077 == 0 for m in modes(own.directory / "templates").values())


@pytest.mark.parametrize("option", ["--host-net", "--isolated"] if ROOT else ["--isolated"])
def test_init_closes_existing_directories(packs: Path, tmp_path: Path, option: str) -> None:
    lab = Lab(tmp_path / "lab", packs)
    for name in ("host", "templates", "mount", "run"):
        (lab.directory / name).mkdir(parents=True)
        (lab.directory / name).chmod(0o755)
    lab.directory.joinpath("linux").write_text("in the way")
    lab(f"dumm-fs init {option} --kernel sid", status=4)
    assert modes(lab.directory)["host"] == 0o755, "a failed command leaves all as it was"
    lab.directory.joinpath("linux").unlink()
    lab(f"dumm-fs init {option} --kernel sid --master busybox")
    try:
        found = modes(lab.directory)
        assert {found[n] for n in ("host", "templates", "mount", "run")} == {0o700}
    finally:
        lab.end()


def test_cache_that_others_could_enter_is_closed(public: Path) -> None:
    place = public / "cache/dumm/masters"
    place.mkdir(parents=True)
    for path in (place, place.parent, place.parent.parent):
        path.chmod(0o755)
    lab = Lab(public, public / "cache")
    lab("dumm-fs master build busybox")
    assert not exposure.is_open(str(place / "busybox"))
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE((place / "busybox").stat().st_mode) == 0o755


def test_is_open_considers_all_parent_directories(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="dumm-public-") as place:
        below = Path(place, "a/b")
        below.mkdir(parents=True)
        for mode, is_open in ((0o755, True), (0o711, True), (0o770, True), (0o700, False)):
            os.chmod(place, mode)
            assert exposure.is_open(str(below)) == is_open
            assert exposure.is_open(place) == is_open
        os.chmod(place, 0o755)
        below.chmod(0o700)
        assert not exposure.is_open(str(below))
        assert exposure.is_open(str(below.parent))
        if ROOT:  # root can open what another user has closed
            os.chown(below, 64999, 64999)
            assert exposure.is_open(str(below))
