"""Overlays and templates: the stack below a guest's root, changed while the guest runs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import SUITES
from support.checks import one_line_error
from support.labs import Lab

pytestmark = pytest.mark.uml


def write(path: Path, text: str) -> None:
    """Write a file, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(lab: Lab, guest: str, path: str) -> str | None:
    """A file as the guest reads it now; None if there is none."""
    done = lab(["dumm-guest", "exec", guest, "--", "cat", path], status=None)
    return done.out if done.code == 0 else None


def template(lab: Lab, name: str, guest: str, path: str, text: str) -> Path:
    """Put a file into a guest's layer of a template."""
    file = lab.directory / "templates" / name / guest / path
    write(file, text)
    return file


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """A lab with the running guests a and b."""
    lab("dumm-guest create a b --start")
    return lab


@pytest.mark.parametrize("suite", SUITES)
def test_template_is_loaded_over_a_running_guest(lab: Lab, suite: str) -> None:
    lab(f"dumm-guest create a --kernel {suite} --start")
    before = read(lab, "a", "/etc/hosts")
    template(lab, "T", "a", "etc/hosts", "of the template\n")
    # A process in a directory of the old stack does not keep stale files visible to others.
    sitting = lab.start(["dumm-guest", "exec", "a", "--", "sh", "-c", "cd /etc; exec sleep 1000"])
    lab("dumm-fs template load T")
    assert read(lab, "a", "/etc/hosts") == "of the template\n"
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo meanwhile >/root/x; rm /etc/passwd"])
    layer = lab.directory / "templates/T/a"
    assert (layer / "root/x").read_text() == "meanwhile\n"
    lab("dumm-fs template unload")
    assert read(lab, "a", "/etc/hosts") == before
    assert read(lab, "a", "/root/x") is None
    assert read(lab, "a", "/etc/passwd")
    lab("dumm-fs template load T")
    assert read(lab, "a", "/etc/hosts") == "of the template\n"
    assert read(lab, "a", "/root/x") == "meanwhile\n"
    assert read(lab, "a", "/etc/passwd") is None
    sitting.kill()


def test_loaded_template_is_recorded_for_each_guest(pair: Lab) -> None:
    template(pair, "T", "a", "etc/hosts", "for a\n")
    template(pair, "T", "b", "etc/hosts", "for b\n")
    pair("dumm-fs template load T")
    assert [read(pair, g, "/etc/hosts") for g in "ab"] == ["for a\n", "for b\n"]
    pair("dumm-guest restart --all")
    assert [read(pair, g, "/etc/hosts") for g in "ab"] == ["for a\n", "for b\n"]
    listed = json.loads(pair("dumm-fs template list --format json").out)
    assert listed == [{"name": "T", "loaded": True, "guests": ["a", "b"], "fresh": False}]
    # A guest that is created now gets its layer, too.
    pair("dumm-guest create c --start")
    pair(["dumm-guest", "exec", "c", "--", "touch", "/root/of-c"])
    assert (pair.directory / "templates/T/c/root/of-c").exists()


def test_only_one_template_at_a_time(pair: Lab) -> None:
    template(pair, "S", "a", "etc/motd", "S\n")
    template(pair, "T", "a", "etc/motd", "T\n")
    pair("dumm-fs template load S")
    pair("dumm-fs template load T")
    assert read(pair, "a", "/etc/motd") == "T\n"
    assert "loaded" in pair("dumm-fs template delete T", status=4).err
    pair("dumm-fs template delete S")
    pair("dumm-fs template unload")
    assert "no template is loaded" in pair("dumm-fs template unload", status=4).err
    assert "no template 'S'" in pair("dumm-fs template load S", status=3).err
    pair("dumm-fs template load ../x", status=2)


def test_template_save_keeps_changes(pair: Lab) -> None:
    change = "echo own >/root/x; rm /etc/hosts; rm -r /var/www"
    pair(["dumm-guest", "exec", "a", "--", "sh", "-c", change])
    pair("dumm-fs template save S")
    assert "already exists" in pair("dumm-fs template save S", status=4).err
    pair("dumm-guest stop a")
    pair("dumm-fs reset a")
    pair("dumm-guest start a")
    assert read(pair, "a", "/root/x") is None
    pair("dumm-fs template load S")
    assert read(pair, "a", "/root/x") == "own\n"
    assert read(pair, "a", "/etc/hosts") is None
    pair("dumm-guest exec a -- ls /var/www", status=1)


