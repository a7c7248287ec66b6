"""The plugin for pytest, as a project of somebody else uses it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from support import PATIENCE, TOP
from support.checks import until

grouped = pytest.mark.xdist_group("plugin")

LAB_FILE = """
fs init --isolated
bridge create lan0
guest create alice bob --memory 64M
iface create alice-eth0 --bridge lan0 --address 10.0.0.1/24
iface create bob-eth0 --bridge lan0 --address 10.0.0.2/24
"""

TESTS = """
import os, pytest

def test_ping(lab):
    assert lab.guest("alice").run(["ping", "-c1", "10.0.0.2"]).returncode == 0

def test_lab_is_used_by_the_whole_module(lab, guest):
    carol = guest("carol", memory="64M")
    lab.iface("carol-eth0").create(bridge="lan0", addresses=["10.0.0.3/24"])
    carol.run(["ping", "-c1", "10.0.0.1"], check=True)
    guest("dave", start=False)

def test_guests_of_a_test_are_gone(lab):
    assert [each.name for each in lab.guests()] == ["alice", "bob"]

@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.scenario("night")
def test_scenarios_are_reset(scenario, time):
    alice = scenario.guest("alice")
    assert alice.run(["cat", "/root/x"]).returncode == 1
    alice.write_text("/root/x", "x")
    scenario.iface("alice-eth0").shape(delay="5")
    scenario.iface("bob-eth0").disconnect()
    scenario.bridge("new").create()
    scenario.guest("bob").stop()

def test_after_scenarios(lab):
    assert [each.name for each in lab.bridges()] == ["lan0"]
    assert lab.guest("alice").run(["ping", "-c1", "10.0.0.2"]).returncode == 0

@pytest.mark.scenario(reset="reboot")
def test_reboot(scenario):
    scenario.guest("alice").run(["sh", "-c", "echo 1 >/tmp/x; sleep 1000 &"])

def test_after_reboot(lab):
    assert lab.guest("alice").run(["pidof", "sleep"]).returncode == 1

@pytest.mark.needs("kernel:VETH", "kernel:hostfs_or_so", "program:sh")
def test_kernel_that_is_not_there(lab):
    raise AssertionError

@pytest.mark.needs("program:swanctl")
def test_program_that_is_not_there(lab):
    raise AssertionError

@pytest.mark.needs("host:no-such-program")
def test_program_of_the_host_that_is_not_there():
    raise AssertionError

@pytest.mark.needs("kernel:VETH", "program:ping", "host:sh")
def test_all_that_is_needed(lab):
    pass
"""

FAILING = """
import pytest

@pytest.mark.capture("icmp")
def test_that_fails(lab):
    alice = lab.guest("alice")
    alice.run(["sh", "-c", "echo to the console >/dev/console; echo x >/root/made"])
    alice.run(["ping", "-c1", "10.0.0.2"], check=True)
    assert not "reached"

@pytest.mark.capture
def test_that_passes(lab):
    pass

@pytest.mark.needs("something")
def test_with_wrong_needs(lab):
    pass

@pytest.mark.scenario(reset="never")
def test_with_wrong_reset(scenario):
    pass
