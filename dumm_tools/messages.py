"""Standard error: messages, hints, progress. Nothing else writes to it.

Any of these may contain text from a guest, an archive or a file name, which must not control the
terminal: control characters are escaped here, on output, wherever the text comes from.
"""

from __future__ import annotations

import os
import sys

_CLEAR = "\r\x1b[K"


def say(*lines: str, over: bool = False) -> None:
    """Print lines; `over` replaces a progress line, if there is one."""
    shown = "".join(f"{printable(line)}\n" for line in lines)
    _write(f"{_CLEAR}{shown}" if over and on_terminal() else shown)


def progress(text: str) -> None:
    """Show a line in place of the previous one, on a terminal."""
    _write(f"{_CLEAR}{printable(text)}")


def clear() -> None:
    """Remove the progress line."""
    _write(_CLEAR)


def on_terminal() -> bool:
    """Whether progress can be shown to somebody."""
    return sys.stderr.isatty()


def printable(text: str) -> str:
    """`text` with unprintable characters escaped, including bytes that are not valid UTF-8."""
    return text if text.isprintable() else "".join(map(_spelt, text))


def _spelt(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    # Invalid UTF-8 is represented by surrogates (PEP 383); 0x9b starts an escape sequence.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(char)[1:-1]


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # a full disk under stderr must not change the exit status, now or at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
