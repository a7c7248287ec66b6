"""The CI file among the examples. test_examples.py runs tests as it does, and test_docs.py
looks for its commands."""

from __future__ import annotations

import re
import subprocess

import yaml
from support import PATIENCE, workflow


def test_it_is_a_workflow() -> None:
    found = yaml.safe_load(workflow.FILE.read_text())
    # YAML 1.1 reads the key `on` as true.
    assert set(found) == {"name", True, "permissions", "env", "jobs"}
    assert set(found["jobs"]["labs"]) == {"runs-on", "timeout-minutes", "steps"}
    for step in workflow.steps():
        assert ("uses" in step) != ("run" in step), step
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))
        assert set(step) <= {"name", "id", "if", "uses", "with", "run", "working-directory"}


def test_scripts_of_steps_are_shell() -> None:
    for step in workflow.steps():
        # GitHub runs them so, and fails a step at its first failure.
        argv = ["bash", "-e", "-n", "-c", step.get("run", "")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")


def test_steps_agree_about_names() -> None:
    steps, text = workflow.steps(), workflow.FILE.read_text()
    ids = {step["id"] for step in steps if "id" in step}
    assert set(re.findall(r"steps\.(\w+)\.", text)) == ids
    [kept] = [step["with"]["path"] for step in steps if step.get("id") in ids]
    for verb in ("save", "restore"):
        [file] = re.findall(rf"dumm-fs -C \S+ {verb} (\S+)", text)
        assert file == kept
    [report] = [step["with"]["path"] for step in steps if step.get("name") == "Keep the report"]
    [tests] = [step for step in steps if step.get("name") == "Run the tests"]
    assert report == f"{tests['working-directory']}/report"
    assert "--dumm-report report" in tests["run"]


def test_it_keeps_the_kernel_and_the_master_that_it_makes() -> None:
    text = workflow.script("Get a kernel and a master, and keep them")
    [suite] = re.findall(r"kernel fetch --suite (\w+)", text)
    [master] = re.findall(r"master build debian .*--name (\w+)", text)
    assert f"init --kernel {suite} --master {master}" in text
    assert "--with-masters" in text


def test_it_checks_the_machine_once_there_is_something_to_start() -> None:
    """Without a kernel and a master, `dumm-fs check` fails."""
    names = [step.get("name", "") for step in workflow.steps()]
    needed = ["Get a kernel and a master, and keep them", "Use what an earlier run has kept"]
    assert all(names.index(each) < names.index("Check the machine") for each in needed)
