"""What the tests of running guests share: terminals, waiting, bytes that are not text."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from conftest import PATIENCE, Lab

#: Each byte value many times, in no order that a window or a block could hide.
NOISE = bytes((7 * n + n // 256 + n // 65536) % 256 for n in range(1 << 18))


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so after {seconds} s: {what}"
        time.sleep(0.01)


def has_open(pid: int, path: Path) -> bool:
    """Has a process opened a file?"""
    with contextlib.suppress(OSError):
        return any(os.readlink(fd) == str(path) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def unread(fd: int) -> int:
    """Bytes that wait in a pipe or a terminal."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


def state_of(lab: Lab, name: str) -> str:
    """What `list` says of a guest."""
    return lab(f"dumm-guest show -o state {name}").out.strip()


def inside(path: Path) -> str:
    """What a path of `Lab.mounted` is called in the lab's own mount namespace."""
    return re.sub(r"^/proc/\d+/root", "", str(path))


def pid_of(lab: Lab, name: str) -> int:
    """The process of a guest's kernel."""
    return int(lab(f"dumm-guest show -o pid {name}").out)


def processes(lab: Lab, name: str) -> list[str]:
    """The names of the user processes of a guest, but for its first and the one that looks."""
    found = lab(["dumm-guest", "exec", name, "--", "ps", "-o", "pid,args"]).lines[1:]
    rows = [line.split(maxsplit=1) for line in found]
    # Kernel threads stand in brackets.
    return [r[1] for r in rows if r[0] != "1" and r[1][0] != "[" and r[1] != "ps -o pid,args"]


def one_line_error(text: str, tool: str = "dumm-guest") -> str:
    """Check the form of an error: one line, and hints behind it; return the message."""
    first, _, rest = text.rstrip("\n").partition("\n")
    assert first.startswith(f"{tool}: "), text
    assert all(line.startswith(f"{tool}: hint: ") for line in rest.splitlines()), text
    assert "Traceback" not in text
    return first.removeprefix(f"{tool}: ")


class Terminal:
    """A command on a terminal of its own, as a user has it."""

    def __init__(self, lab: Lab, argv: Sequence[str | Path], size: tuple[int, int]) -> None:
        self.master, slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [*lab.prefix, *(os.fspath(a) for a in argv)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**lab.env, "TERM": "xterm-test"},
            cwd=lab.directory,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.slave = slave

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size, as a terminal emulator does."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if hasattr(self, "process"):
            self.process.send_signal(signal.SIGWINCH)

    def type(self, text: bytes) -> None:
        """Press keys."""
        os.write(self.master, text)

    def read(self, seconds: float) -> bool:
        """Take what the terminal shows; False when nothing came."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        self.seen += os.read(self.master, 65536)
        return True

    def expect(self, text: bytes, seconds: float = PATIENCE) -> None:
        """Wait until `text` is shown, and forget all up to it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} was not shown: {self.seen!r}"
            self.read(left)
        self.seen = self.seen.partition(text)[2]

    def wait(self, seconds: float = PATIENCE) -> int:
        """The command's exit status; what it still shows is in `seen`."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running; shown: {self.seen!r}"
            self.read(0.02)
        while self.read(0.05):
            pass
        return self.process.returncode

    def is_restored(self) -> bool:
        """Are the terminal's settings those from before the command?"""
        return termios.tcgetattr(self.slave) == self.before


def on_terminal(lab: Lab, argv: Sequence[str | Path], size: tuple[int, int] = (24, 80)) -> Terminal:
    """Start a command on a new terminal."""
    return Terminal(lab, argv, size)
