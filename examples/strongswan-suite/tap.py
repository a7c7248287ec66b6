"""Results as TAP, testanything.org, version 14: one line for each test, as soon as it has ended."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

import pytest


class Tap:
    """A plugin for pytest that writes TAP to a file."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._count = 0
        self._write("TAP version 14")

    def _write(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of up to three reports of a test: those of setup and teardown count if they say
        something new."""
        if report.when != "call" and report.passed:
            return
        self._count += 1
        end = f"{self._count} - {report.nodeid}"
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            self._write(f"ok {end} # SKIP {reason.removeprefix('Skipped: ')}")
            return
        self._write(f"{'ok' if report.passed else 'not ok'} {end} # time={report.duration:.1f}s")
        if report.failed:
            for line in report.longreprtext.splitlines():
                self._write(f"# {line}")

    def pytest_sessionfinish(self) -> None:
        """The plan, which may be at the end: with pytest-xdist nobody knows it earlier."""
        self._write(f"1..{self._count}")


def register(config: pytest.Config, path: str | None) -> None:
    """Write TAP to a file, or to standard output for -, unless this is a worker of pytest-xdist.
    UsageError."""
    if path is None or hasattr(config, "workerinput"):
        return
    try:
        file = sys.stdout if path == "-" else Path(path).open("w")  # noqa: SIM115
    except OSError as e:
        raise pytest.UsageError(f"--tap: cannot write '{path}': {e.strerror}") from None
    config.pluginmanager.register(Tap(file), "tap")
