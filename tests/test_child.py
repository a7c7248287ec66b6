"""Child processes that report their errors."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dumm_tools import errors
from dumm_tools.errors import DummError
from dumm_tools.linux import child


def fail_with(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DummError("no such luck", hint="none"), "no such luck"),
        (OSError(13, "Permission denied", "/a/file"), "Permission denied"),
        (ValueError("odd"), "internal error: ValueError: odd"),
    ],
)
def test_failing_function_reports_its_error(error: Exception, text: str) -> None:
    assert child.run(fail_with(error), errors.explain) == text


def test_succeeding_function_reports_nothing(tmp_path: Path) -> None:
    assert child.run((tmp_path / "made").mkdir, errors.explain) == ""
    assert (tmp_path / "made").is_dir()


def test_killed_child_counts_as_failed() -> None:
    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert child.run(end, errors.explain) == "ended by signal 9"


def test_child_leaves_no_descriptor_or_zombie() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    found = child.fork(fail_with(DummError("no")), errors.explain)
    assert found.wait() == "no"
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(found.pid, 0)


def run_program(script: str, *descriptors: int) -> str:
    """Run a Python script in which `first` is the number of the first descriptor, and `last` that
    of its error pipe."""

    def command(first: int) -> list[str]:
        head = f"import os, sys; first, last = {first}, {first + len(descriptors)}\n"
        return [sys.executable, "-I", "-c", head + script]

    return child.spawn(sys.executable, descriptors, command, {}).wait()


def test_program_gets_consecutive_descriptors_and_an_error_pipe(tmp_path: Path) -> None:
    files = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "ab"]
    script = "os.write(first, b'one'); os.write(first + 1, b'two'); os.write(last, b'no\\n')"
    said = run_program(script, *files[::-1])
    for fd in files:
        os.close(fd)
    assert said == "no"
    assert [(tmp_path / name).read_text() for name in "ab"] == ["two", "one"]


def test_program_inherits_no_other_descriptors() -> None:
    fd = os.open("/dev/full", os.O_RDONLY)
    script = "os.write(last, ' '.join(os.listdir('/proc/self/fd')).encode())"
    opened = set(map(int, run_program(script, fd).split()))
    os.close(fd)
    assert fd not in opened
    assert {0, 1, 2} < opened


def test_program_that_fails_silently_counts_as_failed() -> None:
    assert run_program("sys.exit(3)") == "exit status 3"


def test_missing_program_leaves_no_open_descriptors(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        child.spawn(str(tmp_path / "none"), [], lambda _: ["none"], {})
    assert sorted(os.listdir("/proc/self/fd")) == before
