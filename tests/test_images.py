"""Masters from container images, cpio archives and other files that are not archives."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import BIN
from support.checks import one_line_error
from support.images import (
    Entry,
    Layout,
    digest,
    directory,
    docker,
    hard,
    layer,
    link,
    oci,
    packed,
    plain,
    zstd,
)

from dumm_tools.errors import DummError, Usage
from dumm_tools.images import cache, master, master_import, startup

COMMAND = startup.Command(
    ("/bin/sh", "-c", "serve --all"),
    {"PATH": "/bin", "GREETING": "hi there", "EMPTY": ""},
    "/srv",
    "www",
)


@pytest.fixture(autouse=True)
def masters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg/dumm/masters"


def contents(root: Path) -> dict[str, str]:
    """The files of a tree with their texts; links as `-> target`."""
    return {
        str(path.relative_to(root)): f"-> {path.readlink()}"
        if path.is_symlink()
        else path.read_text()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def imported(masters: Path, source: Path, name: str = "m") -> dict[str, str]:
    """The files of the master made from this source."""
    if (masters / name).exists():
        cache.delete("masters", name)
    master_import.import_(str(source), name)
    return contents(masters / name)


BASE = layer(
    directory("bin/"),
    Entry("bin/sh", "shell", mode=0o4755),
    directory("etc"),
    Entry("etc/one", "1"),
    Entry("etc/two", "2"),
    hard("etc/again", "etc/two"),
    directory("srv"),
    Entry("srv/a", "a"),
    Entry("srv/sub/b", "b"),
    Entry("was-file", "x"),
    directory("was-dir"),
    Entry("was-dir/in", "x"),
    directory("usr/lib"),
    link("lib", "usr/lib"),
    link("abs", "/usr/lib"),
)
UPPER = layer(
    Entry("etc/.wh.one"),
    Entry("etc/two", "changed"),
    # Marks concern the layers below, wherever they are.
    Entry("srv/new", "new"),
    Entry("srv/.wh..wh..opq"),
    Entry("srv/sub/c", "c"),
    Entry(".wh.nothing"),
    Entry("no/such/.wh.file"),
    directory("was-file"),
    Entry("was-file/in", "y"),
    Entry("was-dir", "y"),
    # Through a link of the layer below, as a container engine does.
    Entry("lib/libx", "x"),
    Entry("abs/liby", "y"),
    hard("etc/sh", "bin/sh"),
    Entry("/absolute", "z"),
)
RESULT = {
    "bin/sh": "shell",
    "etc/two": "changed",
    "etc/again": "2",
    "etc/sh": "shell",
    "srv/new": "new",
    "srv/sub/c": "c",
    "was-file/in": "y",
    "was-dir": "y",
    "usr/lib/libx": "x",
    "usr/lib/liby": "y",
    "lib": "-> usr/lib",
    "abs": "-> /usr/lib",
    "absolute": "z",
}


def test_layers_and_whiteouts(masters: Path, tmp_path: Path) -> None:
    layers = [BASE, UPPER]
    for source in (
        oci(tmp_path / "plain", layers),
        packed(oci(tmp_path / "gz", layers, gzip.compress)),
        packed(oci(tmp_path / "zst", layers, zstd)),
        packed(docker(tmp_path / "docker", layers)),
        docker(tmp_path / "unpacked", layers),
    ):
        assert imported(masters, source) == RESULT
        root = masters / "m"
        assert (root / "etc/sh").samefile(root / "bin/sh")
        assert stat.S_IMODE((root / "bin/sh").stat().st_mode) == 0o4755
        assert startup.command_of(str(root)) == COMMAND
    assert {p.name for p in masters.iterdir()} == {".m.lock", ".m.json", "m"}


def test_later_layers_see_earlier_ones(masters: Path, tmp_path: Path) -> None:
    third = layer(
        Entry(".wh.etc"),
        Entry("etc/three", "3"),
        directory("lib"),
        Entry("lib/own", "own"),
        Entry("srv/.wh.new"),
    )
    found = imported(masters, packed(oci(tmp_path / "x", [BASE, UPPER, third])))
    # `lib` is a directory now; the files that were added through the link stay where they are.
    expected = {k: v for k, v in RESULT.items() if not k.startswith("etc/") and k != "lib"}
    del expected["srv/new"]
    assert found == {**expected, "etc/three": "3", "lib/own": "own"}


def test_commands(masters: Path, tmp_path: Path) -> None:
    def fs(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        words = [str(BIN / "dumm-fs"), "master", *args]
        return subprocess.run(words, input=stdin, capture_output=True, check=False)

    archive = packed(oci(tmp_path / "app", [BASE])).read_bytes()
    without = fs("import", "-", stdin=archive)
    assert without.returncode == 2
    done = fs("import", "-", "--name", "app", stdin=gzip.compress(archive))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    [record] = json.loads(fs("show", "app", "--format", "json").stdout)
    assert record["command"] == list(COMMAND.argv)
    assert record["environment"] == ["PATH=/bin", "GREETING=hi there", "EMPTY="]
    assert (record["directory"], record["user"]) == ("/srv", "www")
    (tmp_path / "tree/etc").mkdir(parents=True)
    assert fs("import", str(tmp_path / "tree")).stdout == b"tree\n"
    assert fs("list", "-o", "name,command,user").stdout == (
        b"app\t/bin/sh,-c,serve --all\twww\ntree\t-\t-\n"
    )
    assert fs("show", "x").returncode == 3
    assert fs("delete", "app").returncode == 0
    # Another master of that name does not have the command.
    assert fs("import", str(tmp_path / "tree"), "--name", "app").returncode == 0
    assert startup.command_of(str(masters / "app")) is None


def test_commands_that_cannot_be_run(masters: Path, tmp_path: Path) -> None:
    of_image = startup.Command.of_image
    assert of_image({}) is None
    assert of_image({"Entrypoint": None, "Cmd": []}) is None
    assert of_image({"Cmd": ["a\0b"]}) is None
    assert of_image({"Cmd": ["x" * 100_000]}) is None
    assert of_image({"Cmd": ["\u00e9" * 40_000]}) is None  # 80,000 bytes
    assert of_image({"Cmd": ["sh", "\ud800"]}) is None  # half of a surrogate pair
    assert of_image({"Cmd": "sh -c true"}) is None
    assert of_image({"Cmd": ["sh"], "Env": 3, "User": 5, "WorkingDir": ["x"]}) == (
        startup.Command(("sh",), {}, "/", "root")
    )
    imported(masters, oci(tmp_path / "x", [BASE]))
    facts = masters / ".m.json"
    good = facts.read_text()
    for bad in ("", "[]", "{}", '{"command": 3}', good.replace("serve", "a\\u0000b"), "[" * 9999):
        facts.write_text(bad)
        assert startup.command_of(str(masters / "m")) is None
    facts.unlink()
    (tmp_path / "facts").write_text(good)
    facts.symlink_to(tmp_path / "facts")
    assert startup.command_of(str(masters / "m")) is None
    assert startup.command_of(str(tmp_path)) is None
    assert [m.command for m in master.list_()] == [None]


def test_image_for_several_platforms(masters: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "x")
    wrong = layout.image([layer(Entry("wrong", "1"))], architecture="arm64")
    right = layout.image([BASE])
    statement = layout.image([layer(Entry("sbom", "1"))])
    inner = {
        "manifests": [
            {**wrong, "platform": {"os": "linux", "architecture": "arm64"}},
            {**right, "platform": {"os": "linux", "architecture": "amd64"}},
            {**statement, "platform": {"os": "unknown", "architecture": "unknown"}},
            # Not part of this archive.
            {"digest": "sha256:" + "0" * 64, "size": 1},
        ]
    }
    layout.index(layout.blob(json.dumps(inner).encode()))
    assert "etc/one" in imported(masters, packed(layout.place))
    layout.index(wrong)
    with pytest.raises(DummError, match=r"is an image for linux/arm64, not for linux/amd64"):
        imported(masters, layout.place)
    layout.index({**wrong, "platform": {"os": "linux", "architecture": "arm64"}})
    with pytest.raises(DummError, match=r"contains no image for linux/amd64"):
        imported(masters, layout.place)
    # One image under two names is one.
    layout.index(*({**right, "annotations": {"io.containerd.image.name": n}} for n in "ab"))
    assert "etc/one" in imported(masters, layout.place)
    names = {"annotations": {"org.opencontainers.image.ref.name": "b"}}
    layout.index(right, {**layout.image([UPPER]), **names})
    with pytest.raises(Usage, match=r"contains 2 images: b, unnamed") as error:
        imported(masters, layout.place)
    assert error.value.hint == "save only one of them"
    two = docker(tmp_path / "two", [BASE])
    manifests = json.loads((two / "manifest.json").read_text())
    (two / "manifest.json").write_text(json.dumps([*manifests, *manifests]))
    with pytest.raises(Usage, match=r"contains 2 images: app:1, app:1"):
        imported(masters, two)
    assert not (masters / "m").exists()


def test_indexes_that_repeat_each_other_are_read_once(masters: Path, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "x")
    below = layout.image([BASE])
    for level in range(4):  # 300 to the power of 4 in all, if each were followed
        index = {"manifests": [below] * 300, "level": level}
        below = layout.blob(json.dumps(index).encode())
    layout.index(*[below] * 300)
    assert "etc/one" in imported(masters, layout.place)


def test_root_tree_with_such_names_is_not_an_image(masters: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    for name in ("manifest.json", "index.json", "oci-layout", "etc/x"):
        (tree / name).write_text("{}")
    assert len(imported(masters, tree)) == 4
    assert len(imported(masters, packed(tree))) == 4


# ---- damaged ones, and those of others ----


def breaks(place: Path) -> list[tuple[str, Callable[[Path], object], str]]:
    """Ways to damage an OCI layout: a name, the change, and what the error says."""
    blobs = place / "blobs/sha256"
    index = json.loads((place / "index.json").read_text())
    manifest_blob = blobs / index["manifests"][0]["digest"][7:]
    manifest = json.loads(manifest_blob.read_text())
    config_blob = blobs / manifest["config"]["digest"][7:]
    layer_blob = blobs / manifest["layers"][0]["digest"][7:]

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def replace(path: Path, **more: Any) -> None:
        (place / "index.json").write_text(
            json.dumps({"manifests": [blob({**json.loads(path.read_text()), **more})]})
        )

    def blob(value: Any) -> dict[str, Any]:
        data = json.dumps(value).encode()
        (blobs / digest(data)[7:]).write_bytes(data)
        return {"digest": digest(data)}

    def become(path: Path, make: Callable[[Path], object]) -> None:
        path.unlink()
        make(path)

    two = [manifest["layers"][0]] * 2
    refers = {"digest": "sha256:../../../../etc/passwd"}
    return [
        ("layer", lambda _: flip(layer_blob), "has another digest"),
        ("manifest", lambda _: flip(manifest_blob), "has another digest"),
        ("config", lambda _: flip(config_blob), "has another digest"),
        ("no layer", lambda _: layer_blob.unlink(), "it lacks 'blobs/sha256/"),
        ("no config", lambda _: config_blob.unlink(), "it lacks 'blobs/sha256/"),
        ("number", lambda _: replace(manifest_blob, layers=two), "another number of layers"),
        ("none", lambda _: replace(manifest_blob, layers=[]), "without layers"),
        ("text", lambda _: replace(manifest_blob, layers=["x"]), "it has no layers"),
        ("path", lambda _: replace(manifest_blob, layers=[refers]), "is not a digest"),
        (
            "contents",
            lambda _: replace(
                manifest_blob, config=blob({"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}})
            ),
            "layer 1 has another digest",
        ),
        ("json", lambda p: (p / "index.json").write_text("{"), "'index.json' is not JSON"),
        ("deep", lambda p: (p / "index.json").write_text("[" * 99999), "is not JSON"),
        ("list", lambda p: (p / "index.json").write_text("[]"), "'index.json' is not an object"),
        ("large", lambda p: (p / "index.json").write_text(" " * (5 << 20)), "is too large"),
        ("fifo", lambda p: become(p / "index.json", os.mkfifo), "'index.json' is not a file"),
        ("out", lambda _: become(layer_blob, lambda p: p.symlink_to("/etc/passwd")), "it lacks"),
        ("self", lambda _: become(layer_blob, lambda p: p.symlink_to(p)), "it lacks"),
    ]


@pytest.mark.attack("damaged-parts")
@pytest.mark.parametrize("number", range(17))
def test_damaged_images_are_refused(masters: Path, tmp_path: Path, number: int) -> None:
    place = oci(tmp_path / "x", [BASE])
    changes = breaks(place)
    assert len(changes) == 17
    _, change, says = changes[number]
    change(place)
    for source in (place, packed(place)):
        done = subprocess.run(
            [BIN / "dumm-fs", "master", "import", source, "--name", "m"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1
        assert says in one_line_error(done.stderr, "dumm-fs")
    assert {p.name for p in masters.iterdir()} == {".m.lock"}


@pytest.mark.attack("foreign-layers")
def test_layers_cannot_lead_out(masters: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("safe")
    base = layer(
        directory("etc"),
        link("out", str(victim)),
        link("up", "../../../../../.." + str(victim)),
        link("etc/loop", "loop"),
    )
    upper = layer(
        Entry("out/file", "written"),
        Entry("up/other", "written"),
        Entry("etc/loop/x", "x"),
    )
    marks = layer(Entry("out/.wh.file"), Entry("up/.wh..wh..opq"), Entry(".wh..wh.plnk/1", "x"))
    for layers in ([base, upper], [base, marks], [base, upper, marks]):
        place = tmp_path / f"x{len(os.listdir(tmp_path))}"
        imported(masters, packed(oci(place, layers)))
        assert contents(victim) == {"file": "safe"}
    for bad in (
        layer(Entry("../x", "x")),
        layer(Entry("a/../../x", "x")),
        layer(Entry("a/../.wh.x")),
        layer(hard("x", "../../etc/passwd")),
        layer(hard("x", "out/file")),
        layer(hard("x", "etc")),
        BASE[: len(BASE) // 2],
        b"not an archive" * 1000,
    ):
        place = tmp_path / f"x{len(os.listdir(tmp_path))}"
        with pytest.raises(DummError):
            imported(masters, packed(oci(place, [base, bad])))
        assert not (masters / "m").exists()
    assert contents(victim) == {"file": "safe"}


@pytest.mark.attack("foreign-layers")
def test_image_with_device_nodes(masters: Path, tmp_path: Path) -> None:
    device = layer(Entry("dev/null", kind=tarfile.CHRTYPE), Entry("etc/x", "x"))
    said: list[str] = []
    master_import.import_(str(oci(tmp_path / "x", [device])), "m", warn=said.append)
    assert said == ["skipped 1 device nodes and sockets: guests make their own"]


# ---- cpio ----


def newc(*entries: tuple[str, int, bytes], inode: int = 0, links: int = 1) -> bytes:
    """An archive of (name, mode, data), with the same inode for all if it is not 0."""
    out = b""
    for number, (name, mode, data) in enumerate((*entries, ("TRAILER!!!", 0, b""))):
        known = inode or number + 1
        fields = (known, mode, 0, 0, links, 5, len(data), 0, 0, 0, 0, len(name.encode()) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out + bytes(-len(out) % 512)


def test_cpio_of_busybox(masters: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/sh").write_text("shell")
    (tree / "bin/sh").chmod(0o4755)
    os.link(tree / "bin/sh", tree / "bin/ash")
    (tree / "empty").write_text("")
    os.link(tree / "empty", tree / "empty2")
    (tree / "link").symlink_to("bin/sh")
    os.mkfifo(tree / "fifo")
    names = "\n".join(sorted(str(p.relative_to(tree)) for p in tree.rglob("*")))
    done = subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"],
        cwd=tree,
        input=names.encode(),
        capture_output=True,
        check=True,
    )
    for suffix, pack in ((".cpio", plain), (".cpio.gz", gzip.compress), (".cpio.zst", zstd)):
        file = tmp_path / f"initramfs{suffix}"
        file.write_bytes(pack(done.stdout))
        assert master_import.import_(str(file)) == "initramfs"
        root = masters / "initramfs"
        (root / "fifo").unlink()
        assert contents(root) == contents_without_fifo(tree)
        assert (root / "bin/ash").samefile(root / "bin/sh")
        assert (root / "empty").samefile(root / "empty2")
        assert stat.S_IMODE((root / "bin/sh").stat().st_mode) == 0o4755
        cache.delete("masters", "initramfs")


def contents_without_fifo(tree: Path) -> dict[str, str]:
    return {name: text for name, text in contents(tree).items() if name != "fifo"}


@pytest.mark.parametrize("first", [True, False])
def test_cpio_with_hard_links(masters: Path, tmp_path: Path, first: bool) -> None:
    """The data comes with the first name or with the last."""
    data = [b"text", b"", b""] if first else [b"", b"", b"text"]
    names = zip("abc", data, strict=True)
    file = tmp_path / "x.cpio"
    file.write_bytes(newc(*((n, 0o100644, d) for n, d in names), inode=7, links=3))
    assert imported(masters, file) == {"a": "text", "b": "text", "c": "text"}
    assert (masters / "m/a").stat().st_nlink == 3


@pytest.mark.attack("damaged-cpio")
def test_cpio_of_others(masters: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.cpio"
    good = newc(("a", 0o100644, b"text"))
    for bad in (
        newc(("../a", 0o100644, b"x")),
        newc(("/a", 0o100644, b"x")),
        newc(("l", 0o120777, b"/etc"), ("l/a", 0o100644, b"x")),
        newc(("l", 0o120777, b"x" * (1 << 17))),
        good[:100],
        good[:130],
        good.partition(b"TRAILER")[0],
        good.replace(b"070701", b"07070x", 1),
        good[:60] + b"FFFFFFFF" + good[68:],
        good[:94] + b"FFFFFFFF" + good[102:],
        good[:94] + b"00000000" + good[102:],
        good + b"070701 and more",
        newc(),
    ):
        file.write_bytes(bad)
        with pytest.raises(DummError):
            imported(masters, file)
        assert not (masters / "m").exists()
    file.write_bytes(good)
    assert imported(masters, file) == {"a": "text"}
    file.write_bytes(newc(("dev", 0o20644, b""), ("a", 0o100644, b"x"), ("s", 0o140644, b"")))
    assert imported(masters, file) == {"a": "x"}


# ---- no archives ----


@pytest.mark.parametrize(
    ("at", "magic", "name", "remedy"),
    [
        (0, b"QFI\xfb", "a qcow2 disk image", "virt-tar-out"),
        (0, b"KDMV", "a VMware disk image", "virt-tar-out"),
        (512, b"EFI PART", "a disk image with a partition table", "virt-tar-out"),
        (510, b"\x55\xaa", "a raw disk image", "virt-tar-out"),
        (1080, b"\x53\xef", "an ext4 file system image", "mount -o loop"),
        (65600, b"_BHRfS_M", "a Btrfs image", "mount -o loop"),
        (32769, b"CD001", "an ISO 9660 image", "mount -o loop"),
        (0, b"hsqs", "a squashfs image", "unsquashfs"),
        (0, b"070707", "a cpio archive in an old format", "newc"),
        (0, b"PK\x03\x04", "a zip archive", "unpack it"),
        (0, b"!<arch>\ndebian-binary", "a Debian package", "dpkg-deb"),
    ],
)
def test_other_files_are_named(
    masters: Path, tmp_path: Path, at: int, magic: bytes, name: str, remedy: str
) -> None:
    data = bytes(at) + magic + bytes(70_000)
    file = tmp_path / "x"
    for stdin in (b"", data, gzip.compress(data)):
        file.write_bytes(data)
        done = subprocess.run(
            [BIN / "dumm-fs", "master", "import", "-" if stdin else str(file), "--name", "m"],
            input=stdin,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1
        error, hint = done.stderr.decode().splitlines()
        label = "standard input" if stdin else str(file)
        assert error == f"dumm-fs: '{label}' is {name}, not an archive"
        assert remedy in hint
    assert {p.name for p in masters.iterdir()} == {".m.lock"}
