"""Layers that change under a running guest: paths that somebody holds open, mounts, and processes
that keep the old layers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest
from support import SUITES
from support.labs import Lab

from dumm_tools.agent import protocol

pytestmark = pytest.mark.uml

NewLab = Callable[..., Lab]
KINDS = [pytest.param("--host-net", marks=pytest.mark.root), "--isolated"]


def sh(lab: Lab, script: str, status: int = 0) -> str:
    """Run a script in the guest a; what it writes, errors included."""
    done = lab(["dumm-guest", "exec", "a", "--", "sh", "-c", f"exec 2>&1; {script}"], status=status)
    return done.out


def layer(lab: Lab, files: dict[str, str]) -> None:
    """Make the template T with these files for the guest a."""
    for path, text in files.items():
        place = lab.directory / "templates/T/a" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def running(lab: Lab, script: str) -> subprocess.Popen[bytes]:
    """Start a script that says `on` when it is set up, and then sleeps."""
    process = lab.start(
        ["dumm-guest", "exec", "a", "--", "sh", "-c", f"{script}; echo on; exec sleep 10000"]
    )
    assert process.stdout
    assert process.stdout.readline() == b"on\n"
    return process


def warnings(text: str) -> list[str]:
    """The warnings on stderr, without the numbers of processes."""
    return [re.sub(r" \(\d+\)", "", line) for line in text.splitlines()]


APART = "have mount namespaces of their own, and see the old layers until they are restarted"
OPEN = "have files or directories of the old layers open until they are restarted"


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("kind", KINDS)
def test_paths_that_are_held_open_show_the_new_layers(
    new_lab: NewLab, suite: str, kind: str
) -> None:
    lab = new_lab("lab", kind, kernel=suite)
    lab("dumm-guest create a --start")
    sh(lab, "mkdir -p /w/sub; echo own >/w/both; echo own >/w/own; cp /bin/busybox /w/true")
    layer(lab, {"w/both": "of the template\n", "w/only": "x\n", "w/sub/new": "y\n"})
    before = running(lab, "cd /w/sub; exec 3</w/both 4>>/w/own 5</bin/busybox")
    done = lab("dumm-fs template load T")
    assert warnings(done.err) == [f"dumm-fs: warning: programs in guest 'a' {OPEN}: sleep"]
    assert sh(lab, "cat /w/both /w/own /w/sub/new") == "of the template\nown\ny\n"
    # The path of each is that of a new file, in the template.
    sh(lab, "echo written >>/w/both; mv /w/own /w/gone; echo again >/w/own; rm /w/true")
    top = lab.directory / "templates/T/a/w"
    assert (top / "both").read_text() == "of the template\nwritten\n"
    assert (top / "own").read_text() == "again\n"
    own = lab.directory / "host/a/w"
    assert [(own / name).read_text() for name in ("both", "own")] == ["own\n", "own\n"]
    # Files that exist in the template only: nothing is in their way afterwards.
    after = running(lab, "exec 3</w/only 4</w/sub/new 5>>/w/made; cd /w/sub")
    done = lab("dumm-fs template unload")
    assert warnings(done.err) == [f"dumm-fs: warning: programs in guest 'a' {OPEN}: sleep"]
    assert sh(lab, "cat /w/both; ls /w /w/sub") == ("own\n/w:\nboth\nown\nsub\ntrue\n\n/w/sub:\n")
    assert "No such file" in sh(lab, "cat /w/only", status=1)
    sh(
        lab,
        "set -e; echo 1 >/w/only; echo 2 >/w/made; echo 3 >/w/sub/new; rm /w/made; /w/true",
    )
    assert sh(lab, "cat /w/only /w/sub/new") == "1\n3\n"
    assert not (top / "made").read_text()
    for process in (before, after):
        process.kill()


@pytest.mark.parametrize("suite", SUITES)
def test_mounts_in_the_guest_are_kept(lab: Lab, suite: str) -> None:
    lab(f"dumm-guest create a --kernel {suite} --start")
    sh(
        lab,
        "mkdir -p '/mnt/a b' /mnt/c; mount -t tmpfs 1 '/mnt/a b'; mkdir '/mnt/a b/deep';"
        "mount -t tmpfs 2 '/mnt/a b/deep'; echo here >'/mnt/a b/deep/file';"
        "mount -t tmpfs -o ro 3 /mnt/c;"
        "echo of hosts >>/etc/hosts; mount --bind /etc/hosts /etc/group",
    )
    listed = "sed 's/^[^ ]* //' /proc/mounts | cut -d ' ' -f 1,2 | sort"
    before = sh(lab, listed)
    assert len(before.splitlines()) > 9
    tail = (
        "tail -n 1 /etc/group; cat '/mnt/a b/deep/file'; ls -d /proc/1 /dev/null /sys/class; "
        "echo >/mnt/c/x"
    )
    want = sh(lab, tail, status=1)
    layer(lab, {"etc/motd": "T\n"})
    for shared in ("private", "shared"):
        sh(lab, f"mount --make-r{shared} /")
        for command in ("load T", "unload"):
            lab(f"dumm-fs template {command}")
            assert sh(lab, listed) == before
            assert sh(lab, tail, status=1) == want
            said = sh(lab, "grep -c shared: /proc/self/mountinfo", status=shared == "private")
            assert said.strip() == ("0" if shared == "private" else f"{len(before.splitlines())}")
    assert lab("dumm-fs diff a -q").lines == ["/etc/hosts", "/mnt/a b", "/mnt/c"]
    # A place that the new layers lack is made.
    lab("dumm-fs template load T")
    sh(
        lab,
        "mkdir -p /t/here; mount -t tmpfs 4 /t/here; echo kept >/t/here/file;"
        "touch /t/file; mount --bind /proc/version /t/file",
    )
    assert lab("dumm-fs template unload").err == ""
    assert sh(lab, "cat /t/here/file; cut -c 1-5 /t/file") == "kept\nLinux\n"


@pytest.mark.parametrize("suite", SUITES)
def test_processes_in_other_mount_namespaces_are_named(lab: Lab, suite: str) -> None:
    lab(f"dumm-guest create a --kernel {suite} --start")
    layer(lab, {"etc/motd": "T\n"})
    apart = running(lab, "exec 2>&1; exec unshare -m sh -c 'echo on; exec sleep 10000'")
    inside = running(lab, "cd /tmp")
    done = lab("dumm-fs template load T")
    want = [f"dumm-fs: warning: programs in guest 'a' {text}: sleep" for text in (APART, OPEN)]
    assert warnings(done.err) == want
    for process in (apart, inside):
        process.kill()


def test_guest_that_cannot_change_its_root_says_so(lab: Lab) -> None:
    """Something is mounted twice in the same place: it has the new layers nevertheless."""
    lab("dumm-guest create a --start")
    layer(lab, {"etc/motd": "T\n"})
    sh(lab, "mount -t tmpfs 1 /mnt; mount -t tmpfs 2 /mnt; touch /mnt/here")
    done = lab("dumm-fs template load T")
    assert "cannot change its root directory (Device or resource busy)" in done.err
    assert sh(lab, "cat /etc/motd; ls /mnt; ls -a /..; grep -c ' / ' /proc/mounts").startswith(
        "T\nhere\n"
    )
    sh(lab, "umount /mnt")
    assert lab("dumm-fs template unload").err == ""
    assert "No such file" in sh(lab, "cat /etc/motd", status=1)


def test_report_of_holders_may_be_anything() -> None:
    assert protocol.holders(b"1 n init\n22 f a b\n") == [
        protocol.Holder(1, "init", True),
        protocol.Holder(22, "a b", False),
    ]
    assert protocol.holders(b"x\n1 q a\n-1 n a\n99999999999 n a\n1 n \n\xff\xff") == []
    assert protocol.holders(b"1 n \x1b[31m\n")[0].command == "\\x1b[31m"
