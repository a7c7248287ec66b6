"""Overlays and templates: the stack below a guest's root, changed while the guest runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import SUITES, Lab

pytestmark = pytest.mark.uml


def write(path: Path, text: str) -> None:
    """Write a file, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(lab: Lab, guest: str, path: str) -> str | None:
    """A file as the guest reads it now; None where there is none."""
    done = lab(["dumm-guest", "exec", guest, "--", "cat", path], status=None)
    return done.out if done.code == 0 else None


def template(lab: Lab, name: str, guest: str, path: str, text: str) -> Path:
    """Put a file into a template's layer of a guest."""
    file = lab.directory / "templates" / name / guest / path
    write(file, text)
    return file


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """A lab with the running guests a and b."""
    lab("dumm-guest create a b --start")
    return lab


@pytest.mark.parametrize("suite", SUITES)
def test_template_over_a_running_guest(lab: Lab, suite: str) -> None:
    lab(f"dumm-guest create a --kernel {suite} --start")
    before = read(lab, "a", "/etc/hosts")
    template(lab, "T", "a", "etc/hosts", "of the template\n")
    # One who sits in a directory of the old stack keeps nothing stale before others.
    sitting = lab.start(["dumm-guest", "exec", "a", "--", "sh", "-c", "cd /etc; exec sleep 60"])
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


def test_template_for_each_guest_is_remembered(pair: Lab) -> None:
    template(pair, "T", "a", "etc/hosts", "for a\n")
    template(pair, "T", "b", "etc/hosts", "for b\n")
    pair("dumm-fs template load T")
    assert [read(pair, g, "/etc/hosts") for g in "ab"] == ["for a\n", "for b\n"]
    pair("dumm-guest restart --all")
    assert [read(pair, g, "/etc/hosts") for g in "ab"] == ["for a\n", "for b\n"]
    listed = json.loads(pair("dumm-fs template list --format json").out)
    assert listed == [{"name": "T", "loaded": True, "guests": ["a", "b"]}]
    # One that is made now gets its layer too.
    pair("dumm-guest create c --start")
    pair(["dumm-guest", "exec", "c", "--", "touch", "/root/of-c"])
    assert (pair.directory / "templates/T/c/root/of-c").exists()


def test_one_template_at_a_time(pair: Lab) -> None:
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


def test_template_save_keeps_what_was_changed(pair: Lab) -> None:
    change = "echo own >/root/x; rm /etc/hosts; rm -r /var/www"
    pair(["dumm-guest", "exec", "a", "--", "sh", "-c", change])
    pair("dumm-fs template save S")
    assert "exists already" in pair("dumm-fs template save S", status=4).err
    pair("dumm-guest stop a")
    pair("dumm-fs reset a")
    pair("dumm-guest start a")
    assert read(pair, "a", "/root/x") is None
    pair("dumm-fs template load S")
    assert read(pair, "a", "/root/x") == "own\n"
    assert read(pair, "a", "/etc/hosts") is None
    pair("dumm-guest exec a -- ls /var/www", status=1)


def test_overlays_newest_on_top(pair: Lab) -> None:
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
    assert "no layer" in pair("dumm-fs overlay del a one", status=3).err
    assert "no directory" in pair("dumm-fs overlay add a none", status=3).err


def test_overlay_for_all_is_all_or_nothing(pair: Lab) -> None:
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
    # b's tree cannot be changed for a strange mount; a, which comes first, gets its old one back.
    place = pair.directory / "mount/b"
    pair.host(["mount", "-t", "tmpfs", "strange", place])
    pair("dumm-fs overlay add --all layer", status=4)
    pair.host(["umount", place])
    assert [pair(f"dumm-fs overlay list {g} -q").out for g in "ab"] == ["", ""]
    assert [read(pair, g, "/etc/motd") for g in "ab"] == [None, None]
    assert read(pair, "a", "/etc/hosts")


def test_a_layer_that_is_gone(lab: Lab) -> None:
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


def test_a_tree_mounted_again_is_the_running_guests(pair: Lab) -> None:
    pair("dumm-fs umount a")
    pair("dumm-guest exec a -- touch /root/x")
    pair("dumm-fs mount a")
    pair("dumm-fs mount a")
    place = pair.directory / "mount/a/root"
    assert pair.host(["ls", place]).lines == ["x"]
    pair.host(["touch", place / "y"])
    assert pair("dumm-guest exec a -- ls /root").lines == ["x", "y"]
    # A start alone changes nothing: not even a place for the kernel's modules.
    assert pair("dumm-fs diff b").out == ""
    assert pair("dumm-guest exec b -- sh -c 'ls /lib/modules/*/modules.dep'").out
