"""Waiting and comparing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path

from support import PATIENCE

#: Every byte value many times, in no order that a window or a block could hide.
NOISE = bytes((7 * n + n // 256 + n // 65536) % 256 for n in range(1 << 18))


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so after {seconds} s: {what}"
        time.sleep(0.01)


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has opened a file."""
    with contextlib.suppress(OSError):
        return any(os.readlink(fd) == str(path) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def is_waiting(pid: int) -> bool:
    """Whether a process is waiting, and has used no processor time for a while."""

    def looked() -> tuple[str, int]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])

    first = looked()
    time.sleep(0.1)
    return first[0] == "S" and looked() == first


def unread(fd: int) -> int:
    """The number of bytes waiting in a pipe or a terminal."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


def one_line_error(text: str, tool: str = "dumm-guest") -> str:
    """Check the form of an error: one line, followed by hints; return the message."""
    first, _, rest = text.rstrip("\n").partition("\n")
    assert first.startswith(f"{tool}: "), text
    assert all(line.startswith(f"{tool}: hint: ") for line in rest.splitlines()), text
    assert "Traceback" not in text
    return first.removeprefix(f"{tool}: ")