def test_newest_overlay_is_on_top(pair: Lab) -> None:
    one, two = pair.directory / "one", pair.directory / "two"
    for layer in (one, two):
        write(layer / "etc/motd", f"{layer.name}\n")
    pair(["dumm-fs", "overlay", "add", "a", one])
    pair("dumm-fs overlay add a two")
    assert read(pair, "a", "/etc/motd") == "two\n"
    assert pair("dumm-fs overlay list a -q").lines == [str(two), str(one)]
    pair("dumm-fs overlay add a one")
    assert read(pair, "a", "/etc/motd") == "one\n"
    assert pair("dumm-guest show a -o overlays").out == f"{one},{two}\n"
    pair(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo written >/etc/motd"])
    assert (one / "etc/motd").read_text() == "written\n"
    pair("dumm-fs overlay pop a")
    assert read(pair, "a", "/etc/motd") == "two\n"
    pair("dumm-guest stop a")
    pair("dumm-fs overlay del a two")
    pair("dumm-guest start a")
    assert read(pair, "a", "/etc/motd") is None
    assert read(pair, "b", "/etc/motd") is None
    assert "no overlays" in pair("dumm-fs overlay pop a", status=3).err
    assert "is not a layer" in pair("dumm-fs overlay del a one", status=3).err
    assert "no directory" in pair("dumm-fs overlay add a none", status=3).err


def test_overlay_for_all_guests_is_all_or_nothing(pair: Lab) -> None:
    layer = pair.directory / "layer"
    write(layer / "etc/motd", "all\n")
    pair("dumm-guest pause b")
    assert "is paused" in pair("dumm-fs overlay add --all layer", status=4).err
    assert read(pair, "a", "/etc/motd") is None
    assert pair("dumm-fs overlay list a -q").out == ""
    pair("dumm-guest resume b")
    pair("dumm-fs overlay add --all layer")
    assert [read(pair, g, "/etc/motd") for g in "ab"] == ["all\n", "all\n"]
    pair("dumm-fs overlay del --all layer")
    # b's tree cannot be changed because of a foreign mount; a, which comes first, gets its old tree
    # back.
    place = pair.directory / "mount/b"
    pair.host(["mount", "-t", "tmpfs", "strange", place])
    pair("dumm-fs overlay add --all layer", status=4)
    pair.host(["umount", place])
    assert [pair(f"dumm-fs overlay list {g} -q").out for g in "ab"] == ["", ""]
    assert [read(pair, g, "/etc/motd") for g in "ab"] == [None, None]
    assert read(pair, "a", "/etc/hosts")


def test_missing_layer_is_an_error(lab: Lab) -> None:
    lab("dumm-guest create a")
    (lab.directory / "layer").mkdir()
    lab("dumm-fs overlay add a layer")
    lab("dumm-fs umount a")
    (lab.directory / "layer").rmdir()
    done = lab("dumm-guest start a", status=3)
    assert "is gone" in done.err
    assert "overlay del" in done.err
    lab("dumm-fs overlay del a layer")
    lab("dumm-guest start a")


def test_layer_is_not_reached_through_a_link(lab: Lab) -> None:
    """Another guest may write to a directory above it."""
    own, secret = lab.directory / "outer/own", lab.directory / "secret"
    own.mkdir(parents=True)
    secret.mkdir()
    lab("dumm-guest create a b")
    lab("dumm-fs overlay add a outer")
    lab(["dumm-fs", "overlay", "add", "b", own])
    lab("dumm-fs umount b")
    lab("dumm-guest start a")
    script = f"rmdir /own && ln -s {secret} /own"
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", script])
    (secret / "hidden").touch()
    words = {"COMP_WORDS": "dumm-fs cp b:/", "COMP_CWORD": "2"}
    offered = lab("dumm-fs", env={"_DUMM_FS_COMPLETE": "bash_complete", **words})
    assert (offered.out.strip(), offered.err) == ("", "")
    for command in ("dumm-guest start b", "dumm-fs mount b", "dumm-fs diff b", "dumm-fs save -"):
        done = lab(command, status=3)
        assert done.out == ""
        assert one_line_error(done.err, command.split()[0]) == (
            f"layer '{own}' of guest 'b' is gone: a part of its path has become a link"
        )
    lab(["dumm-fs", "overlay", "del", "b", own])
    lab("dumm-fs mount b")


def test_remounted_tree_is_that_of_the_running_guest(pair: Lab) -> None:
    pair("dumm-fs umount a")
    pair("dumm-guest exec a -- touch /root/x")
    pair("dumm-fs mount a")
    pair("dumm-fs mount a")
    place = pair.directory / "mount/a/root"
    assert pair.host(["ls", place]).lines == ["x"]
    pair.host(["touch", place / "y"])
    assert pair("dumm-guest exec a -- ls /root").lines == ["x", "y"]
    # Starting alone changes nothing: it makes no mount point for the kernel's modules either.
    assert pair("dumm-fs diff b").out == ""
    assert pair("dumm-guest exec b -- sh -c 'ls /lib/modules/*/modules.dep'").out


@pytest.mark.parametrize("running", [False, True])
def test_two_missing_layers_can_be_removed(lab: Lab, running: bool) -> None:
    lab("dumm-guest create a" + (" --start" if running else ""))
    for name in ("one", "two"):
        (lab.directory / name).mkdir()
        lab(f"dumm-fs overlay add a {name}")
    for name in ("one", "two"):
        (lab.directory / name).rmdir()
    lab("dumm-fs overlay del a one")
    assert lab("dumm-fs overlay list a -q").out == f"{lab.directory}/two\n"
    lab("dumm-fs overlay pop a")
    assert lab("dumm-fs overlay list a -q").out == ""
    lab("dumm-guest start a", status=4 if running else 0)
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", "echo x >/root/x"])
    assert (lab.directory / "host/a/root/x").read_text() == "x\n"


@pytest.mark.root
@pytest.mark.parametrize("end", ["overlay del --all small/layer", "delete", "destroy"])
def test_layer_on_another_disk_is_left_clean(lab: Lab, small: Path, end: str) -> None:
    (small / "layer").mkdir()
    lab("dumm-guest create a b --start")
    for _ in range(3):
        lab(["dumm-fs", "overlay", "add", "--all", small / "layer"])
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", "rm /etc/issue; echo x >/root/x"])
    if end == "delete":
        lab("dumm-guest stop --all")
        lab("dumm-guest delete a b")
    elif end == "destroy":
        lab("dumm-fs destroy")
    else:
        lab(["dumm-fs", "overlay", "del", "--all", small / "layer"])
        assert len(os.listdir(lab.directory / "run/a/work")) == 1
    assert os.listdir(small) == ["layer"]
    assert (small / "layer/root/x").read_text() == "x\n"


def test_paths_that_cannot_be_a_layer(lab: Lab, packs: Path) -> None:
    lab("dumm-guest create a --start")
    masters = packs / "dumm/masters"
    for path in ("outer/inner/deepest", "templates/T/a"):
        (lab.directory / path).mkdir(parents=True)
    lab("dumm-fs overlay add a outer/inner")
    before = sorted(os.listdir(masters / "busybox/etc"))
    for path in (
        "/", ".", "..", "host/a", "host", "mount/a", "mount", "run/a", "outer",
        "outer/inner/deepest", "master", "master/etc", str(masters), str(masters / "busybox/etc"),
    ):  # fmt: skip
        done = lab(["dumm-fs", "overlay", "add", "a", path], status=2)
        assert f"'{path}' cannot be a layer" in done.err
        assert len(done.err.splitlines()) == 1
    assert lab("dumm-fs overlay list a -q").out == f"{lab.directory}/outer/inner\n"
    assert sorted(os.listdir(masters / "busybox/etc")) == before
    lab("dumm-fs overlay add a templates/T/a")
    assert "contain each other" in lab("dumm-fs template load T", status=1).err
    lab(["dumm-guest", "exec", "a", "--", "touch", "/root/x"])
    assert (lab.directory / "templates/T/a/root/x").exists()


def test_template_that_is_not_a_directory(lab: Lab) -> None:
    lab("dumm-guest create a b --start")
    write(lab.directory / "templates/T/b", "no directory")
    assert f"{lab.directory}/templates/T/b' is no" in lab("dumm-fs template load T", status=1).err
    assert lab("dumm-fs template list -o loaded").out == "no\n"
    lab(["dumm-guest", "exec", "a", "--", "touch", "/root/x"])
    assert (lab.directory / "host/a/root/x").exists()
    done = lab("dumm-fs template delete U", status=3)
    assert done.err == "dumm-fs: no template 'U'\n"


@pytest.mark.parametrize(
    ("number", "rootfs"),
    [
        (signal.SIGKILL, "hostfs"),
        (signal.SIGTERM, "hostfs"),
        (signal.SIGINT, "hostfs"),
        (signal.SIGKILL, "virtiofs"),
    ],
)
def test_killed_while_layers_change(pair: Lab, number: signal.Signals, rootfs: str) -> None:
    """The next command continues, and what guests write goes where the records say."""
    if rootfs == "virtiofs":
        pair("dumm-guest set a --rootfs virtiofs")
        pair("dumm-guest set b --rootfs virtiofs")
        pair("dumm-guest restart a b")
    template(pair, "T", "a", "etc/motd", "T\n")
    write(pair.directory / "one/etc/motd", "one\n")
    chance = random.Random(1)
    changes = ("overlay add --all one", "template load T", "template unload", "overlay pop --all")
    count = 0
    for change in changes * 4:
        process = pair.start(["dumm-fs", *change.split()])
        mark = pair.directory / "run" / chance.choice("ab") / "unsettled"
        while not mark.exists() and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.02)
        process.send_signal(number)
        process.wait()
        pair("dumm-fs mount a b")
        for guest in "ab":
            assert not (pair.directory / "run" / guest / "unsettled").exists()
            count += 1
            script = f"echo {count} >/root/{count}; cat /etc/motd"
            said = pair(["dumm-guest", "exec", guest, "--", "sh", "-c", script], status=None)
            over = pair(f"dumm-fs overlay list {guest} -q").lines
            loaded = pair("dumm-fs template list -o loaded").out == "yes\n"
            top = f"templates/T/{guest}" if loaded else "one" if over else f"host/{guest}"
            assert (pair.directory / top / f"root/{count}").read_text() == f"{count}\n"
            motd = "T\n" if loaded and guest == "a" else "one\n" if over else ""
            assert said.out == motd
        # Whatever came of the command, repeat it.
        again = pair(["dumm-fs", *change.split()], status=None)
        assert again.code in (0, 3, 4)
        assert not [p for p in (pair.directory / "run").glob("*/unsettled")]


