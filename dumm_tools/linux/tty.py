"""Terminals: raw mode that is always undone, and the window size (termios(3), tty_ioctl(4))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def size() -> tuple[int, int]:
    """Rows and columns of our terminal; 24 by 80 if there is none."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(fd)
            if lines and columns:
                return lines, columns
    return 24, 80


@contextlib.contextmanager
def raw(fd: int, wanted: bool = True) -> Iterator[None]:
    """Put a terminal into raw mode for the duration of the block; do nothing if `fd` is not a
    terminal."""
    if not wanted or not os.isatty(fd):
        yield
        return
    import termios
    import tty

    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        # Drain: the last output is displayed in the mode that it was written for.
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def kept(fd: int) -> Iterator[None]:
    """Restore a terminal's mode after the block, even if a killed program has changed it."""
    import termios

    saved = termios.tcgetattr(fd)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)
