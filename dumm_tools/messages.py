"""Standard error: messages, hints, progress. Nothing else writes to it.

Any of these may contain text from a guest, an archive or a file name, which must not control the
terminal: control characters are escaped here, on output, wherever the text comes from.
"""

from __future__ import annotations

import os
import sys

_CLEAR = "\r\x1b[K"
#: The width of a terminal that does not know its own.
_COLUMNS = 80


def say(*lines: str, over: bool = False) -> None:
    """Print lines; `over` replaces a progress line, if there is one."""
    shown = "".join(f"{printable(line)}\n" for line in lines)
    _write(f"{_CLEAR}{shown}" if over and on_terminal() else shown)


def progress(text: str) -> None:
    """Show a line in place of the previous one, on a terminal, cut to the terminal's width: the
    rest of one that wraps would stay."""
    _write(f"{_CLEAR}{cut(printable(text), _columns() - 1)}")


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or _COLUMNS
    except OSError:
        return _COLUMNS


def cut(text: str, columns: int) -> str:
    """The beginning of a text that fits into so many columns; '...' stands for the rest."""
    if _width(text) <= columns:
        return text
    dots = "..."[: max(0, columns)]
    while text and _width(text) > columns - len(dots):
        text = text[:-1]
    return text + dots


def _width(text: str) -> int:
    """The columns that a text takes on a terminal: East Asian characters take two, combining ones
    none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)


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