def test_template_save_of_a_busy_guest(pair: Lab) -> None:
    busy = "cd /root; while :; do for i in 1 2 3 4 5 6 7 8; do echo x >$i; done; rm -f *; done"
    process = pair.start(["dumm-guest", "exec", "a", "--", "sh", "-c", busy])
    pair(["dumm-guest", "exec", "b", "--", "touch", "/root/of-b"])
    for number in range(30):
        pair(f"dumm-fs template save S{number}")
    process.kill()
    process.wait()
    assert (pair.directory / "templates/S29/b/root/of-b").exists()


def stopped_in(process: subprocess.Popen[bytes], place: Path, start: str) -> bool:
    """Stop a command as soon as it has made something at a place; False if it was quicker."""
    while process.poll() is None:
        if any(n.startswith(start) for n in os.listdir(place)):
            process.send_signal(signal.SIGSTOP)
            return True
    return False


def test_other_commands_run_while_a_template_is_saved(lab: Lab) -> None:
    lab("dumm-guest create a")
    for number in range(3000):
        write(lab.directory / f"host/a/srv/{number}", "x")
    (lab.directory / "templates").mkdir(exist_ok=True)
    process = lab.start("dumm-fs template save S")
    assert stopped_in(process, lab.directory / "templates", ".S.tmp-")
    lab("dumm-guest create b")
    assert lab("dumm-fs template list -q").out == ""
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 0
    assert len(os.listdir(lab.directory / "templates/S/a/srv")) == 3000
    # A killed save leaves nothing behind for good, and no partial template.
    process = lab.start("dumm-fs template save U")
    assert stopped_in(process, lab.directory / "templates", ".U.tmp-")
    process.kill()
    process.wait()
    assert lab("dumm-fs template list -q").out == "S\n"
    lab("dumm-fs template save U")
    lab("dumm-fs template delete S U")
    assert os.listdir(lab.directory / "templates") == []


