"""The language of batches and lab files: words, quotes, comments, continued lines, here-documents.

As in a shell, but without anything that a shell would expand. Knows nothing of commands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from dumm_tools.errors import Usage

#: Printed before a position in standard input.
STDIN = "<stdin>"
_BLANK = re.compile(r"[ \t\r\n\v\f]*")
_PLAIN = re.compile(r"[^ \t\r\n\v\f'\"\\]+")
_DOUBLE = re.compile(r'[^"\\]+')
#: A backslash at the end of a line.
_CONTINUED = re.compile(r"\\\r?\n?\Z")
#: A here-document; the word with its end follows.
_DOCUMENT = re.compile(r"<<(-?)[ \t]*(?=[^ \t\r\n\v\f<#])")
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_BOM = "\ufeff"
#: Longest part of a statement in a message.
_SHOWN = 200


class Word(NamedTuple):
    """A word and where it begins; both numbers count from 1."""

    text: str
    line: int
    column: int


class Statement(NamedTuple):
    """The words of a command, its here-document if it has one, and its first line as written."""

    words: tuple[Word, ...]
    document: bytes | None
    source: str

    @property
    def texts(self) -> list[str]:
        """The words alone."""
        return [word.text for word in self.words]

    @property
    def shown(self) -> str:
        """The statement in a message."""
        return shortened(self.source.strip())


def shortened(text: str) -> str:
    """A statement, as far as messages show it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class Malformed(Usage):
    """Something that is not a statement, and its place."""

    def __init__(self, message: str, line: int, column: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.line, self.column = line, column


class _End(Exception):
    """There are no more lines."""


class _Document(NamedTuple):
    """A here-document that was announced: the line after it, and whether its tabs are removed."""

    end: str
    strip: bool
    line: int
    column: int


class Reader:
    """Reads statements. `more` returns the next line, or None at the end; it is told whether the
    line continues a statement."""

    def __init__(self, more: Callable[[bool], str | None]) -> None:
        self._more = more
        self._number = 0
        self._text, self._at = "", 0
        self._documents: list[_Document] = []
        self._fault: Malformed | None = None

    def next(self) -> Statement | None:
        """The next statement that has words, None at the end. Malformed is raised after the last
        line of what is not a statement, with its here-documents: none of it is read as another
        statement afterwards."""
        while True:
            try:
                self._fetch(continued=False)
            except _End:
                return None
            source = self._text
            self._documents, self._fault = [], None
            words = self._words()
            texts = [self._read_document(each) for each in self._documents]
            if self._documents and not words:
                place = self._documents[0]
                self._refuse("a here-document without a command", place.line, place.column)
            if self._fault is not None:
                raise self._fault
            if words:
                return Statement(tuple(words), texts[0] if texts else None, source)

    def _refuse(self, message: str, line: int, column: int) -> None:
        """Note why this is not a statement; the first reason counts."""
        self._fault = self._fault or Malformed(message, line, column)

    def _fetch(self, *, continued: bool) -> None:
        text = self._more(continued)
        if text is None:
            raise _End
        self._number += 1
        if self._number == 1:
            text = text.removeprefix(_BOM)
        self._text, self._at = text, 0

    def _words(self) -> list[Word]:
        words: list[Word] = []
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at == len(self._text) or self._text[self._at] == "#":
                return words
            if _CONTINUED.match(self._text, self._at):
                if not self._continue():
                    return words
                continue
            line, column = self._number, self._at + 1
            if found := _DOCUMENT.match(self._text, self._at):
                self._at = found.end()
                if self._documents:
                    self._refuse("a second here-document", line, column)
                end = self._word(line, column)
                self._documents.append(_Document(end, bool(found[1]), line, column))
                continue
            words.append(Word(self._word(line, column), line, column))

    def _continue(self) -> bool:
        """Go on with the next line; False if there is none."""
        try:
            self._fetch(continued=True)
        except _End:
            self._text, self._at = "", 0
            return False
        return True

    def _word(self, line: int, column: int) -> str:
        parts: list[str] = []
        while self._at < len(self._text):
            if found := _PLAIN.match(self._text, self._at):
                parts.append(found[0])
                self._at = found.end()
                continue
            sign = self._text[self._at]
            if sign == "'":
                parts += self._single()
            elif sign == '"':
                parts += self._double()
            elif sign != "\\":
                break
            elif _CONTINUED.match(self._text, self._at):
                if not self._continue():
                    break
            else:
                parts.append(self._text[self._at + 1])
                self._at += 2
        text = "".join(parts)
        if "\0" in text:
            self._refuse("a word contains a NUL byte", line, column)
        return text

    def _single(self) -> list[str]:
        parts, place = [], (self._number, self._at + 1)
        self._at += 1
        while (end := self._text.find("'", self._at)) < 0:
            parts.append(self._text[self._at :])
            if not self._quoted(place):
                return parts
        parts.append(self._text[self._at : end])
        self._at = end + 1
        return parts

    def _double(self) -> list[str]:
        parts, place = [], (self._number, self._at + 1)
        self._at += 1
        while True:
            if found := _DOUBLE.match(self._text, self._at):
                parts.append(found[0])
                self._at = found.end()
            if self._at == len(self._text) or _CONTINUED.match(self._text, self._at):
                if not self._quoted(place):
                    return parts
            elif self._text[self._at] == '"':
                self._at += 1
                return parts
            else:
                following = self._text[self._at + 1]
                parts.append(following if following in '"\\$`' else f"\\{following}")
                self._at += 2

    def _quoted(self, place: tuple[int, int]) -> bool:
        """Go on with the next line of quoted text; False if there is none."""
        if self._continue():
            return True
        self._refuse("no closing quotation", *place)
        return False

    def _read_document(self, document: _Document) -> bytes:
        lines: list[str] = []
        while self._continue():
            text = self._text.lstrip("\t") if document.strip else self._text
            if text.rstrip("\r\n") == document.end:
                break
            lines.append(text)
        else:
            message = f"the here-document has no end: '{document.end}'"
            self._refuse(message, document.line, document.column)
        return os.fsencode("".join(lines))


def of_lines(lines: Iterable[bytes]) -> Reader:
    """A reader of lines of bytes; invalid UTF-8 is passed on unchanged, as by a shell."""
    rest = iter(lines)

    def more(_continued: bool) -> str | None:
        raw = next(rest, None)
        return None if raw is None else os.fsdecode(raw)

    return Reader(more)


def quoted(word: str) -> str:
    """A word as it is written, in quotes if necessary."""
    if _SAFE.fullmatch(word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def written(words: Iterable[str], document: bytes | None = None) -> bytes:
    """A statement as text, with a line break at the end."""
    text = os.fsencode(" ".join(map(quoted, words)))
    if document is None:
        return text + b"\n"
    if document and not document.endswith(b"\n"):
        document += b"\n"
    lines, end = {line.strip() for line in document.split(b"\n")}, b"END"
    number = 1
    while end in lines:
        number += 1
        end = b"END%d" % number
    return b"%s <<'%s'\n%s%s\n" % (text, end, document, end)
