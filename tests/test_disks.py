"""Disks: files on the host that are block devices of a guest."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PLACES, ROOT, SUITES
from support.checks import one_line_error, until
from support.guests import state_of
from support.labs import Lab, recorded
from support.users import User

from dumm_tools import statefile
from dumm_tools.errors import Conflict, DummError, NotFound, Usage
from dumm_tools.guests import disks
from dumm_tools.guests.disks import Disk


def image(path: Path, size: int = 16 << 20) -> Path:
    """A sparse file."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


# ---- records ----


@pytest.mark.parametrize(
    ("text", "path", "read_only"),
    [
        ("a.img", "a.img", False),
        ("a.img:ro", "a.img", True),
        ("a.img:rw", "a.img", False),
        ("a:ro:rw", "a:ro", False),
        ("a:ro:ro", "a:ro", True),
        ("a:b, c", "a:b, c", False),
    ],
)
def test_disk_has_a_written_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, path: str, read_only: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / path)
    assert disks.parse(text) == Disk(path, read_only)
    (said,) = disks.checked([text])
    assert disks.parse(said) == Disk(str(tmp_path / path), read_only)
    assert disks.checked([said]) == [said]


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("directory", None, "is a directory, not a file"),
        ("/dev/zero", None, "is a special file, not a file"),
        ("empty", b"", "is empty"),
        ("q", b"QFI\xfb\0\0\0\3", "is in qcow2 format, not raw"),
        ("v", b"KDMV\1\0\0\0", "is in vmdk format, not raw"),
    ],
)
def test_other_things_are_refused(
    tmp_path: Path, name: str, contents: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if contents is not None:
        path.write_bytes(contents)
    elif not path.exists():
        path.mkdir()
    with pytest.raises(Usage, match=f"disk '{path}' {message}"):
        disks.checked([str(path)])


def test_disks_must_exist_and_differ(tmp_path: Path) -> None:
    one = str(image(tmp_path / "one"))
    with pytest.raises(NotFound, match="no such file"):
        disks.checked([f"{tmp_path}/none:ro"])
    with pytest.raises(NotFound, match="no such file"):
        disks.checked([f"{one}/none"])
    os.symlink(one, tmp_path / "link")
    with pytest.raises(Usage, match="is named twice"):
        disks.checked([one, f"{tmp_path}/link:ro"])
    assert len(disks.checked([f"{one}:ro", f"{one}:ro"])) == 2
    with pytest.raises(Usage, match="16 disks are too many"):
        disks.checked([f"{one}:ro"] * 16)


@pytest.mark.attack("replaced-disk")
def test_disk_that_others_could_replace(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = str(image(place / "disk"))
    (tmp_path / "link").symlink_to("place")
    assert disks.checked([f"{tmp_path}/link/disk"]) == [path]  # the link is not looked at again
    place.chmod(0o777)
    with pytest.raises(Conflict, match=f"'{place}', .* is writable by others"):
        disks.checked([path])
    place.chmod(0o1777)
    assert disks.checked([path]) == [path]
    if ROOT:
        os.chown(path, 64199, 64199)
        with pytest.raises(Conflict, match=f"'{path}' belongs to user 64199"):
            disks.checked([path])
        place.chmod(0o755)
        assert disks.checked([path]) == [path]
        os.chown(place, 64199, 64199)
        with pytest.raises(Conflict, match=f"'{place}' belongs to user 64199"):
            disks.checked([path])


def test_records_have_absolute_paths(tmp_path: Path) -> None:
    labdir = recorded(tmp_path, "alice")
    path = tmp_path / "state.json"
    data = json.loads(path.read_text())
    assert data["guests"]["alice"].pop("disks") == []
    path.write_text(json.dumps(data))
    assert statefile.load(labdir).guests["alice"].disks == []  # as earlier versions wrote it
    data["guests"]["alice"]["disks"] = ["../etc/shadow"]
    path.write_text(json.dumps(data))
    with pytest.raises(DummError, match="bad disk"):
        statefile.load(labdir)


def test_disk_that_others_could_execute(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = str(image(place / "disk"))
    assert disks.exposed([path]) == []  # pytest's directories are closed to others
    os.symlink("/usr/bin/env", place / "link")
    assert disks.exposed([f"{place}/link"]) == [os.path.realpath("/usr/bin/env")]
    assert disks.exposed([f"{place}/link:ro"]) == []


# ---- guests ----


@pytest.mark.uml
@pytest.mark.parametrize(("suite", "kind"), PLACES)
def test_file_system_on_a_disk(new_lab: Callable[..., Lab], suite: str, kind: str) -> None:
    lab = new_lab("lab", kind, kernel=suite)
    path = image(lab.directory / "a:b, c.img")
    other = image(lab.directory / "other", 1_000_000)
    other.write_bytes(b"contents".ljust(1_000_000, b"\0"))
    lab(["dumm-guest", "create", "alice", "--disk", path.name, "--disk", "other:ro", "--start"])
    assert lab("dumm-guest show alice -o disks").out == f"{path},{other}:ro\n"

    def inside(script: str, status: int = 0) -> str:
        return lab(["dumm-guest", "exec", "alice", "--", "sh", "-c", script], status=status).out

    sizes = inside("cat /sys/block/ubdb/size /sys/block/ubdc/size").split()
    assert sizes == [str(16 << 11), str(-(-1_000_000 // 512))]
    assert inside("head -c 8 /dev/ubdc") == "contents"
    inside("echo x >/dev/ubdc", status=1)
    inside("mke2fs /dev/ubdb && mkdir /mnt/d && mount -t ext4 /dev/ubdb /mnt/d")
    inside("head -c 3000000 /dev/urandom >/mnt/d/f; sha256sum </mnt/d/f >/mnt/d/sum; sync")
    check = "mount /dev/ubdb /mnt/d && sha256sum </mnt/d/f | cmp - /mnt/d/sum"
    inside("umount /mnt/d")
    lab("dumm-guest restart alice")
    inside(check)
    lab("dumm-guest exec alice -- reboot", status=None)
    lab("dumm-guest wait alice")
    inside(check)
    assert path.stat().st_blocks > 3_000_000 // 512
    inside("rm /mnt/d/f && umount /mnt/d && blkdiscard /dev/ubdb")
    assert path.stat().st_blocks < 3_000_000 // 512
    lab("dumm-guest stop alice")
    assert other.read_bytes().startswith(b"contents")
    lab("dumm-guest set alice --no-disks")
    lab("dumm-guest start alice")
    inside("test -e /dev/ubdb", status=1)


@pytest.mark.uml
def test_writer_has_a_disk_for_itself(new_lab: Callable[..., Lab]) -> None:
    lab, other = new_lab("lab"), new_lab("other", "--isolated")
    path = image(lab.directory / "disk")
    for guest, disk in (("alice", path), ("bob", path), ("carol", f"{path}:ro")):
        lab(["dumm-guest", "create", guest, "--disk", disk])
    other(["dumm-guest", "create", "dave", "--disk", path])
    lab("dumm-guest start alice")
    for guest in ("bob", "carol"):
        done = lab(f"dumm-guest start {guest}", status=4)
        assert one_line_error(done.err) == f"disk '{path}' is in use by guest 'alice'"
        assert state_of(lab, guest) == "stopped"
    done = other("dumm-guest start dave", status=4)
    assert one_line_error(done.err) == f"disk '{path}' is in use by another lab or program"
    # The end of the kernel's process frees it, even after a panic.
    lab("dumm-guest exec alice -- sh -c 'echo c >/proc/sysrq-trigger'", status=None)
    until(lambda: state_of(lab, "alice") == "crashed", "it has crashed")
    lab("dumm-guest set bob --disk disk:ro")
    lab("dumm-guest start bob carol")
    done = lab("dumm-guest start alice", status=4)
    assert "is in use by guest 'bob'" in one_line_error(done.err)


@pytest.mark.uml
def test_settings_of_disks(lab: Lab) -> None:
    image(lab.directory / "one")
    (lab.directory / "sub").mkdir()
    for disk, status, message in (
        ("none", 3, f"no such file '{lab.directory}/none'"),
        ("sub", 2, f"disk '{lab.directory}/sub' is a directory, not a file"),
        ("", 2, "--disk '' names no file"),
    ):
        done = lab(["dumm-guest", "create", "alice", "--disk", disk], status=status)
        assert one_line_error(done.err) == message
    assert lab("dumm-guest list -q").out == ""
    lab("dumm-guest create alice --disk one --start")
    lab("dumm-guest set alice --memory 80M")
    done = lab("dumm-guest set alice --disk one --no-disks", status=2)
    assert "contradict" in one_line_error(done.err)
    # From the next start on, and not after a reboot.
    lab("dumm-guest set alice --disk ''")
    assert lab("dumm-guest show alice -o disks").out == "-\n"
    lab("dumm-guest exec alice -- reboot", status=None)
    lab("dumm-guest wait alice")
    lab("dumm-guest exec alice -- test -b /dev/ubdb")
    lab("dumm-guest set alice --disk one")
    os.rename(lab.directory / "one", lab.directory / "two")
    os.symlink("two", lab.directory / "one")
    done = lab("dumm-guest restart alice", status=4)
    message = f"disk '{lab.directory}/one' has been replaced with a link"
    assert one_line_error(done.err) == message
    os.unlink(lab.directory / "one")
    done = lab("dumm-guest start alice", status=3)
    assert one_line_error(done.err) == f"no such file '{lab.directory}/one'"
    assert state_of(lab, "alice") == "stopped"
    lab("dumm-guest set alice --memory 64M")


@pytest.mark.uml
@pytest.mark.parametrize("suite", SUITES)
def test_kernel_without_disks_does_not_start(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    path = image(lab.directory / "disk")
    skipped = "initcall_blacklist=raid6_init,raid6_select_algo,calibrate_xor_blocks,ubd_init"
    lab(["dumm-guest", "create", "alice", "--disk", path, "--arg", skipped])
    done = lab("dumm-guest start alice", status=1)
    message = f"cannot start guest 'alice': its kernel cannot use disk '{path}'"
    assert one_line_error(done.err) == message


@pytest.mark.uml
@pytest.mark.root
@pytest.mark.parametrize("ids", [True, False])
def test_disk_in_the_lab_of_an_ordinary_user(packs: Path, ids: bool) -> None:
    without = () if ids else ("newuidmap", "newgidmap")
    user = User(100, packs, ids=ids, without=without)
    try:
        lab = user.lab("lab")
        lab("dumm-fs master build busybox")
        lab("dumm-fs init --kernel sid --master busybox")
        for name, owner in (("own", user.uid), ("foreign", 0)):
            os.chown(image(lab.directory / name), owner, owner)
        done = lab("dumm-guest create alice --disk foreign", status=1)
        path = lab.directory / "foreign"
        assert one_line_error(done.err) == f"cannot open disk '{path}': Permission denied"
        assert f"hint: --disk '{path}:ro'" in done.err
        lab("dumm-guest create alice --disk own --disk foreign:ro --start")
        write = "echo hello >/dev/ubdb; sync; test $(head -c 1 /dev/ubdc | wc -c) = 1"
        lab(["dumm-guest", "exec", "alice", "--", "sh", "-ec", write])
        assert (lab.directory / "own").read_bytes()[:6] == b"hello\n"
        lab.end()
    finally:
        user.end()


@pytest.mark.uml
@pytest.mark.root
@pytest.mark.parametrize("rootfs", ["hostfs", "virtiofs"])
@pytest.mark.parametrize(("owner", "mode"), [(64199, 0o600), (0, 0o400)])
def test_disk_that_root_may_write_to(
    new_lab: Callable[..., Lab], rootfs: str, owner: int, mode: int
) -> None:
    """Root's guests can use a disk of another user or mode, and leave both as they are."""
    lab = new_lab("lab", "--host-net")
    path = image(lab.directory / "disk")
    os.chown(path, owner, owner)
    path.chmod(mode)
    lab(f"dumm-guest create alice --rootfs {rootfs} --disk disk --start")
    lab("dumm-guest exec alice -- sh -c 'echo hello >/dev/ubdb; sync'")
    assert path.read_bytes()[:6] == b"hello\n"
    found = path.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (owner, mode)
