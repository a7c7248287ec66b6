"""What goes to standard error, which nothing else writes to: messages, hints, progress.

A guest, an archive or a file's name may be part of any of it, and are not for the terminal to
obey: control characters are spelt out here, on the way out, whoever says it.
"""

from __future__ import annotations

import os
import sys

_CLEAR = "\r\x1b[K"


def say(*lines: str, over: bool = False) -> None:
    """Print lines; `over` a line of progress that may stand there."""
    shown = "".join(f"{printable(line)}\n" for line in lines)
    _write(f"{_CLEAR}{shown}" if over and on_terminal() else shown)


def progress(text: str) -> None:
    """Show a line in place of the last one, on a terminal."""
    _write(f"{_CLEAR}{printable(text)}")


def clear() -> None:
    """Take away the line of progress."""
    _write(_CLEAR)


def on_terminal() -> bool:
    """Is there somebody to show a changing line to?"""
    return sys.stderr.isatty()


def printable(text: str) -> str:
    """`text` with what does not print spelt out, bytes that are no text too."""
    return text if text.isprintable() else "".join(map(_spelt, text))


def _spelt(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    # A byte that is no UTF-8 stands there as a surrogate (PEP 383); 0x9b begins an escape sequence.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(char)[1:-1]


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # a full disk behind stderr changes no exit status, now or at our end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
