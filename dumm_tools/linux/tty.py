"""Terminals: raw mode that is always undone, and their size (termios(3), tty_ioctl(4))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def size() -> tuple[int, int]:
    """Rows and columns of the terminal we are on; 24 by 80 when there is none."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(fd)
            if lines and columns:
                return lines, columns
    return 24, 80


@contextlib.contextmanager
def raw(fd: int, wanted: bool = True) -> Iterator[None]:
    """Put a terminal into raw mode for the block; nothing happens when `fd` is none."""
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
        # Drain: what the program wrote last is shown in the mode it was written for.
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def kept(fd: int) -> Iterator[None]:
    """Put a terminal's mode back after the block, whatever a program that was killed in it left."""
    import termios

    saved = termios.tcgetattr(fd)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)
