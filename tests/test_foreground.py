"""Programs that a command feeds, and reads from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumm_tools import foreground

#: The message of a file that has been closed.
CLOSED = "I/O operation on closed file"


def failing() -> Iterator[bytes]:
    yield b"some"
    raise ValueError(CLOSED)


def test_failure_of_the_input_reaches_the_caller(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "out").open("wb") as out, pytest.raises(ValueError, match=CLOSED):
        foreground.filtered(["cat"], failing(), out.fileno())
    found = []

    def read(argv: list[str]) -> None:
        with foreground.decompressed(argv, failing()) as fd:
            found.extend([os.read(fd, 100), os.read(fd, 100)])

    for argv in (["cat"], ["sh", "-c", "cat; exit 1"]):
        with pytest.raises(ValueError, match=CLOSED):
            read(argv)
    assert found == [b"some", b""] * 2
    assert capfd.readouterr() == ("", "")