def test_killed_delete_leaves_no_partial_template(lab: Lab) -> None:
    lab("dumm-guest create a")
    for number in range(3000):
        write(lab.directory / f"templates/T/a/srv/{number}", "x")
    process = lab.start("dumm-fs template delete T")
    assert stopped_in(process, lab.directory / "templates", ".T.tmp-")
    process.kill()
    process.wait()
    if lab("dumm-fs template list -q").out:  # it was killed before the move: all of it is there
        assert len(os.listdir(lab.directory / "templates/T/a/srv")) == 3000
        lab("dumm-fs template delete T")
    assert lab("dumm-fs template list -q").out == ""
    lab("dumm-fs template save T")
    assert os.listdir(lab.directory / "templates") == ["T"]
    shutil.rmtree(lab.directory / "templates/T")


@pytest.mark.root
@pytest.mark.parametrize("driver", ["kernel", "fuse"])
def test_layers_in_an_isolated_lab(lab: Lab, driver: str) -> None:
    """The same in an isolated lab, where the kernel's overlays keep their notes elsewhere, and with
    fuse-overlayfs."""
    if driver == "fuse":
        lab.env["DUMM_OVERLAY"] = "fuse-overlayfs"
    lab("dumm-fs destroy")
    lab("dumm-fs init --isolated --kernel sid --master busybox")
    lab("dumm-guest create a b --start")
    before = read(lab, "a", "/etc/hosts")
    for guest in "ab":
        template(lab, "T", guest, "etc/hosts", f"for {guest}\n")
    lab("dumm-fs template load T")
    assert [read(lab, g, "/etc/hosts") for g in "ab"] == ["for a\n", "for b\n"]
    change = "echo x >/root/x; rm /etc/passwd; rm -r /var/www; mkdir /var/www; chown 1000:7 /root/x"
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", change])
    lab("dumm-fs template save S")
    lab("dumm-fs template unload")
    assert [read(lab, g, "/etc/hosts") for g in "ab"] == [before, before]
    assert read(lab, "a", "/root/x") is None
    said = {"D /etc/passwd", "M /etc/hosts", "A /root/x", "D /var/www/index.html"}
    for name in "TS":
        lab(f"dumm-fs template load {name}")
        assert set(lab("dumm-fs diff a").lines) == said
        assert read(lab, "a", "/root/x") == "x\n"
        assert read(lab, "a", "/etc/passwd") is None
        owner = lab("dumm-guest exec a -- stat -c %u:%g /root/x").out
        assert owner == "1000:7\n"
        assert lab("dumm-guest exec a -- ls /var/www").out == ""
    lab("dumm-fs template unload")
    for directory in ("one", "two"):
        write(lab.directory / directory / "etc/motd", f"{directory}\n")
        lab(f"dumm-fs overlay add --all {directory}")
        assert [read(lab, g, "/etc/motd") for g in "ab"] == [f"{directory}\n"] * 2
    lab("dumm-fs overlay add a one")
    assert read(lab, "a", "/etc/motd") == "one\n"
    lab("dumm-fs overlay del --all one")
    lab("dumm-fs overlay pop --all")
    assert [read(lab, g, "/etc/motd") for g in "ab"] == [None, None]
    lab("dumm-fs cp a:/etc/hosts b:/root")
    assert read(lab, "b", "/root/hosts") == before
