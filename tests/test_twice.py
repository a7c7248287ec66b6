"""Twice is once: verbs that make or remove something can be run again.

The tables below are run twice, and a verb of that kind that is in none of them fails the test.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click
import pytest
from support import ROOT, SUITES
from support.labs import Lab

from dumm_tools import _docs
from dumm_tools.cli import ending

#: The verbs that make something, and those that remove something, by their names.
MAKING = {"add", "build", "commit", "create", "fetch", "import", "init", "save", "start"}
REMOVING = {"del", "delete", "destroy", "disconnect", "pop", "stop", "umount", "unload"}
#: Verbs with one of these names that do something else.
OTHERS = {"dumm-fs save"}  # replaces its file anyway

#: Commands with the options, in this order; each line is run twice.
MADE = [
    "dumm-fs init --kernel {kernel} --master busybox --may-exist",
    "dumm-guest create a b --may-exist",
    "dumm-guest create a --memory 80M --arg quiet --disk {disk}:ro --files {tree} --may-exist",
    "dumm-guest create a --startup {script} --may-exist",
    "dumm-bridge create lan0 lan1 --may-exist",
    "dumm-bridge create lan0 --address 10.0.0.254/24 --hub --may-exist",
    "dumm-bridge address add lan1 10.1.0.254/24 --may-exist",
    "dumm-bridge uplink lan1 --nat --may-exist",
    "dumm-iface create a-eth0 b-eth0 --bridge lan0 --may-exist",
    "dumm-iface create a-eth0 --address 10.0.0.1/24 --address fd00::1/64 --may-exist",
    "dumm-iface create a-eth1 --mtu 1400 --mac 02:00:00:00:00:11 --may-exist",
    "dumm-iface address add b-eth0 10.0.0.2/24 --may-exist",
    "dumm-iface route add a-eth0 default --via 10.0.0.254 --may-exist",
    "dumm-iface rule add a --from 10.9.0.0/16 --table 9 --may-exist",
    "dumm-bridge connect lan1 a-eth1",
    "dumm-iface shape a-eth0 --delay 5 --loss 1%",
    "dumm-iface down a-eth1",
    "dumm-bridge down lan1",
    "dumm-bridge set lan1 --switch",
    "dumm-fs mount a b",
    "dumm-fs overlay add a {layer} --create --may-exist",
    "dumm-fs overlay add --all {layer} --may-exist",
    "dumm-fs overlay add a {layer}",
    "dumm-fs template save T --may-exist",
    "dumm-fs template load T",
    "dumm-fs template load U --create",
    "dumm-fs template save U --may-exist",
    "dumm-fs commit a {commit} --may-exist",
]
REMOVED = [
    "dumm-fs template unload --if-exists",
    "dumm-fs template delete T U --if-exists",
    "dumm-fs overlay del a {layer} --if-exists",
    "dumm-fs overlay pop --all --if-exists",
    "dumm-iface rule del a --from 10.9.0.0/16 --if-exists",
    "dumm-iface route del a-eth0 default --if-exists",
    "dumm-iface address del b-eth0 10.0.0.2/24 --if-exists",
    "dumm-bridge uplink lan1 --none --if-exists",
    "dumm-bridge address del lan1 10.1.0.254/24 --if-exists",
    "dumm-bridge disconnect a-eth1 b-eth0 --if-exists",
    "dumm-iface delete a-eth0 a-eth1 --if-exists",
    "dumm-bridge delete lan0 lan1 --if-exists",
    "dumm-guest stop a b --if-exists",
    "dumm-fs umount a b --if-exists",
    "dumm-guest delete a b --if-exists",
]
#: In a cache of their own.
CACHED = [
    "dumm-fs master build busybox --name b --may-exist",
    "dumm-fs master import {tree} --name t --may-exist",
    "dumm-fs kernel import {kernel} --name k --may-exist",
    "dumm-fs master delete b t --if-exists",
    "dumm-fs kernel delete k --if-exists",
]
#: Tried by other tests.
ELSEWHERE = [
    "dumm-guest start --may-exist",  # test_running_guests
    "dumm-fs destroy --if-exists",  # test_making_and_removing_twice
    "dumm-fs kernel fetch --may-exist",  # test_kernel.py
    "dumm-fs kernel build --may-exist",  # test_kernel_build.py
]
#: The same again, once the objects that these belong to are gone.
GONE = REMOVED[2:3] + REMOVED[4:]


def verbs() -> Iterator[tuple[str, click.Command]]:
    """All verbs of all tools, with their names."""

    def below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for verb, each in command.commands.items():
                yield from below(f"{name} {verb}", each)
        else:
            yield name, command

    for tool, group in _docs.tools().items():
        yield from below(tool, group)


def option(command: click.Command, name: str) -> bool:
    return any(name in p.opts for p in command.params)


def test_verbs_have_the_options() -> None:
    lacking = []
    for name, command in verbs():
        last = name.split()[-1]
        if name not in OTHERS:
            lacking += [name] if last in MAKING and not option(command, "--may-exist") else []
            lacking += [name] if last in REMOVING and not option(command, "--if-exists") else []
    assert lacking == []


def test_all_verbs_with_the_options_are_tried() -> None:
    lines = [*MADE, *REMOVED, *CACHED, *ELSEWHERE]
    untried = [
        (name, wanted)
        for name, command in verbs()
        for wanted in ("--may-exist", "--if-exists")
        if option(command, wanted)
        and not any(line.startswith(f"{name} ") and wanted in line.split() for line in lines)
    ]
    assert untried == []


class Twice:
    """Runs each command twice: the second time, nothing is said or written.

    There are many of them: they run in children of this process, like the lines of a batch."""

    def __init__(self, lab: Lab, words: dict[str, object]) -> None:
        self.lab, self._words = lab, words

    def __call__(self, line: str, **env: str) -> None:
        argv = shlex.split(line.format(**self._words))
        done = self._run(argv, env)
        assert (argv, done[0]) == (argv, 0), done[1]
        before = self._state()
        assert (argv, *self._run(argv, env)) == (argv, 0, "")
        assert (argv, self._state()) == (argv, before)

    def _run(self, argv: list[str], env: dict[str, str]) -> tuple[int, str]:
        """The exit status, and what was printed."""
        with tempfile.TemporaryFile("w+") as said:
            pid = os.fork()
            if pid == 0:
                self._be(argv, env, said.fileno())
            _, status = os.waitpid(pid, 0)
            said.seek(0)
            return os.waitstatus_to_exitcode(status), said.read()

    def _be(self, argv: list[str], env: dict[str, str], output: int) -> NoReturn:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(output, number)
                setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
            os.environ.update({**self.lab.env, **env})
            os.chdir(self.lab.directory)
            code = ending.outcome(_docs.tools()[argv[0]], argv[0], argv[1:])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _state(self) -> list[object]:
        found = [self.lab.directory / "state.json", *self.lab.directory.glob("startup/*")]
        return [(path, path.stat().st_ino, path.read_bytes()) for path in found if path.exists()]


@pytest.fixture
def twice(lab: Lab, tmp_path: Path) -> Twice:
    (tmp_path / "disk").write_bytes(bytes(4096))
    (tmp_path / "script").write_text("true\n")
    words = {name: tmp_path / name for name in ("disk", "script", "commit")}
    words["layer"] = tmp_path / "layers" / "one"
    words["tree"] = tmp_path / "tree"
    (tmp_path / "tree/etc").mkdir(parents=True)
    return Twice(lab, {**words, "kernel": (lab.directory / "linux").resolve()})


def test_making_and_removing_twice(twice: Twice) -> None:
    for line in MADE:
        twice(line)
    for line in [*REMOVED, *GONE]:
        twice(line)
    twice.lab("dumm-fs destroy --if-exists")
    twice.lab("dumm-fs destroy --if-exists")
    assert twice.lab("dumm-fs destroy", status=3).err


def test_kernels_and_masters_twice(twice: Twice, tmp_path: Path) -> None:
    for line in CACHED:
        twice(line, XDG_CACHE_HOME=str(tmp_path / "cache"))


# ---- existing objects become what is asked for ----


def record(lab: Lab, key: str) -> dict[str, object]:
    table, _, name = key.partition(".")
    found: dict[str, object] = json.loads((lab.directory / "state.json").read_text())[table][name]
    return found


def test_create_changes_what_differs(lab: Lab) -> None:
    lab.batch("guest create a", "bridge create lan0 lan1")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24 --address fd00::1/64")
    before = record(lab, "ifaces.a-eth0")
    lab("dumm-iface create --may-exist a-eth0 --bridge lan1")
    assert record(lab, "ifaces.a-eth0") == {**before, "bridge": "lan1"}
    lab("dumm-iface create --may-exist a-eth0 --address fd00::1/48 --address 10.0.0.2/24")
    assert record(lab, "ifaces.a-eth0") == {
        **before,
        "bridge": "lan1",
        "addresses": ["fd00::1/48", "10.0.0.2/24"],
    }
    card = "--mtu 1000 --mac 02:00:00:00:00:07"
    lab(f"dumm-iface create --may-exist a-eth0 --address 10.0.0.2/24 {card}")
    assert record(lab, "ifaces.a-eth0") == {
        **before,
        "bridge": "lan1",
        "addresses": ["10.0.0.2/24"],
        "mtu": 1000,
        "mac": "02:00:00:00:00:07",
    }
    lab("dumm-bridge create --may-exist lan0 --address 10.0.0.254/24 --switch")
    lab("dumm-bridge create --may-exist lan0 --address 10.1.0.254/24")
    assert record(lab, "bridges.lan0")["addresses"] == ["10.1.0.254/24"]
    assert record(lab, "bridges.lan0")["kind"] == "switch"


def test_nothing_is_changed_if_something_is_wrong(lab: Lab) -> None:
    lab.batch("guest create a", "bridge create lan0 --address 10.0.0.254/24", "bridge create lan1")
    lab("dumm-iface create a-eth0 --bridge lan0 --address fd00::1/64")
    lab("dumm-bridge uplink lan0 --nat")
    before = (lab.directory / "state.json").read_text()
    for words, status in (
        ("dumm-iface create --may-exist a-eth0 --bridge lan9 --mtu 2000", 3),
        ("dumm-iface create --may-exist a-eth0 --bridge lan1 --mtu 1000", 2),
        ("dumm-iface create --may-exist a-eth0 --bridge lan1 --mac 03:00:00:00:00:00", 2),
        ("dumm-bridge create --may-exist lan0 --hub --address 10.0.0.254", 2),
        ("dumm-guest create --may-exist a --memory 100M --arg mem=3", 2),
        ("dumm-guest create --may-exist a --memory 100M --kernel nonesuch", 3),
        ("dumm-guest create --may-exist a --memory 100M --master nonesuch", 3),
        ("dumm-bridge uplink lan1 --may-exist --nat", 4),
        ("dumm-bridge uplink lan0 --may-exist --to nonesuch", 3 if ROOT else 4),
    ):
        assert lab(words, status=status).err.count("\n") in (1, 2)
        assert (words, (lab.directory / "state.json").read_text()) == (words, before)


def test_settings_of_an_existing_guest(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create a --memory 70M --arg quiet --init /bin/sh")
    lab("dumm-guest create a b --may-exist --memory 80M")
    assert record(lab, "guests.a")["memory"] == 80 << 20
    assert record(lab, "guests.a")["args"] == ["quiet"]
    lab(["dumm-guest", "create", "a", "--may-exist", "--init", "", "--arg", "debug", "--arg", "x"])
    assert record(lab, "guests.a")["args"] == ["debug", "x"]
    assert record(lab, "guests.a")["init"] is None
    (tmp_path / "script").write_text("echo one\n")
    for text in ("echo one\n", "echo two\n"):
        (tmp_path / "script").write_text(text)
        lab(f"dumm-guest create a --may-exist --startup {tmp_path / 'script'}")
        assert lab("dumm-guest startup a").out == text


def test_route_takes_the_place_of_another(lab: Lab) -> None:
    lab.batch("guest create a", "iface create a-eth0 --address 10.0.0.1/24")
    lab("dumm-iface create a-eth1 --address 10.1.0.1/24")
    lab("dumm-iface route add a-eth0 default --via 10.0.0.2")
    lab("dumm-iface route add a-eth0 default --via 10.0.0.3", status=4)
    lab("dumm-iface route add a-eth0 default --via 10.0.0.3 --may-exist")
    assert lab("dumm-iface route list a -o via,iface").out == "10.0.0.3\ta-eth0\n"
    lab("dumm-iface route add a-eth1 default --via 10.1.0.3 --may-exist")
    lab("dumm-iface route add a-eth1 default --via 10.1.0.4 --metric 9 --may-exist")
    assert lab("dumm-iface route list a -o via,iface,metric").lines == [
        "10.1.0.3\ta-eth1\t-",
        "10.1.0.4\ta-eth1\t9",
    ]


def test_working_set_that_exists(lab: Lab, tmp_path: Path, packs: Path) -> None:
    """Its default kernel and master can be changed, its namespaces cannot."""
    isolated = json.loads((lab.directory / "state.json").read_text())["isolated"]
    other = "--host-net" if isolated else "--isolated"
    if not isolated or os.geteuid() == 0:
        done = lab(f"dumm-fs init --may-exist {other} --kernel {SUITES[1]}", status=4)
        assert done.err.startswith(f"dumm-fs: the working set in '{lab.directory}' ")
    lab(f"dumm-fs init --may-exist --kernel {SUITES[1]}")
    assert (lab.directory / "linux").resolve() == (packs / "dumm/kernels" / SUITES[1]).resolve()
    lab("dumm-guest create a")
    lab("dumm-guest create b --master busybox")
    (tmp_path / "small/bin").mkdir(parents=True)
    (tmp_path / "small/only-here").touch()
    lab(f"dumm-fs init --may-exist --master {tmp_path / 'small'}")
    assert (lab.mounted("a") / "only-here").exists()
    assert not (lab.mounted("b") / "only-here").exists()
    lab("dumm-fs init --may-exist --master nonesuch", status=3)
    (lab.directory / "master").unlink()
    (lab.directory / "master").mkdir()
    lab("dumm-fs init --may-exist --master busybox", status=4)


def test_what_differs_is_said(lab: Lab, tmp_path: Path) -> None:
    lab("dumm-guest create a b")
    (lab.mounted("a") / "root/note").write_text("one\n")
    lab("dumm-fs template save T")
    lab(f"dumm-fs commit a {tmp_path / 'layer'}")
    lab("dumm-fs template save T --may-exist")
    lab(f"dumm-fs commit a {tmp_path / 'layer'} --may-exist")
    (lab.mounted("a") / "root/note").write_text("two\n")
    done = lab("dumm-fs template save T --may-exist", status=4)
    assert done.err.splitlines()[0] == (
        "dumm-fs: template 'T' already exists, and '/root/note' of guest 'a' differs from it"
    )
    done = lab(f"dumm-fs commit a {tmp_path / 'layer'} --may-exist", status=4)
    assert done.err == (
        f"dumm-fs: '{tmp_path / 'layer'}' already exists, and '/root/note' of guest 'a' differs "
        "from it\n"
    )
    lab("dumm-iface create a-eth0 --address fd00::1/64")
    done = lab("dumm-iface address add a-eth0 fd00::1/48 --may-exist", status=4)
    assert done.err == "dumm-iface: 'a-eth0' already has the address 'fd00::1/64'\n"


def test_layers_stay_where_they_are(lab: Lab, tmp_path: Path) -> None:
    one, two = tmp_path / "x/one", tmp_path / "x/two"
    lab("dumm-guest create a")
    for _ in range(2):
        for layer in (one, two):
            lab(f"dumm-fs overlay add a {layer} --create --may-exist")
    assert lab("dumm-fs overlay list a -q").lines == [str(two), str(one)]
    lab(f"dumm-fs overlay add a {one}")
    assert lab("dumm-fs overlay list a -q").lines == [str(one), str(two)]
    # A failure leaves no directory behind.
    lab(f"dumm-fs overlay add nobody {tmp_path}/y/z --create", status=3)
    lab(f"dumm-fs overlay add a {lab.directory}/run/y --create", status=2)
    assert not (tmp_path / "y").exists()
    assert not (lab.directory / "run/y").exists()
    lab("dumm-fs template load ../x --create", status=2)
    lab("dumm-fs template load T", status=3)
    lab("dumm-fs template load T --create")
    (lab.mounted("a") / "note").touch()
    assert (lab.directory / "templates/T/a/note").exists()


def test_guests_directory_that_was_copied_in_is_adopted(lab: Lab) -> None:
    lab("dumm-guest create a")
    (lab.mounted("a") / "note").write_text("hello\n")
    (lab.mounted("a") / "etc/passwd").unlink()
    lab("cp -a host/a host/b")
    lab("dumm-guest create b")
    assert (lab.mounted("b") / "note").read_text() == "hello\n"
    assert not (lab.mounted("b") / "etc/passwd").exists()
    assert "D /etc/passwd" in lab("dumm-fs diff b").lines


# ---- running guests ----


@pytest.mark.uml
def test_running_guests(lab: Lab, tmp_path: Path) -> None:
    lab.batch("guest create a b", "bridge create lan0", "bridge create lan1")
    lab("dumm-iface create a-eth0 --bridge lan0 --address 10.0.0.1/24")
    lab("dumm-iface create b-eth0 --bridge lan1 --address 10.0.0.2/24")
    lab("dumm-guest start a b --may-run")
    lab("dumm-guest start a b --may-exist --wait booted")
    lab("dumm-guest start a", status=4)
    twice = Twice(lab, {})
    # It moves to the other segment, and gets another address there.
    twice("dumm-iface create a-eth0 --may-exist --bridge lan1 --address 10.0.0.3/24")
    lab("dumm-guest exec a -- ping -c 1 -W 5 10.0.0.2")
    assert lab("dumm-iface address list a-eth0 --live -q").lines[0] == "10.0.0.3/24"
    twice("dumm-iface create a-eth0 --may-exist --mtu 1300 --mac 02:00:00:00:00:77")
    assert lab("dumm-iface show a-eth0 -o live_mac,live_mtu").out == "02:00:00:00:00:77\t1300\n"
    twice("dumm-iface route add a-eth0 10.9.0.0/16 --via 10.0.0.2 --may-exist")
    twice("dumm-iface route add a-eth0 10.9.0.0/16 --via 10.0.0.9 --may-exist")
    live = lab("dumm-iface route list a --live -o dest,via").lines
    assert [line for line in live if "10.9" in line] == ["10.9.0.0/16\t10.0.0.9"]
    done = lab("dumm-guest create a --may-exist --memory 96M")
    assert done.err == "dumm-guest: guest 'a' is running: this takes effect at its next start\n"
    twice.lab("dumm-guest create a --may-exist --memory 96M --start")
    # Whatever they are connected to is taken away; they keep running.
    lab(f"dumm-fs overlay add --all {tmp_path / 'layer'} --create")
    lab("dumm-fs template load T --create")
    lab("dumm-iface rule add a --from 10.9.0.0/16 --table 9")
    lab("dumm-guest exec a -- sh -c 'echo >/note'")
    twice("dumm-fs clear")
    for words in ("iface list -q", "bridge list -q", "fs overlay list a -q", "iface rule list a"):
        assert lab(f"dumm-{words}").out.count("10.9") == 0
    assert lab("dumm-fs template list -o name,loaded").out == "T\tno\n"
    assert lab("dumm-guest exec a -- sh -c 'test ! -e /note; ls /sys/class/net'").out == "lo\n"
    lab("dumm-guest pause b")
    done = lab("dumm-guest start a b --may-run", status=4)
    assert done.err == "dumm-guest: guest 'b' is paused\n"
    twice("dumm-guest stop a b --if-running")
    twice("dumm-guest stop a nobody --if-exists")
