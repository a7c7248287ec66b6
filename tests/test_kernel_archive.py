"""Kernel packs that travel as archives; archives of others are not trusted."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import BIN
from support.checks import one_line_error

from dumm_tools.errors import DummError
from dumm_tools.images import kernel, kernel_archive, kernel_pack
from dumm_tools.trees import tarring, untar

BINARY = "usr/bin/linux.uml"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "dumm" / "kernels"


@pytest.fixture
def pack(packs: Path, home: Path, tmp_path: Path) -> Path:
    """The pack `sid` with few of its modules."""
    origin = packs / "dumm/kernels/sid"
    copy = tmp_path / "sid"

    def left_out(place: str, names: list[str]) -> list[str]:
        return [n for n in names if n in ("drivers", "fs", "net", "crypto", "lib", "sound")] * (
            place.endswith("/kernel")
        )

    shutil.copytree(origin, copy, symlinks=True, ignore=left_out)
    kernel_pack.import_(str(copy))
    shutil.rmtree(copy)
    return home / "sid"


def fs(*args: str, stdin: bytes | None = None, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [BIN / "dumm-fs", "kernel", *args],
        input=stdin or b"",
        env={**os.environ, **env},
        capture_output=True,
        check=False,
    )


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """The types, modes and data of all files below a directory."""

    def data(path: Path) -> bytes:
        if path.is_symlink():
            return os.fsencode(path.readlink())
        return b"" if path.is_dir() else path.read_bytes()

    found = {str(p.relative_to(root)): (p.lstat().st_mode, data(p)) for p in root.rglob("*")}
    return {**found, ".": (root.stat().st_mode, b"")}


def test_there_and_back(pack: Path, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "sid.tar.zst"
    before, facts = contents(pack), (pack / "pack.json").read_text()
    done = fs("export", "sid", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert file.read_bytes().startswith(b"\x28\xb5\x2f\xfd")
    assert fs("export", "sid", "-").stdout == file.read_bytes()
    again = fs("import", str(file))
    assert again.returncode == 4
    assert one_line_error(again.stderr.decode(), "dumm-fs") == "kernel 'sid' already exists"
    assert fs("import", str(file), "--may-exist").stdout == b"sid\n"
    assert fs("delete", "sid").returncode == 0
    assert fs("import", "-", stdin=file.read_bytes()).stdout == b"sid\n"
    assert contents(pack) == before
    assert (pack / "pack.json").read_text() == facts
    assert fs("export", "sid", "-").stdout == file.read_bytes()
    assert fs("import", str(file), "--name", "other").stdout == b""
    assert contents(home / "other") == before
    assert sorted(p.name for p in home.iterdir() if not p.name.endswith(".lock")) == [
        "other",
        "sid",
    ]


def test_archive_says_nothing_of_its_maker(pack: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    without_zstd = f"{tmp_path}/bin"
    first = fs("export", "sid", "-", PATH=without_zstd)
    assert first.returncode == 0
    os.utime(pack / BINARY, (5, 5))
    (pack / BINARY).chmod(0o4711)
    assert fs("export", "sid", "-", PATH=without_zstd).stdout == first.stdout
    with tarfile.open(fileobj=io.BytesIO(first.stdout)) as archive:
        members = archive.getmembers()
    assert members[0].name == "sid"
    # Members of a directory are sorted by their bytes; directories come before their contents.
    assert [m.name.split("/") for m in members] == sorted(m.name.split("/") for m in members)
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, "", "")}
    assert len({m.mtime for m in members}) == 1
    assert {m.mode for m in members if m.isfile()} == {0o755, 0o644}
    assert fs("import", "-", "--name", "plain", stdin=first.stdout).returncode == 0


def test_bad_targets_and_names(pack: Path, tmp_path: Path) -> None:
    file = tmp_path / "a"
    for target, name, status in (
        (str(file), "nothing", 3),
        (str(tmp_path), "sid", 4),
        (f"{tmp_path}/no/such", "sid", 3),
        (f"{pack}/pack.json/x", "sid", 3),
        ("/dev/full", "sid", 1),
    ):
        done = fs("export", name, target)
        assert (done.returncode, done.stdout) == (status, b"")
        one_line_error(done.stderr.decode(), "dumm-fs")
    assert fs("export", "sid").returncode == 2
    assert fs("export", "sid", "/dev/null").returncode == 0
    assert not file.exists()
    read = fs("import", str(pack / "pack.json"))
    assert b"is neither a UML kernel nor an archive" in read.stderr
    os.mkfifo(file)
    assert fs("import", str(file)).returncode == 1
    ours, theirs = pty.openpty()
    try:
        for words in (("export", "sid", "-"), ("import", "-")):
            done = subprocess.run(
                [BIN / "dumm-fs", "kernel", *words],
                stdin=theirs,
                stdout=theirs,
                stderr=subprocess.PIPE,
                check=False,
            )
            assert done.returncode == 2
            assert b"is a terminal" in done.stderr
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("zstd", [True, False])
def test_failed_export_leaves_the_old_file(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zstd: bool
) -> None:
    if not zstd:
        monkeypatch.setenv("PATH", "/nowhere")
    file = tmp_path / "file"
    link = tmp_path / "link"
    link.symlink_to(file)
    file.write_text("old")

    def ends_early(root: str, name: str) -> Iterator[bytes]:
        yield bytes(1 << 20)
        raise DummError("it broke")

    with monkeypatch.context() as broken:
        broken.setattr(tarring, "stream", ends_early)
        with pytest.raises(DummError, match="it broke"):
            kernel_archive.export("sid", str(file))
    assert file.read_text() == "old"
    kernel_archive.export("sid", str(link))
    assert link.is_symlink()
    assert file.stat().st_size > 1 << 20
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "xdg"]


# ---- archives of others ----


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, size, 0o755
    return info


def archive(*members: tarfile.TarInfo | Path, data: bytes = b"") -> bytes:
    """An archive of these members; a path stands for a whole pack, as `x`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for each in members:
            if isinstance(each, Path):
                tar.add(each, "x")
            else:
                tar.addfile(each, io.BytesIO(bytes(each.size)))
    return out.getvalue()


