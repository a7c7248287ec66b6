"""diff, reset and commit: a guest's changes are listed, dropped and kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SUITES
from support.checks import one_line_error
from support.guests import inside
from support.labs import Done, Lab

pytestmark = pytest.mark.uml

#: One of each kind of change.
CHANGES = """
cd /etc
echo 1.2.3.4 peer >>hosts
rm issue
rm -r udhcpc
mkdir udhcpc && echo mine >udhcpc/mine
chmod 600 services
chown 5:6 protocols
mv fstab fstab.old
rm -r /var/www && echo file >/var/www
rm shells && mkdir shells && echo below >shells/below
ln -s nowhere /root/dangling
ln hosts /root/hosts
cat passwd >x && cat x >passwd && rm x
mkdir -p /srv/deep/deeper && mkfifo /srv/deep/fifo
"""


def said(lab: Lab, name: str) -> set[str]:
    """The output of diff for people, without the mount point of the kernel's modules."""
    lines = lab(["dumm-fs", "diff", name]).lines
    assert lines == sorted(lines, key=lambda line: os.fsencode(line[2:]))
    return {line for line in lines if not line.startswith("A /usr/lib/modules")}


def rsync(lab: Lab, *words: str | Path) -> list[str]:
    """The changes that rsync reports."""
    # The layers' own markers are attributes, too.
    filters = ["--filter=-x user.overlay.*", "--filter=-x trusted.overlay.*"]
    options = ["-aHAX", *filters, "--itemize-changes"]
    return lab.host(["rsync", *options, *words]).out.splitlines()


def same(lab: Lab, one: Path, other: Path) -> None:
    """Assert that rsync finds no difference between two trees."""
    options = ("-n", "--checksum", "--delete", "--omit-dir-times")
    assert rsync(lab, *options, f"{inside(one)}/", f"{inside(other)}/") == []


@pytest.mark.parametrize("suite", SUITES)
def test_every_kind_of_change_is_listed(new_lab: Callable[..., Lab], suite: str) -> None:
    lab = new_lab(kernel=suite)
    lab("dumm-guest create alice --start")
    assert said(lab, "alice") == set()
    lab(["dumm-guest", "exec", "alice", "--", "sh", "-ec", CHANGES])
    expected = {
        "M /etc/hosts",
        "D /etc/issue",
        "D /etc/udhcpc/default.script",
        "A /etc/udhcpc/mine",
        "M /etc/services",
        "M /etc/protocols",
        "D /etc/fstab",
        "A /etc/fstab.old",
        "M /var/www",
        "D /var/www/index.html",
        "M /etc/shells",
        "A /etc/shells/below",
        "A /root/dangling",
        "A /root/hosts",
        "M /etc/passwd",  # same content, different time
        "A /srv/deep",
        "A /srv/deep/deeper",
        "A /srv/deep/fifo",
    }
    assert said(lab, "alice") == expected
    lab("dumm-guest stop alice")
    assert said(lab, "alice") == expected
    lab("dumm-fs umount alice")
    assert said(lab, "alice") == expected
    lab("dumm-fs reset alice")
    assert said(lab, "alice") == set()


def test_file_that_was_only_copied_up_is_not_a_change(lab: Lab) -> None:
    lab("dumm-guest create alice")
    tree = lab.mounted("alice")
    with open(tree / "etc/hosts", "r+b"):
        pass
    before = os.stat(tree / "etc/passwd")
    os.chmod(tree / "etc/passwd", 0o600)
    os.chmod(tree / "etc/passwd", before.st_mode & 0o7777)
    assert (lab.directory / "host/alice/etc/passwd").exists()
    assert said(lab, "alice") == set()
    # Same size and time, but different content.
    data = (tree / "etc/passwd").read_bytes()
    (tree / "etc/passwd").write_bytes(data[::-1])
    os.utime(tree / "etc/passwd", ns=(before.st_mtime_ns, before.st_mtime_ns))
    os.setxattr(tree / "etc/group", "user.mark", b"1")
    assert said(lab, "alice") == {"M /etc/passwd", "M /etc/group"}


