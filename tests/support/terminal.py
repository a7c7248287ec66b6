"""Terminals, as users have them."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from support import PATIENCE
from support.labs import Lab


class Terminal:
    """A command on a terminal of its own, as a user has it."""

    def __init__(self, lab: Lab, argv: Sequence[str | Path], size: tuple[int, int]) -> None:
        self.master, slave = pty.openpty()
        self.resize(*size)
        # Ctrl-C also discards output, if the kernel gets to it after the program has answered.
        modes = termios.tcgetattr(slave)
        modes[3] |= termios.NOFLSH
        termios.tcsetattr(slave, termios.TCSANOW, modes)
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
        """Read what the terminal shows; False if nothing came."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        self.seen += os.read(self.master, 65536)
        return True

    def expect(self, text: bytes, seconds: float = PATIENCE) -> None:
        """Wait until `text` is shown, and discard everything up to it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} was not shown: {self.seen!r}"
            self.read(left)
        self.seen = self.seen.partition(text)[2]

    def wait(self, seconds: float = PATIENCE) -> int:
        """The command's exit status; its remaining output is in `seen`."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running; shown: {self.seen!r}"
            self.read(0.02)
        while self.read(0.05):
            pass
        return self.process.returncode

    def is_restored(self) -> bool:
        """Whether the terminal's settings are those from before the command."""
        return termios.tcgetattr(self.slave) == self.before


def on_terminal(lab: Lab, argv: Sequence[str | Path], size: tuple[int, int] = (24, 80)) -> Terminal:
    """Start a command on a new terminal."""
    return Terminal(lab, argv, size)
