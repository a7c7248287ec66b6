"""dumm-fs cp: files and trees into guests, out of them, and from one to the other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, SUITES
from support.checks import NOISE, one_line_error
from support.guests import inside
from support.labs import Lab
from support.terminal import on_terminal
from support.users import User

pytestmark = pytest.mark.uml


def same(lab: Lab, one: Path, other: Path) -> None:
    """Assert that rsync finds no difference between two trees."""
    words = ["rsync", "-naHAX", "--checksum", "--delete", "--itemize-changes"]
    assert lab.host([*words, f"{inside(one)}/", f"{inside(other)}/"]).out == ""


def said(lab: Lab, command: str, status: int) -> str:
    """The one-line message of a failure."""
    return one_line_error(lab(command, status=status).err, "dumm-fs")


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """A directory with one of each kind of file."""
    top = tmp_path / "things"
    (top / "below/empty").mkdir(parents=True)
    (top / "file").write_bytes(NOISE)
    (top / "file").chmod(0o640)
    os.link(top / "file", top / "below/again")
    (top / "program").write_text("#!/bin/sh\necho it runs\n")
    (top / "program").chmod(0o4755)
    (top / "link").symlink_to("file")
    (top / "absolute").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("no/such")
    os.link(top / "link", top / "below/link", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o604)
    (top / "sparse").write_bytes(b"begin")
    os.truncate(top / "sparse", 64 << 20)
    with open(top / "sparse", "ab") as file:
        file.write(b"end")
    for name in (b"new\nline", b"\xff\xfe"):
        with open(os.fsencode(top) + b"/" + name, "xb") as odd:
            odd.write(name)
    os.setxattr(top / "file", "user.mark", b"\0binary")
    with contextlib.suppress(OSError):  # a user with only one id
        os.chown(top / "below/empty", 5, 6)
        os.chown(top / "dangling", 7, 8, follow_symlinks=False)
    (top / "below/empty").chmod(0o500)
    for path in sorted(top.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + 123456789), follow_symlinks=False)
    os.utime(top, ns=(10**18, 10**18 + 1))
    return top


@pytest.mark.parametrize("running", [False, True])
def test_trees_survive_copies_in_across_and_out(
    lab: Lab, things: Path, tmp_path: Path, running: bool
) -> None:
    lab("dumm-guest create alice bob")
    if running:
        lab("dumm-guest start --all")
    else:
        lab("dumm-fs umount alice bob")
    lab(["dumm-fs", "cp", things, "alice:/srv"])
    same(lab, things, lab.mounted("alice") / "srv/things")
    lab("dumm-fs cp alice:/srv/things bob:/srv/other")
    same(lab, things, lab.mounted("bob") / "srv/other")
    lab(["dumm-fs", "cp", "bob:/srv/other/.", tmp_path / "back"])
    same(lab, things / "below", tmp_path / "back/below")
    assert os.stat(tmp_path / "back/sparse").st_blocks < 100
    assert os.stat(lab.mounted("bob") / "srv/other/sparse").st_blocks < 100
    lab(["dumm-fs", "cp", "--preserve=mode", "bob:/srv/other", tmp_path / "back2"])
    same(lab, things, tmp_path / "back2")


@pytest.mark.parametrize("suite", SUITES)
def test_running_guest_sees_copies_at_once(
    new_lab: Callable[..., Lab], suite: str, tmp_path: Path
) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice --start")
    for number in range(3):
        (tmp_path / "hosts").write_text(f"10.0.0.{number} host{number}\n" * (number + 1))
        lab(["dumm-fs", "cp", tmp_path / "hosts", "alice:/etc/hosts"])
        seen = lab("dumm-guest exec alice -- cat /etc/hosts").out
        assert seen == (tmp_path / "hosts").read_text()
        lab(["dumm-guest", "exec", "alice", "--", "sh", "-c", f"echo {number} >/root/said"])
        lab(["dumm-fs", "cp", "alice:/root/said", tmp_path / "said"])
        assert (tmp_path / "said").read_text() == f"{number}\n"
    (tmp_path / "program").write_text("#!/bin/sh\necho it runs\n")
    (tmp_path / "program").chmod(0o755)
    lab(["dumm-fs", "cp", tmp_path / "program", "alice:/usr/bin/"])
    assert lab("dumm-guest exec alice -- program").out == "it runs\n"
    # After mount/NAME is unmounted, copies still go to the running guest's tree.
    lab("dumm-fs umount alice")
    (tmp_path / "more").write_text("more\n")
    lab(["dumm-fs", "cp", tmp_path / "more", "alice:/root"])
    assert lab("dumm-guest exec alice -- cat /root/more").out == "more\n"


def test_target_path_decides_the_name_of_a_copy(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice")
    tree = lab.mounted("alice")
    here = lab.directory
    for name in ("one", "two", "with:colon"):
        (here / name).write_text(name)
    (here / "dir").mkdir()
    (here / "dir/inner").write_text("inner")
    lab("dumm-fs cp one alice:/srv/uno")
    lab("dumm-fs cp one two alice:/srv")
    lab("dumm-fs cp ./with:colon alice:srv/")
    lab("dumm-fs cp dir alice:/srv")
    lab("dumm-fs cp dir alice:/srv/named")
    lab("dumm-fs cp dir/ alice:/srv/slash")
    lab("dumm-fs cp dir alice:/srv/named")
    lab("dumm-fs cp dir/. alice:/srv/dot")
    lab("dumm-fs cp dir/. alice:")
    found = sorted(str(p.relative_to(tree / "srv")) for p in (tree / "srv").rglob("*"))
    assert found == [
        "dir", "dir/inner", "dot", "dot/inner", "named", "named/dir", "named/dir/inner",
        "named/inner", "one", "slash", "slash/inner", "two", "uno", "with:colon",
    ]  # fmt: skip
    assert (tree / "inner").read_text() == "inner"
    # Existing files are replaced by files and links, and directories are merged.
    (here / "dir/inner").write_text("new")
    (here / "dir/link").symlink_to("inner")
    (tree / "srv/dir/link").write_text("a file")
    (tree / "srv/dir/kept").write_text("kept")
    before = os.stat(tree / "srv").st_mode
    lab("dumm-fs cp dir alice:/srv")
    assert {p.name for p in (tree / "srv/dir").iterdir()} == {"inner", "link", "kept"}
    assert (tree / "srv/dir/inner").read_text() == "new"
    assert os.readlink(tree / "srv/dir/link") == "inner"
    assert os.stat(tree / "srv").st_mode == before
    lab("dumm-fs cp alice:/srv/one alice:/srv/two .")
    lab("dumm-fs cp alice:/srv/dir ./out")
    same(lab, tree / "srv/dir", here / "out")


def test_errors_name_the_file_and_the_rest_is_copied(lab: Lab) -> None:
    lab("dumm-guest create alice")
    tree, here = lab.mounted("alice"), lab.directory
    (here / "one").write_text("1")
    (here / "dir/sub").mkdir(parents=True)
    (here / "dir/good").write_text("good")
    assert said(lab, "dumm-fs cp one alice:/no/such/place", 3).endswith("'alice:/no/such/place'")
    assert "'alice:/none/'" in said(lab, "dumm-fs cp one alice:/none/", 3)
    assert "'alice:/none'" in said(lab, "dumm-fs cp one one alice:/none", 3)
    assert said(lab, "dumm-fs cp none alice:/srv", 3) == "no such file 'none'"
    assert said(lab, "dumm-fs cp alice:/none .", 3) == "no such file 'alice:/none'"
    assert said(lab, "dumm-fs cp bob:/none .", 3) == "no guest 'bob'"
    assert "neither source nor target" in said(lab, "dumm-fs cp one two", 2)
    assert "'one/'" in said(lab, "dumm-fs cp one/ alice:/srv", 1)
    assert "'dir'" in said(lab, "dumm-fs cp dir alice:/etc/hosts", 1)
    assert (tree / "etc/hosts").is_file()
    # The rest is copied: of the operands, and of a tree.
    assert said(lab, "dumm-fs cp none one alice:/srv", 3) == "no such file 'none'"
    assert (tree / "srv/one").read_text() == "1"
    (tree / "srv/dir").mkdir()
    (tree / "srv/dir/sub").write_text("a file")
    assert "'dir/sub'" in said(lab, "dumm-fs cp dir alice:/srv", 1)
    assert (tree / "srv/dir/good").read_text() == "good"
    assert "itself" in said(lab, "dumm-fs cp alice:/srv alice:/srv/dir/", 1)
    assert "itself" in said(lab, "dumm-fs cp alice:/srv/. alice:/srv/dir", 1)
    assert "same file" in said(lab, "dumm-fs cp alice:/srv alice:/", 1)
    assert "same file" in said(lab, "dumm-fs cp alice:/srv/one alice:/srv", 1)
    assert "itself" in said(lab, "dumm-fs cp . alice:/srv/new", 1)
    # A guest has no use for the host's devices and sockets.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(here / "dir/socket"))
    (tree / "srv/dir/sub").unlink()
    done = lab("dumm-fs cp dir alice:/srv")
    assert done.err == "dumm-fs: warning: 'dir/socket' is a socket: skipped\n"
    assert sorted(os.listdir(tree / "srv/dir")) == ["good", "sub"]


def test_control_characters_in_names_are_escaped(lab: Lab) -> None:
    """In warnings and errors, with and without a terminal, and in the output of -v."""
    lab("dumm-guest create alice --start")
    name, shown = "n\x1b]0;owned\x07\x1b[2Jn\nl\x9b31m", "n\\x1b]0;owned\\x07\\x1b[2Jn\\nl\\x9b31m"
    top = lab.mounted("alice") / "srv"
    (top / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        fd = os.open(top / "d", os.O_PATH)
        listener.bind(f"/proc/self/fd/{fd}/{name}")
        os.close(fd)
    done = lab("dumm-fs cp alice:/srv/d .")
    assert done.err == f"dumm-fs: warning: 'alice:/srv/d/{shown}' is a socket: skipped\n"
    with on_terminal(lab, ["dumm-fs", "-v", "cp", "alice:/srv/d", "."]) as terminal:
        assert terminal.wait() == 0
        assert shown.encode() in terminal.seen
        assert b"\x1b]" not in terminal.seen
        assert b"\x1b[2J" not in terminal.seen
    (top / "e" / name).mkdir(parents=True)
    (lab.directory / "e").mkdir()
    (lab.directory / "e" / name).write_text("in the way")
    err = lab("dumm-fs cp alice:/srv/e .", status=1).err
    assert "owned" in err
    assert err.replace("\n", "").isprintable()
    for command in (
        ["dumm-fs", "cp", "alice:/none", f"{name}/x"],
        ["dumm-fs", "commit", "alice", f"./{name}/x"],
        ["dumm-guest", "list", name],
        ["dumm-guest", f"--{name}"],
        ["dumm-guest", "-C", name, "list"],
        ["dumm-fs", "master", "import", f"/{name}"],
        ["dumm-fs", "kernel", "import", f"/{name}"],
    ):
        err = lab(command, status=None, env={"DUMM_DEBUG": "1"}).err
        assert err
        assert err.replace("\n", "").isprintable()


def test_links_in_a_guest_do_not_lead_out_of_it(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice")
    tree, here = lab.mounted("alice"), lab.directory
    (here / "one").write_text("1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    up = "../" * 30
    for name, to in (
        ("abs", outside),
        ("up", f"{up}{outside}"),
        ("secret", outside / "secret"),
        ("new", outside / "new"),
        ("upnew", f"{up}{outside}/new"),
        ("self", "/proc/self/root"),
    ):
        (tree / name).symlink_to(to)
    for there in ("abs", "up", "self"):
        said(lab, f"dumm-fs cp alice:/{there}/secret copy", 3)
        said(lab, f"dumm-fs cp alice:/{there}/. copy", 3)
        said(lab, f"dumm-fs cp one alice:/{there}/new", 3)
        said(lab, f"dumm-fs cp one alice:/{there}/", 3)
    for there in ("new", "upnew", "secret"):
        said(lab, f"dumm-fs cp one alice:/{there}", 3)
    said(lab, f"dumm-fs cp alice:/{up}{outside}/secret copy", 3)
    said(lab, f"dumm-fs cp one alice:/../..{outside}/new", 3)
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    # They are resolved as in the guest.
    (tree / str(outside)[1:]).mkdir(parents=True)
    for there in ("abs/x", "up/y", "new"):
        lab(f"dumm-fs cp one alice:/{there}")
    assert sorted(os.listdir(tree / str(outside)[1:])) == ["new", "x", "y"]
    assert os.readlink(tree / "new") == str(outside / "new"), "it is the link's target that is new"
    lab("dumm-fs cp alice:/abs/new copy")
    assert (here / "copy").read_text() == "1"
    lab("dumm-fs cp alice:/new copied")
    assert os.readlink(here / "copied") == str(outside / "new"), "a link is copied as one"
    (tree / "loop").symlink_to("loop")
    said(lab, "dumm-fs cp one alice:/loop/x", 1)
    said(lab, "dumm-fs cp one alice:/loop", 1)
    assert os.listdir(outside) == ["secret"]


def test_directory_replaced_by_a_link_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice")
    tree, here = lab.mounted("alice"), lab.directory
    outside = tmp_path / "outside"
    (outside / "d").mkdir(parents=True)
    for number in range(50):
        (outside / f"d/{number}").write_text("secret")
        (outside / f"{number}").write_text("secret")
    (tree / "top/a/d").mkdir(parents=True)
    for number in range(50):
        (tree / f"top/a/d/{number}").write_text("mine")
        (tree / f"top/a/{number}").write_text("mine")
    (tree / "top/link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        place = tree / "top"
        while not stop.is_set():
            with contextlib.suppress(OSError):
                os.rename(place / "a", place / "dir")
                os.rename(place / "link", place / "a")
            time.sleep(0.0005)
            with contextlib.suppress(OSError):
                os.rename(place / "a", place / "link")
                os.rename(place / "dir", place / "a")
            time.sleep(0.0005)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        (here / "in/a/d").mkdir(parents=True)
        for number in range(50):
            (here / f"in/a/d/{number}").write_text("new")
        for number in range(8):
            lab(f"dumm-fs cp alice:/top out{number}", status=None)
            lab(f"dumm-fs cp alice:/top/a/ out{number}a", status=None)
            lab("dumm-fs cp in/a alice:/top", status=None)
            lab("dumm-fs cp in/a/d alice:/top/a/", status=None)
    finally:
        stop.set()
        swapper.join()
    copied = [p for p in here.glob("out*/**/*") if p.is_file() and not p.is_symlink()]
    assert copied
    assert {p.read_text() for p in copied} <= {"mine", "new"}
    assert {p.read_text() for p in outside.rglob("*") if p.is_file()} == {"secret"}
    assert len(list(outside.rglob("*"))) == 101


def test_hard_links_between_sources_and_over_existing_files(lab: Lab) -> None:
    lab("dumm-guest create alice")
    tree, here = lab.mounted("alice"), lab.directory
    for name in ("a", "b"):
        (here / name).mkdir()
    (here / "a/one").write_text("1")
    os.link(here / "a/one", here / "b/two")
    os.link(here / "a/one", here / "three")
    for _ in range(2):  # the second copy overwrites the first
        lab("dumm-fs cp a b three alice:/srv")
        assert os.path.samefile(tree / "srv/a/one", tree / "srv/b/two")
        assert os.path.samefile(tree / "srv/a/one", tree / "srv/three")
        assert os.stat(tree / "srv/three").st_nlink == 3
    assert sorted(os.listdir(tree / "srv")) == ["a", "b", "three"]
    # Links of the master count, too; copying over one name leaves its other names alone.
    lab("dumm-fs cp alice:/srv alice:/root")
    (here / "one").write_text("changed")
    lab("dumm-fs cp one alice:/srv/a")
    assert (tree / "srv/b/two").read_text() == "1"
    same(lab, tree / "root/srv/b", tree / "srv/b")


def test_thousands_of_files_are_copied(lab: Lab) -> None:
    lab("dumm-guest create alice")
    for directory in range(20):
        (lab.directory / f"many/{directory}").mkdir(parents=True)
        for file in range(150):
            (lab.directory / f"many/{directory}/{file}").write_text(f"{directory} {file}")
    lab("dumm-fs cp many alice:/srv")
    same(lab, lab.directory / "many", lab.mounted("alice") / "srv/many")


def test_deep_tree_is_copied(lab: Lab) -> None:
    lab("dumm-guest create alice")
    fd = os.open(lab.directory, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("a-rather-long-name", dir_fd=fd)
        fd, above = os.open("a-rather-long-name", os.O_RDONLY, dir_fd=fd), fd
        os.close(above)
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    lab("dumm-fs cp a-rather-long-name alice:/srv")
    lab("dumm-fs cp alice:/srv/a-rather-long-name alice:/root")
    found = lab("dumm-fs diff alice -q").lines
    assert sum(line.endswith("/bottom") for line in found) == 2


@pytest.mark.netns
def test_full_disk_leaves_no_partial_file(lab: Lab, small: Path) -> None:
    lab("dumm-guest create alice")
    (lab.mounted("alice") / "srv/big").write_bytes(os.urandom(3 << 20))
    (small / "big").write_text("what was there")
    error = one_line_error(lab(["dumm-fs", "cp", "alice:/srv/big", small], status=1).err, "dumm-fs")
    assert error == "cannot copy 'alice:/srv/big': No space left on device"
    lab(["dumm-fs", "cp", "alice:/srv/", small / "srv"], status=1)
    assert sorted(os.listdir(small)) == ["big", "srv"]
    assert os.listdir(small / "srv") == []
    assert (small / "big").read_text() == "what was there"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_copy_can_be_repeated(lab: Lab, number: signal.Signals) -> None:
    lab("dumm-guest create alice")
    tree = lab.mounted("alice")
    (lab.directory / "big").write_bytes(os.urandom(64 << 20))
    (tree / "srv/big").write_text("old")
    for pause in (0.09, 0.1, 0.11, 0.12, 0.14):
        process = lab.start("dumm-fs cp big alice:/srv/big")
        time.sleep(pause)
        process.send_signal(number)
        process.wait()
        assert (tree / "srv/big").stat().st_size in (3, 64 << 20)
        assert os.listdir(tree / "srv") == ["big"]


def test_owners_are_guest_ids_in_an_ordinary_users_lab(
    lab: Lab, packs: Path, tmp_path: Path
) -> None:
    """Owners are the guest's ids when files are copied in, across, out and in again."""
    if not ROOT:
        return  # the other tests already use such labs
    user = User(70, packs)
    try:
        own = user.lab("lab")
        own("dumm-fs master build busybox")
        own("dumm-fs init --kernel sid --master busybox")
        try:
            own("dumm-guest create alice bob --start")
            script = "mkdir /srv/d && echo 1 >/srv/d/f && chown 5:6 /srv/d/f && chmod 4711 /srv/d/f"
            own(["dumm-guest", "exec", "alice", "--", "sh", "-c", script])
            own("dumm-fs cp --preserve=mode alice:/srv/d here")
            assert os.stat(own.directory / "here").st_uid == user.uid
            assert os.stat(own.directory / "here/f").st_uid == user.first_id + 5 - 1
            own("dumm-fs cp here/f bob:/srv")
            own("dumm-fs cp alice:/srv/d bob:/srv")
            listed = own("dumm-guest exec bob -- stat -c %u:%g:%a /srv/f /srv/d/f").lines
            assert listed == ["5:6:4711"] * 2
            # Files of other users are left alone, wherever a guest's links lead.
            secret = tmp_path / "secret"
            secret.write_text("secret")
            secret.chmod(0o600)
            assert one_line_error(own(["dumm-fs", "cp", secret, "bob:/"], status=1).err, "dumm-fs")
            own("dumm-guest stop --all")
            own("dumm-fs commit bob ./layer")
            own("dumm-fs commit bob bobs")
            own("dumm-guest create carol")
            own("dumm-fs overlay add carol layer")
            own("dumm-guest create dave --master bobs")
            own("dumm-guest start carol dave")
            for guest in ("carol", "dave"):
                listed = own(f"dumm-guest exec {guest} -- stat -c %u:%g:%a /srv/f /srv/d/f").lines
                assert listed == ["5:6:4711"] * 2
            own("dumm-fs reset bob")
            assert own("dumm-fs diff bob").out == ""
        finally:
            own.end()
    finally:
        user.end()