"""


class Done(NamedTuple):
    status: int
    text: str
    seconds: float


class Project:
    """A project with tests that use labs."""

    def __init__(self, place: Path, packs: Path) -> None:
        self.place = place
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
            "XDG_CACHE_HOME": str(packs),
            "PYTEST_ADDOPTS": f"-p no:cacheprovider --basetemp={place}/tmp",
        }
        self.argv = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "--rootdir", "."]
        (place / "pytest.ini").write_text(
            "[pytest]\naddopts = --strict-markers\ndumm_kernel = sid\ndumm_master = busybox\n"
        )

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.place / f"{name}.py").write_text(text)
            (self.place / f"{name}.dumm").write_text(LAB_FILE)

    def run(self, *options: str) -> Done:
        begun = time.monotonic()
        done = subprocess.run(
            [*self.argv, *options],
            cwd=self.place,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout, time.monotonic() - begun)

    def left(self) -> list[str]:
        """Processes of its labs."""
        found = subprocess.run(
            ["ps", "-ewwo", "args"], stdout=subprocess.PIPE, text=True, check=True
        )
        return [line for line in found.stdout.splitlines() if f"{self.place}/tmp/" in line]


@pytest.fixture
def project(tmp_path: Path, packs: Path) -> Project:
    return Project(tmp_path, packs)


@pytest.mark.uml
@grouped
def test_fixtures_and_markers(project: Project) -> None:
    project.write(test_it=TESTS)
    done = project.run("-rs")
    assert done.status == 0, done.text
    assert re.search(r"= 9 passed, 3 skipped in ", done.text)
    for reason in (
        "the kernel of guest 'alice' lacks hostfs_or_so",
        "no guest has a program 'swanctl'",
        "the host has no program 'no-such-program'",
    ):
        assert reason in done.text
    assert project.left() == []


@pytest.mark.uml
@grouped
def test_failures_are_reported(project: Project) -> None:
    project.write(test_it=FAILING)
    done = project.run("--dumm-report", "report")
    assert done.status == 1
    assert re.search(r"= 2 failed, 1 passed, 1 error in ", done.text), done.text
    for text in (
        "- console of guest 'alice' -",
        "to the console",
        "- diff of guest 'alice' -",
        "A /root/made",
        "- capture -",
        "needs: 'something' is not one of kernel:NAME, program:NAME, host:NAME",
        "the reset of a scenario is one of template, reboot, not 'never'",
    ):
        assert text in done.text
    (place,) = (project.place / "report").glob("*that_fails")
    assert sorted(path.name for path in place.iterdir()) == [
        *("alice.console", "alice.diff", "bob.console", "bob.diff", "capture.pcapng"),
    ]
    seen = subprocess.run(
        ["tcpdump", "-nr", place / "capture.pcapng"], capture_output=True, text=True, check=True
    )
    assert "10.0.0.1 > 10.0.0.2: ICMP echo request" in seen.stdout
    assert "to the console" in (place / "alice.console").read_text()
    # Without the option, nothing is written.
    again = project.run("-k", "that_fails")
    assert "packets; --dumm-report DIR keeps them" in again.text
    made = {path.name for path in project.place.iterdir() if path.is_dir()}
    assert made - {"__pycache__"} == {"report", "tmp"}
    assert project.left() == []


@pytest.mark.uml
@grouped
def test_labs_of_a_session_and_of_workers(project: Project) -> None:
    one = "def test_it(lab):\n    print('lab', lab.directory)\n"
    for name in ("a", "b"):
        (project.place / f"test_{name}.py").write_text(one)
    (project.place / "all.dumm").write_text(LAB_FILE)
    with (project.place / "pytest.ini").open("a") as file:
        file.write("dumm_lab = all.dumm\ndumm_scope = session\n")
    done = project.run("-s")
    assert len(set(re.findall(r"lab (/\S+)", done.text))) == 1, done.text
    assert done.status == 0
    done = project.run("-n", "2", "--dist", "each", "-rP")
    assert done.status == 0, done.text
    assert len(set(re.findall(r"lab (/\S+)", done.text))) == 2
    done = project.run("-o", "dumm_scope=class")
    assert "dumm_scope is one of module, session, not 'class'" in done.text
    assert done.status != 0


@pytest.mark.uml
@grouped
def test_killed_run_leaves_nothing(project: Project) -> None:
    project.write(
        test_it="import time\ndef test_it(lab):\n    open('here', 'w')\n    time.sleep(999)\n"
    )
    process = subprocess.Popen(project.argv, cwd=project.place, env=project.env)
    until(lambda: (project.place / "here").exists(), "the test runs")
    assert project.left()
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not project.left(), "everything has ended")


def test_it_costs_nothing_when_unused() -> None:
    code = (
        "import sys, dumm_tools.testing.plugin\n"
        "print([m for m in sys.modules if m.startswith('dumm_tools')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = ["dumm_tools", "dumm_tools.testing", "dumm_tools.testing.plugin"]
    assert done.stdout.strip() == str(ours)


def test_it_is_an_entry_point(tmp_path: Path) -> None:
    assert "dumm = dumm_tools.testing.plugin" in (TOP / "setup.cfg").read_text()
    (tmp_path / "pytest.ini").touch()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-p", "no:cacheprovider"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert re.search(r"^scenario -- .*testing/plugin", done.stdout, re.MULTILINE), done.stdout