def test_every_output_format_handles_names_of_any_bytes(lab: Lab) -> None:
    lab("dumm-guest create alice")
    tree = os.fsencode(lab.mounted("alice"))
    for name in (b"new\nline", b"\xff\xfe", b"back\\slash", "ü".encode()):
        with open(tree + b"/srv/" + name, "xb"):
            pass
    done = lab("dumm-fs diff alice")
    assert done.out == "A /srv/back\\\\slash\nA /srv/new\\nline\nA /srv/ü\nA /srv/\\xff\\xfe\n"
    raw = b"/srv/back\\slash", b"/srv/new\nline", "/srv/ü".encode(), b"/srv/\xff\xfe"
    assert lab("dumm-fs diff -qz alice").stdout == b"".join(p + b"\0" for p in raw)
    assert lab("dumm-fs diff alice -q").stdout == b"".join(p + b"\n" for p in raw)
    lines = b"".join(b"A\t" + p + b"\0" for p in raw)
    assert lab("dumm-fs diff alice -z -o kind,path").stdout == lines
    rows = json.loads(lab("dumm-fs diff alice --format json").stdout.decode("utf-8"))
    assert rows[3] == {"path": "/srv/\\xff\\xfe", "kind": "A"}
    assert [r["path"] for r in rows[:3]] == [p.decode() for p in raw[:3]]


