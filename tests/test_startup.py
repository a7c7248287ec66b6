"""Startup scripts: kept in the working set, and run at each boot of a guest."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, SUITES
from support.checks import one_line_error, until
from support.guests import processes, state_of
from support.labs import Lab

pytestmark = pytest.mark.uml

KINDS = ["--host-net", "--isolated"] if ROOT else ["--isolated"]
FORWARD = "/proc/sys/net/ipv4/ip_forward"


def script(lab: Lab, text: str | bytes, name: str = "a") -> None:
    """Give a guest a script."""
    data = text.encode() if isinstance(text, str) else text
    lab(f"dumm-guest startup {name} -", stdin=data)


def startup_of(lab: Lab, name: str = "a") -> str:
    return lab(f"dumm-guest show -o startup {name}").out.strip()


def log_of(lab: Lab, name: str = "a") -> str:
    return (lab.directory / "run" / name / "startup.log").read_text()


# ---- keeping it ----


def test_script_is_kept_and_removed(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create a b")
    assert lab("dumm-guest startup a", status=1).stdout == b""
    assert startup_of(lab) == "-"
    text = b"#!/bin/cat\n\0\xff\n"
    file = tmp_path / "script"
    file.write_bytes(text)
    lab(["dumm-guest", "startup", "a", file])
    assert lab("dumm-guest startup a").stdout == text
    assert startup_of(lab) == "waiting"
    assert startup_of(lab, "b") == "-"
    assert os.listdir(lab.directory / "startup") == ["a"]
    lab("dumm-guest startup a --clear")
    lab("dumm-guest startup a --clear")
    assert lab("dumm-guest startup a", status=1).stdout == b""
    script(lab, text)
    lab("dumm-guest delete a")
    assert os.listdir(lab.directory / "startup") == []
    lab(["dumm-guest", "create", "c", "--startup", file])
    assert lab("dumm-guest startup c").stdout == text
    lab("dumm-guest create c --may-exist")
    assert lab("dumm-guest startup c").stdout == text
    lab("dumm-fs destroy")
    assert not (lab.directory / "startup").exists()
    (lab.directory / "startup").mkdir()
    (lab.directory / "startup/mine").touch()
    assert "not empty" in one_line_error(lab("dumm-fs init", status=4).err, "dumm-fs")
    (lab.directory / "startup/mine").unlink()


def test_script_of_an_interrupted_delete_is_not_run(lab: Lab) -> None:
    lab("dumm-guest create a")
    script(lab, "true")
    left = (lab.directory / "startup/a").read_bytes()
    lab("dumm-guest delete a")
    (lab.directory / "startup/a").write_bytes(left)
    lab("dumm-guest create a")
    assert lab("dumm-guest startup a", status=1).stdout == b""


def test_bad_scripts_are_refused(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create a")
    script(lab, "true")

    def refused(words: str, status: int, stdin: bytes = b"") -> str:
        message = one_line_error(lab(f"dumm-guest {words}", status=status, stdin=stdin).err)
        assert lab("dumm-guest startup a").stdout == b"true\n"
        return message

    assert "empty" in refused("startup a -", 2)
    assert "1 MiB" in refused("startup a -", 2, bytes((1 << 20) + 1))
    assert "no such file" in refused("startup a /nonexistent", 3)
    assert "directory" in refused("startup a /", 2)
    assert "--clear" in refused("startup a - --clear", 2)
    assert "no guest" in refused("startup nobody -", 3, b"true")
    assert "no guest" in refused("startup nobody", 3)
    assert "empty" in refused("create b --startup -", 2)
    assert "--start" in refused("create b --wait booted", 2)
    assert "--no-wait" in refused("start a --wait booted --no-wait", 2)
    assert lab("dumm-guest list -q").lines == ["a"]


@pytest.mark.root
def test_script_of_another_user_is_not_trusted(lab: Lab) -> None:
    lab("dumm-guest create a")
    script(lab, "true")
    file = lab.directory / "startup/a"
    os.chown(file, 12345, 12345)
    for command in ("startup a", "start a"):
        assert "12345" in one_line_error(lab(f"dumm-guest {command}", status=4).err)
    os.chown(file, 0, 0)
    file.chmod(0o666)
    assert "writable" in one_line_error(lab("dumm-guest start a", status=4).err)
    file.unlink()
    file.symlink_to("/etc/hostname")
    assert "startup/a" in one_line_error(lab("dumm-guest start a", status=1).err)
    file.unlink()
    os.mkfifo(file)
    assert "not a file" in one_line_error(lab("dumm-guest start a", status=4).err)
    file.unlink()
    os.chown(file.parent, 12345, 12345)
    assert "12345" in one_line_error(lab("dumm-guest list", status=4).err)
    os.chown(file.parent, 0, 0)
    assert state_of(lab, "a") == "stopped"


# ---- running it ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suite", SUITES)
def test_script_runs_at_each_boot(new_lab: Callable[..., Lab], suite: str, kind: str) -> None:
    lab = new_lab("lab", kind, kernel=suite)
    lab("dumm-bridge create lan0")
    rootfs = "virtiofs" if suite == SUITES[0] else "hostfs"
    lab(f"dumm-guest create a --rootfs {rootfs}")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
    script(
        lab,
        f"""ip -o -4 addr show eth0; echo $0 $USER $HOME $PWD; cat
        echo 1 >{FORWARD}; echo boot >>/boots
        while :; do sleep 1; done &
        """,
    )
    lab("dumm-guest start a --wait booted")
    for boots in (1, 2, 3):
        assert startup_of(lab) == "done"
        assert lab(f"dumm-guest exec a -- cat {FORWARD}").out == "1\n"
        assert lab("dumm-guest exec a -- cat /boots").out == "boot\n" * boots
        # Its child is still there, and holds its output open.
        assert "/bin/sh /run/dumm-startup" in processes(lab, "a")
        first, second = log_of(lab).splitlines()
        assert "10.0.0.1/24" in first
        assert second == "/run/dumm-startup root /root /"
        if boots == 1:
            lab("dumm-guest exec a -- reboot", status=None)
            lab("dumm-guest wait a --for booted")
        elif boots == 2:
            lab("dumm-guest restart a --wait booted")
    lab("dumm-guest stop a")
    assert startup_of(lab) == "waiting"


def test_change_takes_effect_at_the_next_boot(lab: Lab) -> None:
    lab("dumm-guest create a --start")
    script(lab, "echo one >/which")
    lab("dumm-guest wait a --for booted")
    lab("dumm-guest exec a -- test ! -e /which")
    lab("dumm-guest exec a -- reboot", status=None)
    lab("dumm-guest wait a --for booted")
    assert lab("dumm-guest exec a -- cat /which").out == "one\n"
    script(lab, "echo two >/which")
    # Changes of the network write the instructions for a boot anew.
    lab("dumm-iface create a-eth0")
    lab("dumm-guest exec a -- reboot", status=None)
    lab("dumm-guest wait a --for booted")
    assert lab("dumm-guest exec a -- cat /which").out == "two\n"
    lab("dumm-guest startup a --clear")
    lab("dumm-guest exec a -- sh -c 'rm /which; reboot'", status=None)
    lab("dumm-guest wait a --for booted")
    lab("dumm-guest exec a -- test ! -e /which")
    assert startup_of(lab) == "-"


@pytest.mark.parametrize(
    ("text", "status", "line"),
    [
        ("echo one; echo two >&2; exit 3", "3", "two"),
        ("kill -9 $$", "137", ""),
        ("#!/nonexistent -x\n", "127", "exec /nonexistent: No such file or directory"),
        ("#! /etc \n", "126", "exec /etc: Permission denied"),
        ("printf 'a\\033[31mb'; false", "1", "a\\x1b[31mb"),
        ("#!/bin/awk -f\nBEGIN { print ARGC; exit 4 }\n", "4", "1"),
    ],
)
def test_failure_is_a_warning(lab: Lab, text: str, status: str, line: str) -> None:
    lab("dumm-guest create a")
    script(lab, text)
    for command in ("start a --wait booted", "wait a --for booted"):
        said = lab(f"dumm-guest {command}").err
        assert said.count("\n") == 1
        expected = f"warning: guest 'a': its startup script failed with status {status}"
        assert one_line_error(said).startswith(expected)
        assert said.endswith(f"{line}\n")
    assert startup_of(lab) == f"failed {status}"


@pytest.mark.parametrize("end", ["true", "sleep 1000000"])
def test_log_is_limited(lab: Lab, end: str) -> None:
    lab("dumm-guest create a")
    script(lab, f"i=0; while [ $i -lt 60000 ]; do echo number $i; i=$((i+1)); done; {end}")
    lab("dumm-guest start a")
    until(lambda: log_of(lab).endswith("number 59999\n"), "the last line")
    log = log_of(lab)
    head, _, rest = log.partition("\n")
    total = sum(len(f"number {n}\n") for n in range(60000))
    assert 128 << 10 < len(log) <= 256 << 10
    assert head == f"[{total - len(rest)} bytes before this are gone]"


def test_what_a_guest_says_of_it_is_not_trusted(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create a")
    script(lab, "true")
    lab("dumm-guest start a --wait booted")
    uml = lab.directory / "run/a/uml"
    secret = tmp_path / "secret"
    secret.write_text("failed 99")
    for make in (
        lambda p: p.symlink_to(secret),
        os.mkfifo,
        os.mkdir,
        lambda p: p.write_bytes(b"failed 9999999999"),
        lambda p: p.write_bytes(b"\x1b[31m" * 100000),
    ):
        for name in ("startup", "startup.log"):
            path = uml / name
            path.unlink() if not path.is_dir() else path.rmdir()
            make(path)
        assert startup_of(lab) == "waiting"
        assert lab("dumm-guest wait a --for booted").err == ""
    for name in ("startup", "startup.log"):
        (uml / name).unlink()


def test_static_program_is_a_script_too(lab: Lab, tmp_path: Path) -> None:
    source, program = tmp_path / "it.c", tmp_path / "it"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("static") < 0; }\n')
    subprocess.run(["gcc", "-static", "-s", "-o", program, source], check=True)
    lab(["dumm-guest", "create", "a", "--startup", program])
    lab("dumm-guest start a --wait booted")
    assert log_of(lab) == "static\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rootfs", ["hostfs", "virtiofs"])
def test_command_of_an_image(
    new_lab: Callable[..., Lab], tmp_path: Path, kind: str, rootfs: str
) -> None:
    lab = new_lab("lab", kind)
    cache = tmp_path / "cache/dumm"
    (cache / "masters").mkdir(parents=True)
    there = Path(lab.env["XDG_CACHE_HOME"]) / "dumm"
    (cache / "kernels").symlink_to(there / "kernels")
    subprocess.run(["cp", "-a", there / "masters/busybox", cache / "masters/app"], check=True)
    command = {
        "argv": ["sh", "-c", "pwd; id -un; echo $WHAT $HOME; exec sleep 1000000"],
        "env": {"WHAT": "it"},
        "directory": "/etc",
        "user": "nobody",
    }
    (cache / "masters/.app.json").write_text(json.dumps({"command": command}))
    (cache / "masters/.app.lock").touch()
    lab.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    lab(f"dumm-guest create a --master app --rootfs {rootfs}")
    lab("dumm-guest start a --wait booted")
    until(lambda: "it" in log_of(lab), "the output")
    assert log_of(lab).splitlines()[:2] == ["/etc", "nobody"]
    assert startup_of(lab) == "running"
    # It ends.
    kill = "kill -9 $(ps -o pid,args | sed -n 's/^ *\\([0-9]*\\) sleep.*/\\1/p')"
    lab(["dumm-guest", "exec", "a", "--", "sh", "-c", kill])
    until(lambda: startup_of(lab) == "failed 137", "it was killed")
    said = lab("dumm-guest wait a --for booted").err
    assert one_line_error(said).startswith(
        "warning: guest 'a': its image's command failed with status 137"
    )
    # A script takes its place, and gives it back.
    script(lab, "echo script")
    lab("dumm-guest restart a --wait booted")
    assert log_of(lab) == "script\n"
    lab("dumm-guest startup a --clear")
    lab("dumm-guest exec a -- reboot", status=None)
    lab("dumm-guest wait a --for booted")
    lab("dumm-guest wait a --until -- sh -c 'ps -o args | grep [s]leep'")
    assert startup_of(lab) == "running"


def test_start_tells_of_a_failure_that_is_known(lab: Lab) -> None:
    lab("dumm-guest create a")
    script(lab, "echo why; exit 3")
    lab("dumm-guest start a")
    lab("dumm-guest stop a")
    # Meanwhile, nobody can take the line that readiness is asked on.
    with (lab.directory / "run/a/line0.in").open("r+b", buffering=0) as line:
        fcntl.flock(line, fcntl.LOCK_EX)
        starting = lab.start("dumm-guest start a")
        until(lambda: startup_of(lab) == "failed 3", "the script has failed")
    said = starting.communicate(timeout=PATIENCE)[1].decode()
    assert starting.returncode == 0
    why = "its startup script failed with status 3: why"
    assert one_line_error(said) == f"warning: guest 'a': {why}"