@pytest.mark.attack("replaced-devices")
@pytest.mark.root
def test_devices_on_the_host_are_written_to_and_not_replaced(lab: Lab, tmp_path: Path) -> None:
    """A guest's file once replaced /dev/null."""
    lab("dumm-guest create a")
    null = tmp_path / "null"
    os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    lab(["dumm-fs", "cp", "a:/etc/passwd", null])
    assert stat.S_ISCHR(null.stat().st_mode)
    text = lab("dumm-fs cp a:/etc/passwd /dev/stdout").stdout
    assert text == (lab.mounted("a") / "etc/passwd").read_bytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    copying = lab.start(["dumm-fs", "cp", "a:/etc/passwd", fifo])
    assert fifo.read_bytes() == text
    assert copying.wait(PATIENCE) == 0
    (lab.mounted("a") / "tree").mkdir()
    (lab.mounted("a") / "tree/null").write_text("evil")
    (tmp_path / "tree").mkdir()
    os.rename(null, tmp_path / "tree/null")
    assert "the existing file is a device" in said(lab, f"dumm-fs cp a:/tree {tmp_path}", 1)
    assert stat.S_ISCHR((tmp_path / "tree/null").stat().st_mode)
    assert "Is a directory" in said(lab, "dumm-fs cp a:/etc /dev/null", 1)
    assert "no such file" in said(lab, "dumm-fs cp a:/gone /dev/null", 3)


@pytest.mark.attack("planted-target")
def test_links_made_by_a_guest_are_not_followed(lab: Lab, tmp_path: Path) -> None:
    """The first copy brings the link; the second must not follow it."""
    lab("dumm-guest create a")
    tree = lab.mounted("a")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "place").mkdir()
    for name, target in (("result", precious), ("lot", tmp_path / "place")):
        (tree / name).symlink_to(target)
        lab(["dumm-fs", "cp", f"a:/{name}", tmp_path / name])
        assert (tmp_path / name).is_symlink()
        (tree / name).unlink()
        (tree / name).write_text("evil")
        assert "is a symbolic link" in said(lab, f"dumm-fs cp a:/{name} {tmp_path / name}", 4)
    assert precious.read_text() == "mine"
    assert list((tmp_path / "place").iterdir()) == []
    lab(["dumm-fs", "cp", "a:/lot", f"{tmp_path}/lot/"])  # claimed to be a directory
    assert (tmp_path / "place/lot").read_text() == "evil"
