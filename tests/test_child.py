"""Children that report what went wrong."""

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
def test_a_function_that_fails_says_why(error: Exception, text: str) -> None:
    assert child.run(fail_with(error), errors.explain) == text


def test_a_function_that_succeeds_says_nothing(tmp_path: Path) -> None:
    assert child.run((tmp_path / "made").mkdir, errors.explain) == ""
    assert (tmp_path / "made").is_dir()


def test_a_child_that_is_killed_has_failed() -> None:
    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert child.run(end, errors.explain) == "ended by signal 9"


def test_nothing_is_left_of_a_child() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    found = child.fork(fail_with(DummError("no")), errors.explain)
    assert found.wait() == "no"
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(found.pid, 0)


def run_program(script: str, *descriptors: int) -> str:
    """Run a Python script, in which `first` is the number of the first descriptor, and `last` that
    of its error pipe."""

    def command(first: int) -> list[str]:
        head = f"import os, sys; first, last = {first}, {first + len(descriptors)}\n"
        return [sys.executable, "-I", "-c", head + script]

    return child.spawn(sys.executable, descriptors, command, {}).wait()


def test_a_program_has_its_descriptors_in_a_row_and_an_error_pipe(tmp_path: Path) -> None:
    files = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "ab"]
    script = "os.write(first, b'one'); os.write(first + 1, b'two'); os.write(last, b'no\\n')"
    said = run_program(script, *files[::-1])
    for fd in files:
        os.close(fd)
    assert said == "no"
    assert [(tmp_path / name).read_text() for name in "ab"] == ["two", "one"]


def test_a_program_has_nothing_else_of_ours() -> None:
    fd = os.open("/dev/full", os.O_RDONLY)
    script = "os.write(last, ' '.join(os.listdir('/proc/self/fd')).encode())"
    opened = set(map(int, run_program(script, fd).split()))
    os.close(fd)
    assert fd not in opened
    assert {0, 1, 2} < opened


def test_a_program_that_ends_badly_without_a_word_has_failed() -> None:
    assert run_program("sys.exit(3)") == "exit status 3"


def test_a_program_that_is_not_there_leaves_nothing_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        child.spawn(str(tmp_path / "none"), [], lambda _: ["none"], {})
    assert sorted(os.listdir("/proc/self/fd")) == before
