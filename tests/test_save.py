"""Labs as archives: saved and restored whole, by root and by ordinary users; archives of others are
not trusted."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BIN, PATIENCE, ROOT
from support.checks import one_line_error
from support.labs import Lab
from support.users import User

from dumm_tools import records, statefile
from dumm_tools.errors import DummError
from dumm_tools.images import cache, digest
from dumm_tools.labs import restoring, working_set
from dumm_tools.model import Bridge, Guest, Iface, State
from dumm_tools.trees import layer, layer_tar, tarring, untar

Member = tuple[tarfile.TarInfo, bytes]


class Home:
    """A cache with a master and a pack that nothing can be started from, and directories."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.cache = place / "cache"
        master = self.cache / "dumm/masters/small"
        (master / "etc").mkdir(parents=True)
        (master / "etc/passwd").write_text("root::0:0::/:/bin/sh\n")
        binary = self.cache / "dumm/kernels/none/usr/bin/linux.uml"
        binary.parent.mkdir(parents=True)
        binary.write_text("no kernel\n")

    def fs(
        self, at: str, *words: str | Path, status: int = 0, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        directory = self.place / at
        done = subprocess.run(
            [BIN / "dumm-fs", "-C", directory, *words],
            input=stdin,
            capture_output=True,
            check=False,
            cwd=self.place,
            timeout=PATIENCE,
        )
        assert done.returncode == status, done.stderr
        return done

    def refused(self, at: str, archive: bytes, status: int = 1, *words: str) -> str:
        """The error of `restore`, which must leave nothing behind."""
        before = self.everything()
        done = self.fs(at, "restore", "-", *words, status=status, stdin=archive)
        assert self.everything() == before
        return one_line_error(done.stderr.decode(), "dumm-fs")

    def everything(self) -> list[str]:
        return sorted(str(path) for path in self.place.rglob("*") if path.suffix != ".lock")

    def restore(self, at: str, archive: Path, **options: Any) -> None:
        """Restore in this process, which saves time."""
        options = {"isolated": True, "chosen": {}, "warn": lambda _: None, **options}
        restoring.restore(str(self.place / at), str(archive), **options)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    return Home(tmp_path)


def fill(root: Path) -> None:
    """Give a layer a file of each kind."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/motd").write_bytes(b"hello\n")
    (root / "etc/motd").chmod(0o4750)
    os.utime(root / "etc/motd", ns=(1, 1_700_000_000_123_456_789))
    os.setxattr(root / "etc/motd", "user.note", b"\xff\0\n=")
    os.link(root / "etc/motd", root / "etc/other")
    (root / "link").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "etc/passwd", stat.S_IFCHR)
    (root / "opaque").mkdir()
    with (root / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"x" * 70_000)
        file.truncate(1 << 30)
    (root / "zeros").write_bytes(bytes(200_000))
    (root / "hole").touch()
    os.truncate(root / "hole", 1 << 20)
    (root / os.fsdecode(b"\xe4 \n" + b"n" * 200)).write_text("")
    layer.make_opaque(os.open(root / "opaque", os.O_RDONLY), layer.USER)
    if ROOT:
        os.chown(root / "etc/motd", 1000, 2_500_000)
        (root / "etc/motd").chmod(0o4750)
    else:  # its owner would be somebody else in a user namespace
        pass


@pytest.fixture
def lab(home: Home) -> Path:
    """A lab with something of everything, that was never started."""
    home.fs("lab", "init", "--kernel", "none", "--master", "small", *["--isolated"] * ROOT)
    lab = home.place / "lab"
    fill(lab / "host/a")
    fill(lab / "web")
    fill(home.place / "elsewhere/web")
    fill(lab / "templates/t/b")
    (lab / "templates/empty").mkdir()
    (lab / "startup").mkdir(0o700)
    (lab / "startup/a").write_text("ip route\n")
    (home.place / "disk").write_bytes(b"disk")
    os.truncate(home.place / "disk", 8 << 20)
    for place in (lab / "conf", home.place / "elsewhere/conf"):
        place.mkdir()
        (place / "run.sh").write_text("#!/bin/sh\n")
        (place / "run.sh").chmod(0o755)
    (home.place / "key").write_text("secret\n")
    (home.place / "key").chmod(0o640)
    with statefile.transaction(str(lab), apart=True) as change:
        state = change.state
        overlays = [str(lab / "web"), str(home.place / "elsewhere/web")]
        disks = [f"{home.place}/disk:ro"]
        files = [f"{lab}/conf", f"{home.place}/elsewhere/conf:/etc/app", f"{home.place}/key:/key"]
        state.guests["a"] = Guest("a", memory=1 << 27, overlays=overlays, disks=disks, files=files)
        state.guests["b"] = Guest("b", master="small", kernel="none", args=["quiet"])
        state.bridges["lan"] = Bridge("lan", uplink="nat")
        state.bridges["unused"] = Bridge("unused")
        for name in "ab":
            mac = f"02:00:00:00:00:0{name}"
            state.ifaces[f"{name}-eth0"] = Iface(
                f"{name}-eth0", name, "eth0", 0, f"{name}-eth0", mac, "lan", shape={"delay": 3}
            )
    return lab


def plain(archive: bytes) -> bytes:
    """An archive without its compression."""
    if not archive.startswith(b"\x28\xb5\x2f\xfd"):
        return archive
    return subprocess.run(["zstd", "-dc"], input=archive, stdout=-1, check=True).stdout


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(plain(archive))) as tar:
        return {member.name: member for member in tar.getmembers()}


def told(archive: bytes) -> dict[str, Any]:
    """The contents of lab.json."""
    with tarfile.open(fileobj=io.BytesIO(plain(archive))) as tar:
        file = tar.extractfile("lab/lab.json")
        assert file is not None
        found: dict[str, Any] = json.load(file)
        return found


def member(name: str, data: bytes = b"", **values: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in values.items():
        setattr(info, key, value)
    return info, data


def made(lab_json: object, *more: Member) -> bytes:
    """An archive with this lab.json and these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        text = lab_json if isinstance(lab_json, bytes) else json.dumps(lab_json).encode()
        for info, data in (member("lab/lab.json", text), *more):
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


# ---- there and back ----


def test_restored_lab_is_the_saved_one(home: Home, lab: Path) -> None:
    done = home.fs("lab", "save", "lab.tar")
    assert (done.stdout, done.stderr) == (b"", b"")
    archive = (home.place / "lab.tar").read_bytes()
    assert home.fs("lab", "save", "-").stdout == archive
    done = home.fs("new", "restore", "lab.tar", "--isolated")
    assert (done.stdout, done.stderr) == (b"", b"")
    new = home.place / "new"
    assert home.fs("new", "save", "-").stdout == archive
    # Other places are now within, so that the lab can be moved; nothing else has changed.
    old, state = statefile.load(str(lab)), statefile.load(str(new))
    a = state.guests["a"]
    assert a.overlays == [f"{new}/web", f"{new}/overlays/web"]
    assert a.disks == [f"{new}/disks/disk:ro"]
    assert a.files == [f"{new}/conf", f"{new}/files/conf:/etc/app", f"{new}/files/key:/key"]
    assert stat.S_IMODE((new / "files/conf/run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((new / "files/key").stat().st_mode) == 0o640
    assert vars(state.guests["b"]) == vars(old.guests["b"])
    assert [vars(i) for i in state.ifaces.values()] == [vars(i) for i in old.ifaces.values()]
    assert [vars(b) for b in state.bridges.values()] == [vars(b) for b in old.bridges.values()]
    assert state.id != old.id
    assert (new / "linux").readlink() == home.cache / "dumm/kernels/none"
    assert (new / "master").readlink() == home.cache / "dumm/masters/small"
    for name in ("host", "mount", "overlays", "disks", "files", "run", "startup", "templates"):
        assert stat.S_IMODE((new / name).stat().st_mode) == 0o700
    with (new / "host/a/sparse").open("rb") as file:
        assert os.fstat(file.fileno()).st_blocks << 9 < 1 << 20
        file.seek(3 << 20)
        assert file.read(70_001) == b"x" * 70_000 + b"\0"
    motd = (new / "host/a/etc/motd").stat()
    assert motd.st_mtime_ns == 1_700_000_000_123_456_789
    assert motd.st_nlink == 2
    # Only with the other kind of lab do marks have another form.
    assert os.getxattr(new / "host/a/opaque", "user.overlay.opaque") == b"y"
    one_line_error(home.fs("new", "restore", "lab.tar", status=4).stderr.decode(), "dumm-fs")


def test_plain_tar_reads_it(home: Home, lab: Path) -> None:
    home.fs("lab", "save", "lab.tar")
    (home.place / "out").mkdir()
    words: list[str | Path] = [
        "tar",
        "-C",
        home.place / "out",
        "--zstd",
        "-xpf",
        home.place / "lab.tar",
    ]
    subprocess.run(words, check=True, capture_output=True)
    out = home.place / "out/lab"
    assert (out / "host/a/etc/motd").read_bytes() == b"hello\n"
    assert (out / "startup/a").read_text() == "ip route\n"
    assert (out / "disks/disk").stat().st_size == 8 << 20
    assert stat.S_ISCHR((out / "web/etc/passwd").lstat().st_mode)


def test_some_guests(home: Home, lab: Path) -> None:
    archive = home.fs("lab", "save", "-", "b").stdout
    state = told(archive)["state"]
    assert [*state["guests"]] == ["b"]
    assert [*state["ifaces"]] == ["b-eth0"]
    assert [*state["bridges"]] == ["lan"]
    names = members(archive)
    assert "lab/templates/t/b/etc/motd" in names
    assert not [n for n in names if n.startswith(("lab/host/a", "lab/web", "lab/startup/a"))]
    done = home.fs("lab", "save", "some.tar", "b", "nobody", status=3)
    assert one_line_error(done.stderr.decode(), "dumm-fs") == "no guest 'nobody'"
    assert not (home.place / "some.tar").exists()


def test_what_cannot_be_saved(home: Home, lab: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(lab / "web")
        listener.bind("socket")
        os.chdir("/")
    done = home.fs("lab", "save", "lab.tar")
    assert done.stderr.decode() == (
        "dumm-fs: warning: skipped devices, sockets and very deep files: web/socket\n"
    )
    shutil.rmtree(lab / "web")
    done = home.fs("lab", "save", "other.tar", status=3)
    assert "is gone" in one_line_error(done.stderr.decode(), "dumm-fs")
    assert not (home.place / "other.tar").exists()
    assert "no working set" in home.fs("nowhere", "save", "-", status=3).stderr.decode()


def test_save_is_whole_or_not_at_all(home: Home, lab: Path) -> None:
    (home.place / "lab.tar").write_text("old")
    home.fs("lab", "save", "/dev/full", status=1)
    home.fs("lab", "save", f"{home.place}/no/such", status=3)
    (lab / "host/a/big").write_bytes(os.urandom(8 << 20))
    words: list[str | Path] = [BIN / "dumm-fs", "-C", lab, "save", home.place / "lab.tar"]
    with subprocess.Popen(words) as running:
        running.kill()
    assert (home.place / "lab.tar").read_text() == "old"
    assert sorted(p.name for p in home.place.glob("*lab*")) == ["lab", "lab.tar"]


def _set(lab: Path, **values: list[str]) -> None:
    """Change the records of guest 'a'."""
    with statefile.transaction(str(lab), apart=True) as change:
        change.state.guests["a"] = change.state.guests["a"].but(**values)


def test_archive_is_for_its_owner(home: Home, lab: Path) -> None:
    """It has what guests keep from their own users; one that replaces another has its mode."""
    home.fs("lab", "save", home.place / "new.tar")
    assert stat.S_IMODE((home.place / "new.tar").stat().st_mode) == 0o600
    (home.place / "new.tar").chmod(0o640)
    home.fs("lab", "save", home.place / "new.tar")
    assert stat.S_IMODE((home.place / "new.tar").stat().st_mode) == 0o640


def test_places_do_not_meet(home: Home, lab: Path) -> None:
    """Directories of the lab that have the names where others come to be in the archive."""
    for name in ("overlays", "disks"):
        (lab / name / "web/deep").mkdir(parents=True)
        (lab / name / "web/deep/only").write_text(name)
    layers = [f"{lab}/overlays/web/deep", f"{home.place}/elsewhere/web"]
    _set(lab, overlays=layers, files=[f"{lab}/overlays:/x", f"{lab}/disks:/y"])
    home.fs("lab", "save", "lab.tar")
    home.restore("new", home.place / "lab.tar")
    new = home.place / "new"
    a = statefile.load(str(new)).guests["a"]
    assert a.overlays == [f"{new}/overlays/web/deep", f"{new}/overlays/web-2"]
    assert (new / "overlays/web/deep/only").read_text() == "overlays"
    assert (new / "overlays/web-2/etc/motd").exists()
    assert a.disks == [f"{new}/disks/disk:ro"]
    assert a.files == [f"{new}/files/overlays:/x", f"{new}/files/disks:/y"]
    assert (new / "files/disks/web/deep/only").read_text() == "disks"
    assert home.fs("new", "save", "-").stdout == home.fs("lab", "save", "-").stdout


def test_files_that_cannot_be_saved(home: Home, lab: Path) -> None:
    _set(lab, files=[f"{lab}/conf", f"{lab}/conf/more:/etc"])
    done = home.fs("lab", "save", "lab.tar", status=3)
    assert "cannot find files" in done.stderr.decode()
    (lab / "conf/more").symlink_to(home.place / "elsewhere")
    done = home.fs("lab", "save", "lab.tar", status=4)
    assert "replaced with a link" in done.stderr.decode()
    assert not (home.place / "lab.tar").exists()


@pytest.mark.parametrize("marks", [layer.USER, layer.FUSE])
def test_marks_of_all_drivers_are_the_same(tmp_path: Path, marks: layer.Marks) -> None:
    fill(tmp_path / "a")
    if marks is layer.FUSE:
        (tmp_path / "a/etc/.wh.gone").touch()
    how = layer_tar.Reading(marks=marks)
    first = b"".join(tarring.ended(layer_tar.members(str(tmp_path / "a"), "x", how)))
    (tmp_path / "b").mkdir()
    untar.extract(io.BytesIO(first), "archive", str(tmp_path / "b"), marks=layer.USER)
    how = layer_tar.Reading(marks=layer.USER)
    again = layer_tar.members(str(tmp_path / "b/x"), "x", how)
    assert b"".join(tarring.ended(again)) == first
    assert layer.is_whiteout((tmp_path / "b/x/etc/passwd").lstat())
    if marks is layer.FUSE:
        assert layer.is_whiteout((tmp_path / "b/x/etc/gone").lstat())


NAMES = st.sampled_from([b"a", b"b", b"\xc3\xa9", b"\xff\n", b"n" * 150])
FILES = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=40), st.integers(0, 0o7777)),
    st.tuples(st.just("large"), st.lists(st.booleans(), min_size=1, max_size=6)),
    st.tuples(st.sampled_from(["gone", "fifo", "same"])),
    st.tuples(st.just("link"), st.sampled_from([b"/", b"../x", b"y" * 200])),
)
TREES = st.recursive(FILES, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=8)


def plant(place: bytes, what: Any, time: int) -> None:
    """Make a file or a tree that hypothesis has chosen."""
    if isinstance(what, dict):
        os.mkdir(place)
        for name, inner in what.items():
            plant(place + b"/" + name, inner, time + 1)
        return
    kind, *how = what
    if kind == "link":
        os.symlink(how[0], place)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "gone":
        os.mknod(place, stat.S_IFCHR)
    elif kind == "same" and (others := sorted(os.listdir(os.path.dirname(place)))):
        other = os.path.dirname(place) + b"/" + others[0]
        if not os.path.isdir(other) and not layer.is_whiteout(os.lstat(other)):
            os.link(other, place, follow_symlinks=False)
    elif kind in ("file", "large"):
        if kind == "large":
            how = [b"".join((b"\1" if full else b"\0") * 65_536 for full in how[0]), 0o640]
        Path(os.fsdecode(place)).write_bytes(how[0])
        os.chmod(place, how[1] if ROOT else how[1] | 0o400)
        os.utime(place, ns=(time, time * 1_000_000_007))


@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(NAMES, TREES, max_size=4), time=st.integers(0, 1 << 32))
def test_any_layer_is_the_same_again(tree: dict[bytes, Any], time: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        plant(os.fsencode(f"{place}/x"), tree, time)
        how = layer_tar.Reading(marks=layer.USER)
        first = b"".join(tarring.ended(layer_tar.members(f"{place}/x", "x", how)))
        os.mkdir(f"{place}/new")
        untar.extract(io.BytesIO(first), "archive", f"{place}/new", marks=layer.USER)
        again = layer_tar.members(f"{place}/new/x", "x", how)
        assert b"".join(tarring.ended(again)) == first
        with tarfile.open(fileobj=io.BytesIO(first)) as tar:  # Python's own reader agrees
            assert {m.name.split("/")[0] for m in tar} == {"x"}


# ---- masters and packs ----


@pytest.mark.slow
def test_masters_are_recognized_by_their_contents(home: Home, lab: Path) -> None:
    home.fs("lab", "save", "lab.tar")
    archive = (home.place / "lab.tar").read_bytes()
    master = home.cache / "dumm/masters/small"
    os.utime(master / "etc/passwd", (5, 5))
    (home.cache / "dumm/masters/.small.json").unlink()
    home.fs("same", "restore", "lab.tar")
    # Kept, and found to be out of date.
    assert json.loads((home.cache / "dumm/masters/.small.json").read_text())["digest"]
    shutil.move(master, home.cache / "dumm/masters/moved")
    assert home.refused("new", archive, 3) == ("no master 'small', which the lab was saved with")
    (master / "etc").mkdir(parents=True)
    (master / "etc/passwd").write_text("another\n")
    assert home.refused("new", archive, 4) == (
        "master 'small' is not the one that the lab was saved with"
    )
    home.refused("new", archive, 3, "--master", "small=nothing")
    home.refused("new", archive, 3, "--master", "other=small")
    home.refused("new", archive, 2, "--master", "small")
    home.fs("new", "restore", "lab.tar", "--master", "small=moved")
    assert (home.place / "new/master").readlink() == home.cache / "dumm/masters/moved"
    assert statefile.load(str(home.place / "new")).guests["b"].master == "moved"
    home.fs("anyway", "restore", "lab.tar", "--master", "small=small")


def test_master_with_a_path_is_left_alone_unless_chosen(home: Home) -> None:
    """An archive may name anything, and it would be read whole."""
    place = home.place / "tree"
    shutil.copytree(home.cache / "dumm/masters/small", place)
    home.fs("lab", "init", "--kernel", "none", "--master", place, *["--isolated"] * ROOT)
    home.fs("lab", "save", "lab.tar")
    archive = (home.place / "lab.tar").read_bytes()
    assert home.refused("new", archive, 3) == (
        f"the lab was saved with the master '{place}', which only you can choose here"
    )
    home.fs("new", "restore", "lab.tar", "--master", f"{place}={place}")
    assert (home.place / "new/master").readlink() == place


def test_digest_is_kept_until_the_object_is_replaced(home: Home) -> None:
    pack = home.cache / "dumm/kernels/none"
    first = digest.of("kernels", str(pack))
    (pack / "pack.json").write_text('{"date": "today"}')
    assert digest.of("kernels", str(pack)) == first
    (pack / "usr/bin/linux.uml").write_text("another\n")
    assert digest.of("kernels", str(pack)) == first  # nobody does this
    (pack / "new").touch()
    assert digest.of("kernels", str(pack)) != first


@pytest.mark.netns
def test_with_masters(new_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """With a real pack: what is imported must be one."""
    lab = new_lab()
    lab("dumm-guest create alice")
    lab.batch("bridge create lan0", "iface create alice-eth0 --bridge lan0")
    lab(["dumm-fs", "save", tmp_path / "lab.tar", "--with-masters"])
    lab("dumm-guest delete alice")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "DUMM_DIR": str(tmp_path / "new")}
    lab(["dumm-fs", "restore", tmp_path / "lab.tar", "--master", "busybox=mine"], env=env)
    assert lab("dumm-fs master list -q", env=env).lines == ["mine"]
    kernels = lab("dumm-fs kernel list -q", env=env).lines
    assert len(kernels) == 1
    lab(["dumm-fs", "save", tmp_path / "again.tar"], env=env)
    first, again = (told((tmp_path / f).read_bytes()) for f in ("lab.tar", "again.tar"))
    assert [i["digest"] for i in first["images"]] == [i["digest"] for i in again["images"]]
    assert again["master"] == "mine"
    lab("dumm-fs destroy", env=env)


# ---- archives of others ----


@pytest.fixture
def sound(home: Home, tmp_path: Path) -> dict[str, Any]:
    """The lab.json of an archive that could be restored."""
    kinds: list[tuple[cache.Kind, str]] = [("kernels", "none"), ("masters", "small")]
    images = [
        {"kind": kind, "spec": name, "name": name, "within": False, "facts": {}}
        | {"digest": digest.of(kind, str(home.cache / "dumm" / kind / name))}
        for kind, name in kinds
    ]
    iface = Iface("b-eth0", "b", "eth0", 0, "b-eth0", "02:00:00:00:00:0b", "lan")
    state = State("0" * 12, 0, guests={"b": Guest("b")}, bridges={"lan": Bridge("lan")})
    state.ifaces["b-eth0"] = iface
    text = json.loads(records.encode(state))
    found = {"format": 1, "kernel": "none", "master": "small", "images": images, "state": text}
    (tmp_path / "sound.tar").write_bytes(made(found))
    home.restore("sound", tmp_path / "sound.tar")
    return found


def refused(home: Home, archive: bytes) -> str:
    """The message of `restore`, which must leave nothing behind."""
    file = home.place / "hostile.tar"
    file.write_bytes(archive)
    before = home.everything()
    with pytest.raises(DummError) as error:
        home.restore("new", file)
    assert home.everything() == before
    return str(error.value)


LINK: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/"}
HOSTILE: dict[str, list[Member]] = {
    "above": [member("lab/../../x")],
    "absolute": [member("/lab/host/b/x")],
    "elsewhere": [member("other/x")],
    "state": [member("lab/state.json", b"{}")],
    "lock": [member("lab/.lock")],
    "run": [member("lab/run/b/lock")],
    "mount": [member("lab/mount/b/x")],
    "another guest": [member("lab/host/c/x")],
    "a default": [member("lab/master", **LINK)],
    "host as a link": [member("lab/host", **LINK), member("lab/host/b/x")],
    "guest as a link": [member("lab/host/b", **LINK), member("lab/host/b/x")],
    "guest as a file": [member("lab/host/b")],
    "below a link": [member("lab/host/b/l", **LINK), member("lab/host/b/l/x")],
    "script as a link": [member("lab/startup/b", **LINK)],
    "script as a directory": [member("lab/startup/b", type=tarfile.DIRTYPE)],
    "script as a hard link": [
        member("lab/host/b/x"),
        member("lab/startup/b", type=tarfile.LNKTYPE, linkname="lab/host/b/x"),
    ],
    "hard link to a script": [
        member("lab/startup/b", b"x"),
        member("lab/host/b/x", type=tarfile.LNKTYPE, linkname="lab/startup/b"),
    ],
    "hard link to another layer": [
        member("lab/host/b/x", b"x"),
        member("lab/templates/t/b/x", type=tarfile.LNKTYPE, linkname="lab/host/b/x"),
    ],
    "template": [member("lab/templates/.x", type=tarfile.DIRTYPE)],
    "template's file": [member("lab/templates/t/.x/y")],
    "a master that lab.json lacks": [member("lab/masters/evil/bin/sh")],
    "cut off": [member("lab/host/b/x", b"x" * 10_000)],
}


@pytest.mark.attack
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members(home: Home, sound: dict[str, Any], what: str) -> None:
    archive = made(sound, *HOSTILE[what])
    if what == "cut off":
        archive = archive[:-12_000]
    refused(home, archive)


def _change(*path: Any, to: object) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        *parents, last = path
        for key in parents:
            found = found[key]
        found[last] = to

    return change


OVERLAYS = ("state", "guests", "b", "overlays")
DISKS = ("state", "guests", "b", "disks")
GIVEN = ("state", "guests", "b", "files")
FOREIGN = {
    "newer": _change("format", to=2),
    "no format": _change("format", to="1"),
    "no state": _change("state", to=None),
    "images": _change("images", to={}),
    "an image": _change("images", 0, to=3),
    "an image's name": _change("images", 0, "name", to="../x"),
    "an image's digest": _change("images", 0, "digest", to="x"),
    "no images": _change("images", to=[]),
    "default": _change("master", to=["small"]),
    "unknown default": _change("master", to="/etc"),
    "guest": _change("state", "guests", to={"../x": {}}),
    "guest's kernel": _change("state", "guests", "b", "kernel", to="/bin/sh"),
    "running": _change(
        *("state", "guests", "b", "boot"), to={"nonce": "x", "phase": "running", "host_boot": "x"}
    ),
    "argument": _change("state", "guests", "b", "args", to=["mem=1G"]),
    "memory": _change("state", "guests", "b", "memory", to=1),
    "overlay outside": _change(*OVERLAYS, to=["/../x"]),
    "overlay of the host": _change(*OVERLAYS, to=["/run/b"]),
    "overlay that is missing": _change(*OVERLAYS, to=["/x"]),
    "relative overlay": _change(*OVERLAYS, to=["x"]),
    "hidden overlay": _change(*OVERLAYS, to=["/.ssh"]),
    "disk outside": _change(*DISKS, to=["/disks/../../x"]),
    "disk that is missing": _change(*DISKS, to=["/x"]),
    "files outside": _change(*GIVEN, to=["/../x:/etc"]),
    "files of the host": _change(*GIVEN, to=["/run/b"]),
    "files that are missing": _change(*GIVEN, to=["/x:/etc/x"]),
    "files of another guest": _change(*GIVEN, to=["/host/a"]),
    "state as files": _change(*GIVEN, to=["/state.json:/etc/x"]),
    "state as a disk": _change(*DISKS, to=["/state.json"]),
    "uplink": _change("state", "bridges", "lan", "uplink", to="to:a/b"),
    "tap": _change("state", "ifaces", "b-eth0", "tap", to="eth0"),
    "bridge": _change("state", "ifaces", "b-eth0", "bridge", to="docker0"),
}


@pytest.mark.attack
@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_records(home: Home, sound: dict[str, Any], what: str) -> None:
    changed = copy.deepcopy(sound)
    FOREIGN[what](changed)
    refused(home, made(changed))


@pytest.mark.attack
@pytest.mark.parametrize(
    ("key", "values"), [("overlays", ["/x", "/x/l/web"]), ("files", ["/x:/x", "/x/l/web:/etc"])]
)
def test_links_to_overlays_and_files(
    home: Home, sound: dict[str, Any], key: str, values: list[str]
) -> None:
    """A link in one of them that another one's path leads through."""
    (home.place / "mine/web").mkdir(parents=True)
    sound["state"]["guests"]["b"][key] = values
    tree = member("lab/x", type=tarfile.DIRTYPE, mode=0o755)
    link = member("lab/x/l", type=tarfile.SYMTYPE, linkname=str(home.place / "mine"))
    assert "lacks the" in refused(home, made(sound, tree, link))


@pytest.mark.attack
def test_other_archives(home: Home, sound: dict[str, Any]) -> None:
    for archive in (b"", b"x" * 1000, bytes(1024), made(b"{"), made(b"[" * 100_000)):
        refused(home, archive)
    large = member("lab/lab.json", size=1 << 40)[0].tobuf()
    assert "too large" in refused(home, large + bytes(1 << 20))
    device = member("lab/host/b/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    script = member("lab/startup/b", b"x", mode=0o4777, uid=1000)
    (home.place / "lab.tar").write_bytes(made(sound, device, script))
    said: list[str] = []
    home.restore("new", home.place / "lab.tar", warn=said.append)
    assert said == ["skipped 1 device nodes: guests make their own"]
    new = home.place / "new"
    assert not (new / "host/b/null").exists()
    found = (new / "startup/b").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())


@pytest.mark.slow
def test_places_that_are_taken(home: Home, lab: Path) -> None:
    archive = home.fs("lab", "save", "-").stdout
    for name in ("host/x", "templates/x", "web", "disks/x"):
        path = home.place / "new" / name
        path.parent.mkdir(parents=True)
        path.write_text("")
        assert "already exists" in home.refused("new", archive, 4)
        shutil.rmtree(home.place / "new")
    # Before anything is unpacked: the rest of this archive is not even there.
    _set(lab, overlays=[], disks=[], files=[f"{lab}/conf"])
    conf = plain(home.fs("lab", "save", "-").stdout)
    (home.place / "new").mkdir()
    (home.place / "new/conf").write_text("")
    assert "already exists" in home.refused("new", conf[: len(conf) // 2], 4)
    (home.place / "new/conf").unlink()
    (home.place / "new/Makefile").write_text("all:\n")
    (home.place / "new/host").mkdir()
    home.fs("new", "restore", "-", stdin=archive)
    assert (home.place / "new/Makefile").exists()


# ---- killed ----


@pytest.mark.slow
def test_killed_at_any_move(home: Home, lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.fs("lab", "save", "lab.tar")
    new, file = home.place / "new", home.place / "lab.tar"
    rename, ends, left = os.rename, list[int](), 0

    def counted(old: Any, new: Any, **where: Any) -> None:
        nonlocal left
        if left == 0:
            os._exit(9)
        left -= 1
        rename(old, new, **where)

    for most in range(40):
        left = most
        pid = os.fork()
        if pid == 0:
            try:
                monkeypatch.setattr(os, "rename", counted)
                home.restore("new", file)
                os._exit(0)
            finally:
                os._exit(1)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if not (new / "state.json").exists():
            if most % 2:
                home.restore("new", file)
            else:  # or another lab is made there
                working_set.init(str(new), kernel_spec=None, master_spec=None, isolated=True)
                assert not (new / "web").exists()
                assert not list((new / "host").iterdir())
            assert not list(new.glob(".restore*"))
        shutil.rmtree(new)
        if ends[-1] == 0:
            break
    assert ends == [9] * (len(ends) - 1) + [0]
    assert len(ends) > 12


# ---- run elsewhere ----

LINES = (
    "guest create alice bob",
    "bridge create lan0",
    "iface create alice-eth0 --bridge lan0 --address 10.0.0.1/24",
    "iface create bob-eth0 --bridge lan0 --address 10.0.0.2/24",
)


def _filled(lab: Lab) -> None:
    """A lab whose guests have files of several owners, deleted ones, an overlay, and `--files`."""
    lab.batch(*LINES)
    lab("dumm-guest startup bob -", stdin=b"echo started >/run/started\n")
    (lab.directory / "layer").mkdir()
    lab("dumm-fs overlay add bob layer")
    (lab.directory / "conf/etc").mkdir(parents=True)
    (lab.directory / "conf/etc/given").write_text("given\n")
    lab("dumm-guest set bob --files conf")


def _works(lab: Lab) -> None:
    lab("dumm-guest start --all")
    lab("dumm-guest wait bob --for booted")
    lab("dumm-guest exec alice -- ping -c1 -W30 10.0.0.2")
    assert lab("dumm-guest exec bob -- cat /run/started").out == "started\n"
    assert lab("dumm-guest exec bob -- cat /etc/given").out == "given\n"
    assert lab("dumm-guest exec bob -- stat -c %u /etc/given").out == "0\n"
    lab("dumm-guest exec bob -- rm /etc/given")  # it comes from the archive's copy again
    for guest in ("alice", "bob"):
        assert lab(f"dumm-guest exec {guest} -- cat /etc/note").out == f"{guest}\n"
        lab(f"dumm-guest exec {guest} -- test ! -e /etc/passwd")
        assert lab(f"dumm-guest exec {guest} -- ls /opt").lines == ["mine"]


def _write(lab: Lab) -> None:
    for guest in ("alice", "bob"):
        script = "echo $0 >/etc/note; rm /etc/passwd; rm -rf /opt; mkdir /opt; >/opt/mine"
        lab(["dumm-guest", "exec", guest, "--", "sh", "-c", script, guest])


@pytest.mark.uml
@pytest.mark.root
def test_from_root_to_a_user_and_back(
    new_lab: Callable[..., Lab], packs: Path, tmp_path: Path
) -> None:
    lab = new_lab()
    _filled(lab)
    lab("dumm-guest start --all")
    _write(lab)
    done = lab("dumm-fs save -")  # while they run
    assert "saved while running, perhaps without what was written last: alice, bob" in done.err
    lab("dumm-guest stop --all")
    archive = lab("dumm-fs save - --with-masters").stdout
    small = lab("dumm-fs save -").stdout
    user = User(1, packs)
    try:
        theirs = user.lab("restored")
        theirs("dumm-fs restore -", stdin=archive)
        assert theirs("dumm-fs save -").stdout == small
        _works(theirs)
        theirs("dumm-guest stop --all")
        back = theirs("dumm-fs save -").stdout
        theirs.end()
    finally:
        user.end()
    lab("dumm-guest delete alice bob")
    lab("dumm-bridge delete lan0")
    third = {"DUMM_DIR": str(tmp_path / "third")}
    lab("dumm-fs restore -", stdin=back, env=third)
    lab.env |= third
    try:
        _works(lab)
    finally:
        lab("dumm-fs destroy")
        lab.env["DUMM_DIR"] = str(lab.directory)