DIR, LINK, HARD, DEVICE, FIFO = (
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
)


@pytest.mark.attack("foreign-packs")
@pytest.mark.parametrize(
    "members",
    [
        [member("../x", DIR)],
        [member("/x/usr", DIR)],
        [member("x", LINK, "/"), member("y", LINK, "/usr")],
        [member("x", LINK, "/usr")],
        [member("x", LINK, "/"), member("x/usr/bin/linux.uml")],
        [member("x", DIR), member("x/usr", LINK, "/usr")],
        [member("x", DIR), member("x/linux", LINK, "/usr/bin/linux.uml")],
        [member("x", DIR), member("x/linux", HARD, "../../etc/passwd")],
        [member("x", DEVICE)],
        [member("x", FIFO)],
        [member("x", DIR)],
        [member("x", DIR), member("y", DIR)],
        [member("x/usr/bin/linux.uml", size=5000)],
        [member("a b", DIR), member("a b/linux", size=9)],
        [member("x")],
        [],
    ],
)
def test_other_archives_are_refused(members: list[tarfile.TarInfo], home: Path) -> None:
    done = fs("import", "-", stdin=archive(*members))
    assert done.returncode == 1
    one_line_error(done.stderr.decode(), "dumm-fs")
    assert [p for p in home.iterdir() if not p.name.endswith(".lock")] == []


@pytest.mark.attack("foreign-packs")
def test_damaged_archives_are_refused(pack: Path, home: Path) -> None:
    whole = fs("export", "sid", "-").stdout
    os.rename(pack, home.parent / "aside")
    for part in (whole[: len(whole) // 2], whole[:-5], whole[:1000], b"", b"\x28\xb5\x2f\xfd"):
        done = fs("import", "-", stdin=part)
        assert done.returncode == 1
        one_line_error(done.stderr.decode(), "dumm-fs")
    assert [p for p in home.iterdir() if not p.name.endswith(".lock")] == []


@pytest.mark.attack("foreign-packs")
def test_nothing_of_the_sender_is_kept(pack: Path, home: Path, tmp_path: Path) -> None:
    """Owners, privileges, special files and links that lead out of the pack."""
    modules = next((pack / "usr/lib/uml/modules").iterdir())
    (modules / "out").symlink_to("/etc")
    os.mkfifo(modules / "fifo")
    (modules / "setuid").write_text("")
    (pack / "pack.json").write_text(
        json.dumps({"suite": "a\nb", "version": "x" * 5000, "date": 3, "release": "99", "x": "y"})
    )
    (pack / "usr/bin/extra").write_text("not part of a kernel")

    def spoiled(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 12345
        info.mode = 0o6777
        info.pax_headers = {"SCHILY.xattr.user.mark": "x"}
        return info

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(pack, "got", filter=spoiled)
    assert fs("import", "-", stdin=out.getvalue()).stdout == b"got\n"
    made = home / "got"
    paths = [made, *made.rglob("*")]
    assert {p.lstat().st_uid for p in paths} == {os.geteuid()}
    assert {p.lstat().st_mode & 0o7022 for p in paths if not p.is_symlink()} == {0}
    assert {stat.S_IFMT(p.lstat().st_mode) for p in paths} == {
        stat.S_IFDIR,
        stat.S_IFREG,
        stat.S_IFLNK,
    }
    assert all(os.listxattr(p, follow_symlinks=False) == [] for p in paths)
    assert not (made / "usr/bin/extra").exists()
    facts = kernel.facts(str(made))
    assert facts.pop("features")
    assert facts == {"release": kernel.facts(str(made))["release"], "x": "y"}
    assert facts["release"].startswith("7.")
    shutil.rmtree(tmp_path / "xdg")


@pytest.mark.attack("foreign-packs")
def test_large_archives_are_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, pack: Path, tmp_path: Path
) -> None:
    hole = member("x/usr/bin/linux.uml", size=0)
    hole.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 40),
    }
    hole.size = 512
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(hole, io.BytesIO(b"0\n".ljust(512, b"\0")))
    done = fs("import", "-", stdin=out.getvalue())
    assert done.returncode == 1
    assert b"'standard input' is too large" in done.stderr
    kernel_archive.export("sid", str(tmp_path / "file"))
    limits: Callable[[int, int], untar.Limits] = untar.Limits
    for few in (limits(1 << 20, 10_000), limits(8 << 30, 10)):
        with monkeypatch.context() as small:
            small.setattr(untar, "Limits", lambda *_, few=few: few)
            with pytest.raises(DummError, match="is too large"):
                kernel_pack.import_(str(tmp_path / "file"), "x")
    assert [p.name for p in home.iterdir() if not p.name.endswith(".lock")] == ["sid"]
