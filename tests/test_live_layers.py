"""Layers that change under a running guest: paths that somebody holds open, mounts, and processes
that keep the old layers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, PLACES, SUITES
from support.guests import kernel_of, pid_of
from support.labs import Lab
from support.masters import WITHOUT_SERVICES

from dumm_tools.agent import protocol
from dumm_tools.agent.client import Control
from dumm_tools.errors import TimedOut
from dumm_tools.files import template

pytestmark = pytest.mark.uml

NewLab = Callable[..., Lab]
ROOTS = ("hostfs", "virtiofs")


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
    started = lab.start(
        ["dumm-guest", "exec", "a", "--", "sh", "-c", f"{script}; echo on; exec sleep 10000"]
    )
    assert started.stdout
    assert started.stdout.readline() == b"on\n"
    return started


def warnings(text: str) -> list[str]:
    """The warnings on stderr, without the numbers of processes."""
    return [re.sub(r" \(\d+\)", "", line) for line in text.splitlines()]


APART = "have mount namespaces of their own, and see the old layers until they are restarted"
OPEN = "have files or directories of the old layers open until they are restarted"


@pytest.mark.parametrize(("suite", "kind"), PLACES)
@pytest.mark.parametrize("rootfs", ROOTS)
def test_paths_that_are_held_open_show_the_new_layers(
    new_lab: NewLab, suite: str, kind: str, rootfs: str
) -> None:
    lab = new_lab("lab", kind, kernel=suite)
    lab(f"dumm-guest create a --rootfs {rootfs} --start")
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
    for each in (before, after):
        each.kill()


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("rootfs", ROOTS)
def test_mounts_in_the_guest_are_kept(lab: Lab, suite: str, rootfs: str) -> None:
    lab(f"dumm-guest create a --kernel {suite} --rootfs {rootfs} --start")
    sh(
        lab,
        "mount -o remount,noatime,nosuid /;"
        "mkdir -p '/mnt/a b' /mnt/c; mount -t tmpfs 1 '/mnt/a b'; mkdir '/mnt/a b/deep';"
        "mount -t tmpfs 2 '/mnt/a b/deep'; echo here >'/mnt/a b/deep/file';"
        "mount -t tmpfs -o ro 3 /mnt/c;"
        "echo of hosts >>/etc/hosts; mount --bind /etc/hosts /etc/group",
    )
    listed = "sed 's/^[^ ]* //' /proc/mounts | cut -d ' ' -f 1-3 | sort"
    before = sh(lab, listed)
    assert len(before.splitlines()) > 9
    assert re.search(f"^/ {rootfs} rw,nosuid,noatime", before, re.MULTILINE)
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
    # A root that may not be written to stays so.
    sh(lab, "umount /t/here /t/file; mount -o remount,ro /")
    lab("dumm-fs template load T")
    assert "Read-only" in sh(lab, "cat /etc/motd; echo >/w", status=1)
    sh(lab, "mount -o remount,rw /; echo >/w")


@pytest.mark.parametrize("suite", SUITES)
def test_processes_in_other_mount_namespaces_are_named(lab: Lab, suite: str) -> None:
    lab(f"dumm-guest create a --kernel {suite} --start")
    layer(lab, {"etc/motd": "T\n"})
    apart = running(lab, "exec 2>&1; exec unshare -m sh -c 'echo on; exec sleep 10000'")
    inside = running(lab, "cd /tmp")
    done = lab("dumm-fs template load T")
    want = [f"dumm-fs: warning: programs in guest 'a' {text}: sleep" for text in (APART, OPEN)]
    assert warnings(done.err) == want
    for each in (apart, inside):
        each.kill()


def test_guest_that_cannot_change_its_root_says_so(lab: Lab) -> None:
    """Something is mounted twice in the same place: with hostfs, it has the new layers
    nevertheless."""
    lab("dumm-guest create a --rootfs hostfs --start")
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


def test_layers_of_a_served_guest_are_kept_if_it_cannot_change_its_root(lab: Lab) -> None:
    lab("dumm-guest create a --rootfs virtiofs --start")
    (lab.directory / "top/etc").mkdir(parents=True)
    (lab.directory / "top/etc/motd").write_text("top\n")
    sh(lab, "mount -t tmpfs 1 /mnt; mount -t tmpfs 2 /mnt; echo before >/etc/motd")
    for _ in range(2):
        done = lab("dumm-fs overlay add a top", status=1)
        assert "guest 'a' cannot change its root directory: Device or resource busy" in done.err
        assert lab("dumm-fs overlay list a -q").out == ""
        assert (
            sh(lab, "cat /etc/motd; echo x >>/root/x; grep -c ' / ' /proc/mounts") == "before\n1\n"
        )
    assert (lab.directory / "host/a/root/x").read_text() == "x\nx\n"
    assert not (lab.directory / "run/a/unsettled").exists()
    sh(lab, "umount /mnt")
    lab("dumm-fs overlay add a top")
    assert sh(lab, "cat /etc/motd; echo y >>/root/x") == "top\n"
    assert (lab.directory / "top/root/x").read_text() == "x\nx\ny\n"


PIVOT_ROOT, MOVE_MOUNT = 155, 429


@pytest.mark.parametrize("rootfs", ROOTS)
def test_nothing_is_lost_if_the_kernel_refuses(lab: Lab, rootfs: str, tmp_path: Path) -> None:
    refuse = tmp_path / "refuse"
    source = Path(__file__).with_name("refuse.c")
    subprocess.run(["gcc", "-static", "-O1", "-s", "-o", refuse, source], check=True)
    lab(f"dumm-guest create a --rootfs {rootfs}")
    shutil.copy(refuse, lab.mounted("a") / "bin/refuse")
    lab("dumm-guest start a")
    layer(lab, {"etc/motd": "T\n"})
    # The place is another one in the new layers.
    (lab.directory / "templates/T/a/here").symlink_to("mnt")
    sh(lab, "mkdir /here; mount -t tmpfs 1 /here; echo kept >/here/file")
    listed = "sed 's/^[^ ]* //' /proc/mounts | sort"
    before = sh(lab, listed)
    # With virtiofs, the new root file system itself is the first that is moved.
    for call, nth in ((PIVOT_ROOT, 1), (MOVE_MOUNT, 4)):
        refusing = lab.start(["dumm-guest", "exec", "a", "--", "refuse", "1", str(call), str(nth)])
        assert refusing.stdout
        assert refusing.stdout.readline() == b"on\n"
        done = lab("dumm-fs template load T", status=rootfs == "virtiofs")
        assert "cannot change its root directory" in done.err
        assert refusing.wait(PATIENCE) == 0
        assert sh(lab, listed) == before
        assert sh(lab, "cat /here/file; ls -d /proc/1 /dev/null; ls -a /..").startswith("kept")
        lab("dumm-fs template unload")
    lab("dumm-fs template load T")
    assert sh(lab, "cat /etc/motd /mnt/file") == "T\nkept\n"


def test_served_guest_reboots_with_its_new_layers(lab: Lab) -> None:
    lab("dumm-guest create a --rootfs virtiofs --start")
    for n in range(4):
        layer(lab, {"etc/motd": f"{n}\n"})
        lab("dumm-fs template load T")
        assert sh(lab, "cat /etc/motd") == f"{n}\n"
        sh(lab, "reboot & sleep 1000", status=125)
        lab("dumm-guest wait a")
        assert sh(lab, f"cat /etc/motd; echo {n} >>/root/x") == f"{n}\n"
        # The tree on the host is that of the guest, also when it is fetched from there.
        lab("dumm-fs umount a")
        lab("dumm-fs mount a")
        assert (lab.mounted("a") / "etc/motd").read_text() == f"{n}\n"
        lab("dumm-fs template unload")
        assert "No such file" in sh(lab, "cat /etc/motd", status=1)
    assert (lab.directory / "templates/T/a/root/x").read_text() == "0\n1\n2\n3\n"
    assert lab("dumm-fs diff a -q").out == ""


def places(lab: Lab, name: str) -> list[str]:
    """The trees that the server of a guest has, or shows it."""
    launcher = int((lab.directory / "run" / name / "server.pid").read_text().split()[0])
    mounts = Path(f"/proc/{launcher}/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in mounts]
    shown = os.listdir(f"/proc/{launcher}/root/shared")
    return sorted({*shown, *(p.split("/")[2] for p in points if p.startswith("/shared/"))})


def test_served_guest_that_does_not_answer_takes_the_layers_later(lab: Lab) -> None:
    lab("dumm-guest create a b --rootfs virtiofs --start")
    layer(lab, {"etc/motd": "T\n"})
    (lab.directory / "top").mkdir()
    before = places(lab, "a")
    kernel = kernel_of(pid_of(lab, "a"))
    os.kill(kernel, signal.SIGSTOP)
    try:
        for command in ("overlay add a top", "template load T"):
            done = lab(f"dumm-fs {command}", status=5)
            assert "guest 'a' does not answer" in done.err
            # It has not been told, and its server has nothing more than before.
            assert places(lab, "a") == before
        lab("dumm-guest exec b -- test -d /root")
    finally:
        os.kill(kernel, signal.SIGCONT)
    lab("dumm-fs template load T")
    assert sh(lab, "cat /etc/motd; echo x >/root/x") == "T\n"
    assert (lab.directory / "templates/T/a/root/x").read_text() == "x\n"
    lab("dumm-fs template unload")
    assert not (lab.directory / "run/a/unsettled").exists()
    assert "No such file" in sh(lab, "cat /etc/motd", status=1)
    assert len(places(lab, "a")) == 1


@pytest.mark.root
def test_served_guest_that_only_greets_costs_two_trees(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been told of new layers, and may or may not use them: they are kept, but those before
    are not."""
    lab("dumm-guest create a --rootfs virtiofs --start")
    layer(lab, {"etc/motd": "T\n"})
    (lab.directory / "templates/U/a").mkdir(parents=True)
    labdir = str(lab.directory)

    def silent(*_: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as changed:
        changed.setattr(Control, "change_layers", silent)
        for name in "TUTUT":
            with pytest.raises(TimedOut):
                template.load_(labdir, name)
            assert len(places(lab, "a")) == 2
    sh(lab, "echo x >/root/x", status=0)
    template.load_(labdir, "T")
    assert sh(lab, "cat /etc/motd") == "T\n"
    assert len(places(lab, "a")) == 1


@pytest.mark.root
@pytest.mark.parametrize("rootfs", ROOTS)
def test_guest_does_not_get_what_the_host_mounts(lab: Lab, rootfs: str) -> None:
    """Also where mounts are shared, as with systemd on the host."""
    lab.host(["mount", "--bind", lab.directory, lab.directory])
    lab.host(["mount", "--make-shared", lab.directory])
    try:
        lab(f"dumm-guest create a --rootfs {rootfs} --start")
        layer(lab, {"etc/motd": "T\n"})
        lab("dumm-fs template load T")
        lab.host(["mount", "--bind", lab.directory, lab.mounted("a") / "mnt"])
        assert (lab.mounted("a") / "mnt/state.json").exists()
        assert sh(lab, "cat /etc/motd; ls /mnt") == "T\n"
        lab.host(["umount", lab.mounted("a") / "mnt"])
        lab("dumm-guest stop a --kill")
    finally:
        lab.host(["umount", "-l", lab.directory])


@pytest.mark.parametrize("rootfs", ROOTS)
def test_systemd_goes_on_with_new_layers(new_lab: NewLab, debian_systemd: str, rootfs: str) -> None:
    lab = new_lab("lab", "--isolated")
    lab(
        f"dumm-guest create a --master {debian_systemd} --rootfs {rootfs} --init /sbin/init "
        f"--memory 256M {WITHOUT_SERVICES} --start"
    )
    sh(lab, "until systemctl is-system-running | grep -E 'running|degraded'; do sleep 1; done")
    unit = "-p PrivateTmp=yes -p Restart=always -u apart"
    sh(lab, f"systemd-run {unit} sh -c 'cat /etc/only >/run/seen 2>&1; exec sleep 10000'")
    sh(lab, "until test -s /run/seen; do sleep 0.1; done")
    layer(lab, {"etc/only": "T\n"})
    done = lab("dumm-fs template load T")
    assert re.search(f"{APART}: .*sleep", done.err)
    # systemd's own mounts, sockets and services are where they were.
    assert "T\n" in sh(lab, "cat /etc/only; systemctl daemon-reload; systemctl restart ssh")
    sh(
        lab,
        "set -e; systemctl is-active ssh systemd-journald dbus.socket;"
        "for m in /run /tmp /sys/fs/cgroup; do mountpoint $m; done",
    )
    assert "No such file" in sh(lab, "cat /run/seen")
    sh(lab, "rm /run/seen; systemctl restart apart; until test -s /run/seen; do sleep 0.1; done")
    assert sh(lab, "cat /run/seen") == "T\n"
    done = lab("dumm-fs template unload")
    assert re.search(f"{APART}: .*sleep", done.err)
    assert "No such file" in sh(lab, "systemctl is-active ssh; cat /etc/only", status=1)


def test_report_of_holders_may_be_anything() -> None:
    assert protocol.holders(b"1 n init\n22 f a b\n") == [
        protocol.Holder(1, "init", True),
        protocol.Holder(22, "a b", False),
    ]
    assert protocol.holders(b"x\n1 q a\n-1 n a\n99999999999 n a\n1 n \n\xff\xff") == []
    assert protocol.holders(b"1 n \x1b[31m\n")[0].command == "\\x1b[31m"
