"""Guests' files, seen from guests and from the host: mount/NAME, host/NAME, and the untouched
master."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SUITES
from support.checks import NOISE, one_line_error
from support.labs import Lab
from support.world import mounts

from dumm_tools.linux import mount

pytestmark = pytest.mark.uml

FS_IOC_GETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x00020000  # linux/fs.h


def fingerprint(tree: Path) -> str:
    """Names, types, modes, owners, times and contents of a tree in one number."""
    found = hashlib.sha256()
    for directory, directories, files in os.walk(tree):
        directories.sort()
        for name in sorted(files + directories):
            path = os.path.join(directory, name)
            st = os.lstat(path)
            said = [path, st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, st.st_nlink]
            if os.path.islink(path):
                said.append(os.readlink(path))
            found.update(repr(said).encode())
            if os.path.isfile(path) and not os.path.islink(path):
                found.update(Path(path).read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("suite", SUITES)
def test_changes_are_seen_in_both_directions_and_the_master_is_untouched(
    new_lab: Callable[..., Lab], suite: str
) -> None:
    lab = new_lab(kernel=suite)
    master = (lab.directory / "master").resolve()
    before = fingerprint(master)
    lab("dumm-guest create alice")
    tree = lab.mounted("alice")
    (tree / "etc/early").write_text("before the start\n")
    lab("dumm-guest start alice")
    assert lab("dumm-guest exec alice -- cat /etc/early").out == "before the start\n"
    (tree / "etc/motd").write_text("edited from outside\n")
    assert lab("dumm-guest exec alice -- cat /etc/motd").out == "edited from outside\n"
    script = (
        "cat >/root/noise; mkdir -p /srv/a/b; chmod 751 /srv/a; chown 12:34 /srv/a/b;"
        " ln -s b /srv/a/l; rm -r /etc/early; mv /etc/hosts /etc/hosts2;"
        " chmod 4755 /bin/busybox; sync"
    )
    lab(["dumm-guest", "exec", "alice", "--", "sh", "-c", script], stdin=NOISE)
    own = lab.directory / "host/alice"
    for place in (tree, own):
        assert (place / "root/noise").read_bytes() == NOISE
        assert os.readlink(place / "srv/a/l") == "b"
        assert (place / "srv/a").stat().st_mode & 0o7777 == 0o751
        assert (place / "etc/hosts2").exists()
        assert not (place / "etc/early").exists()
    assert lab.host("stat -c %u:%g mount/alice/srv/a/b host/alice/srv/a/b").out == "12:34\n" * 2
    assert not (tree / "etc/hosts").exists()
    lab("dumm-guest stop alice")
    assert (tree / "root/noise").read_bytes() == NOISE
    assert fingerprint(master) == before


@pytest.mark.parametrize("suite", SUITES)
def test_guest_sees_every_change_made_on_the_host(new_lab: Callable[..., Lab], suite: str) -> None:
    """hostfs reads a file again if nobody in the guest holds it open."""
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice --start")
    file = lab.mounted("alice") / "root/changing"
    for n in range(5):
        file.write_text(f"{n} " * (5 - n) + "\n")
        assert lab("dumm-guest exec alice -- cat /root/changing").out == f"{n} " * (5 - n) + "\n"
    other = file.with_suffix(".new")
    other.write_text("replaced\n")
    other.rename(file)
    assert lab("dumm-guest exec alice -- cat /root/changing").out == "replaced\n"
    file.unlink()
    lab("dumm-guest exec alice -- cat /root/changing", status=1)
    file.write_text("again\n")
    assert lab("dumm-guest exec alice -- cat /root/changing").out == "again\n"
    lab("dumm-guest exec alice -- ls /srv", status=None)
    (lab.mounted("alice") / "srv/dir").mkdir(parents=True)
    assert lab("dumm-guest exec alice -- ls /srv").out == "dir\n"


def test_guests_do_not_see_each_others_files(lab: Lab) -> None:
    lab("dumm-guest create alice bob --start")
    lab("dumm-guest exec alice -- touch /root/mine /etc/mine")
    lab("dumm-guest exec bob -- test ! -e /root/mine -a ! -e /etc/mine")


def test_root_in_a_guest_sees_no_files_of_the_host(lab: Lab) -> None:
    (lab.directory / "secret").write_text("secret")
    lab("dumm-guest create alice --start")
    lab("dumm-guest exec alice -- mount -t hostfs none /mnt -o /")
    names = set(lab("dumm-guest exec alice -- ls /mnt").lines)
    assert names <= {
        *("bin", "boot", "dev", "etc", "guest", "initrd", "kernel", "lib", "lib64", "linux"),
        *("proc", "run", "tmp", "uml", "usr", "xfer"),
    }
    found = lab("dumm-guest exec alice -- find /mnt -xdev -name secret").out
    assert found == ""
    lab("dumm-guest exec alice -- touch /mnt/usr/x", status=1)
    lab("dumm-guest exec alice -- touch /mnt/x", status=1)


def test_mount_and_umount(lab: Lab) -> None:
    lab("dumm-guest create alice")
    lab("dumm-fs umount alice")
    assert os.listdir(lab.mounted("alice")) == []
    done = lab("dumm-fs umount alice", status=4)
    assert one_line_error(done.err, "dumm-fs") == "'mount/alice' is not mounted"
    lab("dumm-fs mount alice")
    lab("dumm-fs mount alice")
    assert (lab.mounted("alice") / "etc/passwd").exists()
    lab("dumm-guest start alice")
    lab("dumm-fs umount alice")
    lab("dumm-guest exec alice -- cat /etc/passwd")  # a running guest keeps its tree
    lab("dumm-guest stop alice")


@pytest.mark.parametrize("name", ["a b", "a,b", "a:b", "a\nb", "a\\b", "d" * 200, "e\u0301\u20ac"])
def test_working_sets_with_any_name(new_lab: Callable[..., Lab], name: str) -> None:
    lab = new_lab(name)
    lab("dumm-guest create alice --start")
    lab("dumm-guest exec alice -- sh -c 'cat >/root/x'", stdin=NOISE)
    assert (lab.directory / "host/alice/root/x").read_bytes() == NOISE
    lab("dumm-guest mconsole alice -- version")
    lab("dumm-console log alice")
    lab("dumm-guest stop alice")


def test_working_set_with_a_very_long_path(packs: Path, tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    lab = Lab(deep, packs)
    lab("dumm-fs init --kernel sid --master busybox")
    try:
        lab("dumm-guest create alice --start")
        lab("dumm-guest exec alice -- cat", stdin=NOISE)
        lab("dumm-guest mconsole alice -- version")
    finally:
        lab.end()


def test_init_and_destroy_keep_the_users_own_files(packs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    for path in ("run/mine", "mount/mine", "host/mine", "templates/mine", "mine"):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text("mine")
    lab = Lab(directory, packs)
    init = "dumm-fs init --kernel sid --master busybox"
    before = fingerprint(directory)
    # destroy removes run/, so init must not take over an existing one.
    assert "run' already exists" in one_line_error(lab(init, status=4).err, "dumm-fs")
    assert fingerprint(directory) == before
    (directory / "run/mine").rename(directory / "other")
    (directory / "host").rename(directory / "away")
    (directory / "host").write_text("no directory")
    assert "host' is not a directory" in one_line_error(lab(init, status=4).err, "dumm-fs")
    assert not (directory / ".lock").exists()
    (directory / "host").unlink()
    (directory / "away").rename(directory / "host")
    lab(init)
    lab("dumm-guest create a --start")
    lab("dumm-fs template save T")
    lab(["dumm-guest", "exec", "a", "--", "touch", "/root/x"])
    lab("dumm-fs destroy")
    mine = ("mount/mine", "host/mine", "templates/mine", "mine", "other")
    assert all((directory / path).read_text() == "mine" for path in mine)
    assert (directory / "host/a/root/x").exists()
    assert sorted(os.listdir(directory)) == [".lock", "host", "mine", "mount", "other", "templates"]


@pytest.mark.root
@pytest.mark.parametrize("option", ["--host-net", "--isolated"])
def test_master_below_a_mounted_tree_is_kept(packs: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "cache/dumm/masters").mkdir(parents=True)
    lab = Lab(tmp_path / "lab", tmp_path / "cache")
    lab(["dumm-fs", "master", "import", packs / "dumm/masters/busybox", "--name", "m"])
    lab(["dumm-fs", "init", option, "--kernel", packs / "dumm/kernels/sid", "--master", "m"])
    try:
        lab("dumm-guest create a b")
        done = lab("dumm-fs master delete m", status=4)
        assert "master 'm' is in use" in done.err
        assert "hint" in done.err
        assert lab.host("ls mount/a/etc").out
        lab("dumm-guest start a")
        lab("dumm-guest stop a")
        lab("dumm-fs umount a b")
        lab("dumm-fs master delete m")
        assert "no master" in lab("dumm-guest start a", status=3).err
    finally:
        lab.end()


@pytest.mark.netns
@pytest.mark.parametrize("name", ["plain", "a b", "t\tx", "n\nl", "b\\s", "h#h", "\\040x", "é,:"])
def test_mounted_at_finds_mounts_with_any_name(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.mkdir()
    assert mount.mounted_at(str(place)) is None
    for source in ("first", "second"):
        mount.mount(source, str(place), "tmpfs", 0, "size=4K")
        (place / "below").mkdir()
        mount.mount("below", str(place / "below"), "tmpfs", 0, "size=4K")
        found = mount.mounted_at(str(place))
        assert found
        assert (found.source, found.kind) == (source, "tmpfs")
    for _ in range(2):
        mount.umount(str(place / "below"))
        mount.umount(str(place))
    assert mount.mounted_at(str(place)) is None


def test_run_directories_are_spread_over_the_disk(lab: Lab) -> None:
    """Needed on ext4, where recently freed FIFOs make new ones slow."""
    device = os.stat(lab.directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    kinds = {m.kind for m in mounts() if m.device == number}
    fd = os.open(lab.directory / "run", os.O_RDONLY)
    try:
        flags = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(4))
    except OSError:
        flags = bytes(4)
    finally:
        os.close(fd)
    spread = int.from_bytes(flags, sys.byteorder) & FS_TOPDIR_FL != 0
    assert spread or kinds != {"ext4"}  # an overlay on ext4 may show the flag, too
