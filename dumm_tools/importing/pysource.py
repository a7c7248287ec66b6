"""The text of a script, and what is said about it: notes with the line that they are about."""

from __future__ import annotations

import ast
import re

from dumm_tools.errors import Usage

#: Longest part of a line in a note.
_SHOWN = 100
_LINE_BREAK = re.compile(rb"\r\n|\r|\n")


class Source:
    """A script. Usage if it is not Python."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        try:
            self.tree = ast.parse(text)
            self._lines = _LINE_BREAK.split(text.encode())
        except SyntaxError as e:
            raise Usage(f"{file}:{e.lineno or 1}: not Python: {e.msg}") from None
        except (ValueError, RecursionError, MemoryError):
            raise Usage(f"{file}: not Python") from None
        #: The place and the text of each note, once.
        self.notes: dict[tuple[str, str], None] = {}
        self._mentions: dict[tuple[ast.stmt, bytes], bool] = {}

    def where(self, node: ast.AST) -> str:
        """The place of a node, for messages."""
        return f"{self.file}:{getattr(node, 'lineno', 1)}"

    def note(self, node: ast.AST, text: str) -> None:
        """Note that something is not carried over."""
        self.notes[self.where(node), text] = None

    def not_understood(self, node: ast.AST, more: str = "") -> None:
        """Note that a statement or expression is not understood."""
        self.note(node, f"not understood: {self.shown(node)}{more}")

    def not_carried(self, node: ast.AST) -> None:
        """Note that what a call does is not carried over."""
        self.note(node, f"not carried over: {self.shown(node)}")

    def shown(self, node: ast.AST) -> str:
        """The first line of a node as it is written. Takes as long for a large one as for a small
        one, since a loop may come to it often."""
        first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
        if not 0 < first <= len(self._lines):
            return "a script"
        end = getattr(node, "end_col_offset", 0) if first == last else None
        begin = getattr(node, "col_offset", 0)
        part = self._lines[first - 1][begin : begin + 4 * _SHOWN if end is None else end]
        text = part[: 4 * _SHOWN + 4].decode(errors="replace").strip()
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

    def mentions(self, node: ast.stmt, word: bytes) -> bool:
        """Whether a statement contains a word, not counting comments."""
        key = (node, word)
        if key not in self._mentions:
            rows = self._lines[node.lineno - 1 : node.end_lineno]
            self._mentions[key] = any(word in row.partition(b"#")[0] for row in rows)
        return self._mentions[key]