def test_diff_compares_the_top_layer_only(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice")
    tree = lab.mounted("alice")
    (tree / "root/first").write_text("1")
    (tmp_path / "over").mkdir()
    lab(["dumm-fs", "overlay", "add", "alice", tmp_path / "over"])
    assert said(lab, "alice") == set()
    (tree / "root/first").unlink()
    (tree / "root/second").write_text("2")
    assert said(lab, "alice") == {"D /root/first", "A /root/second"}
    lab("dumm-fs overlay pop alice")
    assert said(lab, "alice") == {"A /root/first"}


def test_commit_agrees_with_rsync(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice --start")
    script = CHANGES.replace("mkfifo /srv/deep/fifo", "dd if=/dev/zero of=/srv/z bs=1k count=99")
    lab(["dumm-guest", "exec", "alice", "--", "sh", "-ec", script])
    lab("dumm-guest stop alice")
    master, tree = (lab.directory / "master").resolve(), lab.mounted("alice")
    # Files that are new or differ from the master ...
    reference = tmp_path / "reference"
    rsync(lab, f"--compare-dest={master}", "--checksum", f"{inside(tree)}/", reference)
    new = {f"/{p.relative_to(reference)}" for p in reference.rglob("*") if not is_directory(p)}
    kinds = {line[2:]: line[0] for line in lab("dumm-fs diff alice").lines}
    assert new == {p for p, k in kinds.items() if k != "D" and not is_directory(tree / p[1:])}
    # ... and what rsync would delete in a copy of it.
    copy = tmp_path / "copy"
    rsync(lab, f"{master}/", copy)
    would = rsync(lab, "-n", "--delete", f"{inside(tree)}/", copy)
    gone = [w.split()[1].rstrip("/") for w in would if w.startswith("*deleting")]
    replaced = {"/var/www/index.html"}  # rsync does not list what is replaced by a file
    assert {f"/{p}" for p in gone} | replaced == {p for p, k in kinds.items() if k == "D"}
    # The layer contains exactly these, and a guest on it has the complete tree.
    lab("dumm-fs commit alice ./layer")
    layer = lab.directory / "layer"
    found = {f"/{p.relative_to(layer)}" for p in layer.rglob("*")
             if not is_directory(p) and not p.is_char_device()}  # fmt: skip
    assert found == new
    lab("dumm-guest create bob")
    lab("dumm-fs overlay add bob layer")
    same(lab, tree, lab.mounted("bob"))
    lab("dumm-fs commit alice fromalice")
    try:
        lab("dumm-guest create carol --master fromalice")
        same(lab, tree, lab.mounted("carol"))
        assert said(lab, "carol") == set()
        assert "M /etc/hosts" in said(lab, "alice"), "the guest keeps its changes"
        lab("dumm-guest delete carol")
    finally:
        lab("dumm-fs master delete fromalice")


def is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def refused(done: Done) -> str:
    return one_line_error(done.err, "dumm-fs")


def test_rejected_resets_and_commits(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create alice --start")
    assert refused(lab("dumm-fs reset alice", status=4)) == "guest 'alice' is running"
    assert refused(lab("dumm-fs commit alice new", status=4)) == "guest 'alice' is running"
    lab("dumm-guest stop alice")
    for command, status in (
        ("dumm-fs diff nobody", 3),
        ("dumm-fs reset nobody alice", 3),
        ("dumm-fs commit nobody new", 3),
        ("dumm-fs commit alice busybox", 4),
        ("dumm-fs commit alice .hidden", 2),
        ("dumm-fs commit alice ./host", 4),
        ("dumm-fs commit alice ./no/such", 3),
        ("dumm-fs commit alice host/alice/inside", 2),
        ("dumm-fs diff alice -o size", 2),
    ):
        refused(lab(command, status=status))
    assert os.listdir(lab.directory / "host") == ["alice"]


def test_commit_preserves_hard_links_and_sparse_files(lab: Lab) -> None:
    lab("dumm-guest create alice")
    tree = lab.mounted("alice")
    (tree / "root/one").write_bytes(b"x")
    os.truncate(tree / "root/one", 1 << 30)
    os.link(tree / "root/one", tree / "srv/two")
    os.link(tree / "etc/hosts", tree / "etc/hosts2")  # a file of the master
    lab("dumm-fs commit alice ./layer")
    layer = lab.directory / "layer"
    for one, two in (("root/one", "srv/two"), ("etc/hosts", "etc/hosts2")):
        assert os.path.samefile(layer / one, layer / two)
    assert os.stat(layer / "root/one").st_blocks < 100
    assert said(lab, "alice") == {"A /root/one", "A /srv/two", "A /etc/hosts2"}


@pytest.mark.netns
def test_full_disk_loses_nothing(lab: Lab, small: Path, packs: Path) -> None:
    lab("dumm-guest create alice")
    tree = lab.mounted("alice")
    (tree / "srv/big").write_bytes(os.urandom(3 << 20))
    before = said(lab, "alice")
    assert "No space left" in refused(lab(["dumm-fs", "commit", "alice", small / "x"], status=1))
    assert os.listdir(small) == []
    env = {"XDG_CACHE_HOME": str(small)}
    assert "No space left" in refused(lab("dumm-fs commit alice x", status=1, env=env))
    assert lab("dumm-fs master list -q", env=env).out == ""
    assert not [p for p in (small / "dumm/masters").iterdir() if p.is_dir()]
    assert said(lab, "alice") == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_commit_can_be_repeated(lab: Lab, number: signal.Signals) -> None:
    lab("dumm-guest create alice")
    tree = lab.mounted("alice")

    def fill() -> None:
        for directory in range(20):
            (tree / f"srv/{directory}").mkdir()
            for file in range(50):
                (tree / f"srv/{directory}/{file}").write_bytes(bytes(5000))

    fill()
    for pause in (0.08, 0.1, 0.12, 0.15):
        process = lab.start("dumm-fs commit alice ./layer")
        time.sleep(pause)
        process.send_signal(number)
        process.wait()
        if (lab.directory / "layer").exists():
            same(lab, lab.directory / "host/alice/srv", lab.directory / "layer/srv")
            shutil.rmtree(lab.directory / "layer")
        process = lab.start("dumm-fs reset alice")
        time.sleep(pause)
        process.send_signal(number)
        process.wait()
        lab("dumm-fs mount alice")
        left = len([line for line in said(lab, "alice") if line.startswith("A /srv")])
        assert left in (0, 20 + 20 * 50)
        if left == 0:
            fill()
    lab("dumm-fs commit alice ./layer")
    lab("dumm-fs reset alice")
    assert not [n for n in os.listdir(lab.directory) if ".tmp-" in n]
    assert not [n for n in os.listdir(lab.directory / "run/alice") if "dropped" in n]


def test_guest_cannot_start_while_it_is_committed(lab: Lab) -> None:
    lab("dumm-guest create alice")
    for number in range(2000):
        (lab.mounted("alice") / f"srv/{number}").write_bytes(bytes(5000))
    commit = lab.start("dumm-fs commit alice ./layer")
    while not [n for n in os.listdir(lab.directory) if ".tmp-" in n] and commit.poll() is None:
        time.sleep(0.001)
    lab("dumm-guest start alice")
    assert (lab.directory / "layer").exists(), "the start waited"
    assert commit.wait() == 0
    assert len(os.listdir(lab.directory / "layer/srv")) == 2000


def test_guest_cannot_be_deleted_while_it_is_committed(lab: Lab) -> None:
    lab("dumm-guest create alice")
    for number in range(2000):
        (lab.mounted("alice") / f"srv/{number}").write_bytes(b"x")
    commit = lab.start("dumm-fs commit alice ./layer")
    while commit.poll() is None:
        if [n for n in os.listdir(lab.directory) if ".tmp-" in n]:
            commit.send_signal(signal.SIGSTOP)
            break
    for command in ("dumm-guest delete alice", "dumm-fs reset alice"):
        assert "in use" in lab(command, status=4).err
    commit.send_signal(signal.SIGCONT)
    assert commit.wait() == 0
    assert len(os.listdir(lab.directory / "layer/srv")) == 2000
    lab("dumm-guest delete alice")
