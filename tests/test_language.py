"""The language of batches and lab files."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumm_tools import language
from dumm_tools.language import Malformed


def read(text: bytes) -> list[language.Statement]:
    reader = language.of_lines(text.splitlines(keepends=True))
    found = []
    while (statement := reader.next()) is not None:
        found.append(statement)
    return found


def words(text: bytes) -> list[list[str]]:
    return [statement.texts for statement in read(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"\n \t\n# all\n   # of it\n", []),
        (b"a b\nc", [["a", "b"], ["c"]]),
        (b"a 'b  c' \"d 'e'\" f\\ g ''\n", [["a", "b  c", "d 'e'", "f g", ""]]),
        (b"a'b'\"c\"d\n", [["abcd"]]),
        (b"a#b #c\n", [["a#b"]]),
        (b"a '#' \\#\n", [["a", "#", "#"]]),
        (b'"a\\"b\\\\c\\$d\\`e\\f"\n', [['a"b\\c$d`e\\f']]),
        (b"a \\\n  b\\\nc\n", [["a", "bc"]]),
        (b"\\\n\\\n a\n", [["a"]]),
        (b"a \\\r\n b\r\nc\r\n", [["a", "b"], ["c"]]),
        (b"a \\", [["a"]]),
        (b"a \\\n", [["a"]]),
        (b"# a \\\nb\n", [["b"]]),
        (b"a 'b\nc\\\nd' e\n", [["a", "b\nc\\\nd", "e"]]),
        (b'a "b\nc\\\nd" e\n', [["a", "b\ncd", "e"]]),
        (b"\xef\xbb\xbfa\n", [["a"]]),
        (b"a | b > c; d & $e `f` *\n", [["a", "|", "b", ">", "c;", "d", "&", "$e", "`f`", "*"]]),
        (b"a <<< b < c\n", [["a", "<<<", "b", "<", "c"]]),
        (b"a b<<END\n", [["a", "b<<END"]]),
        (b"\xff\n", [["\udcff"]]),
    ],
)
def test_words(text: bytes, expected: list[list[str]]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        (b"a <<END\nx 'y\n  $z\\\nEND\nb\n", [b"x 'y\n  $z\\\n", None]),
        (b"a <<'THE END' b\nEND\nTHE END\n", [b"END\n"]),
        (b'a << "E"\nE\n', [b""]),
        (b"a <<-E\n\tx\n\t\ty\n\tE\n", [b"x\ny\n"]),
        (b"a <<E \\\n b\nx\nE\n", [b"x\n"]),
        (b"a <<E\nx\r\nE\r\nb\n", [b"x\r\n", None]),
        (b"a <<\\E\n$x\nE\nb\n", [b"$x\n", None]),
        (b"a <<$E-'F G'\nx\n$E-F G\nb\n", [b"x\n", None]),
        (b"a <<''\nx\n\nb\n", [b"x\n", None]),
        (b"a <<E\n\xff\0\nE", [b"\xff\0\n"]),
    ],
)
def test_here_documents(text: bytes, documents: list[bytes | None]) -> None:
    assert [statement.document for statement in read(text)] == documents


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (b"a\nb 'c\n", (2, 3), "no closing quotation"),
        (b'a \\\n "c\nd\n', (2, 2), "no closing quotation"),
        (b"a <<E\nx\n", (1, 3), "the here-document has no end: 'E'"),
        (b"a <<E <<F\nE\nF\n", (1, 7), "a second here-document"),
        (b"\n <<E\nE\n", (2, 2), "a here-document without a command"),
        (b"a b\0\n", (1, 3), "a word contains a NUL byte"),
        (b"a b\0 <<E 'c\n", (1, 3), "a word contains a NUL byte"),
    ],
)
def test_malformed_text_is_reported_with_its_place(
    text: bytes, place: tuple[int, int], message: str
) -> None:
    with pytest.raises(Malformed) as error:
        read(text)
    assert (error.value.line, error.value.column) == place
    assert str(error.value) == message


@pytest.mark.parametrize(
    "text",
    [
        b"a <<E <<F\nb\nE\nb\nF\n",
        b"a <<E <<F -\\\nb\nb\nE\nb\nF\n",
        b"<<E\nb\nE\n",
        b"a \0 <<E\nb\nE\n",
        b"a <<E \0\nb\nE\n",
        b"a <<'E\0'\nb\nE\0\n",
        b"a \0 'c\nb\n'\n",
        b'a "\0" "c\nb\n"\n',
        b"a \0 \\\nb\n",
        b"a <<E <<E '\nb\n' \0\nb\nE\nb\nE\n",
    ],
)
def test_nothing_of_malformed_text_is_another_statement(text: bytes) -> None:
    reader = language.of_lines((text + b"next\n").splitlines(keepends=True))
    with pytest.raises(Malformed):
        reader.next()
    statement = reader.next()
    assert statement is not None
    assert statement.texts == ["next"]


def test_words_know_their_places() -> None:
    (one,) = read(b"\n  a 'b\n' \\\n c\n")
    assert [(word.line, word.column) for word in one.words] == [(2, 3), (2, 5), (4, 2)]


@pytest.mark.parametrize(
    "text",
    [
        lambda n: b"a " * n,
        lambda n: b"\\a" * n,
        lambda n: b"'a'" * n,
        lambda n: b'"a\n"' * n,
        lambda n: b"<<E\n" + b"y\n" * n + b"E\n",
    ],
)
def test_long_lines_take_linear_time(text: Callable[[int], bytes]) -> None:
    """64 times the length takes some 64 times the processor's time, or up to 4096 if quadratic:
    400 if merely the rest of the line is copied for each word."""
    few = min(_seconds(b"x " + text(1 << 13)) for _ in range(5))
    assert _seconds(b"x " + text(1 << 19)) < 192 * few


def _seconds(text: bytes) -> float:
    """The processor time that reading it takes."""
    reader = language.of_lines(text.splitlines(keepends=True))
    gc.disable()
    try:
        begun = time.process_time()
        while reader.next() is not None:
            pass
        return time.process_time() - begun
    finally:
        gc.enable()


def test_messages_show_the_beginning_of_long_lines() -> None:
    assert len(read(b"x" * (1 << 22))[0].shown) < 300


@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1), st.binary())
def test_what_is_written_is_read_again(texts: list[str], document: bytes) -> None:
    (found,) = read(language.written(texts, document))
    assert found.texts == texts
    end = b"" if document.endswith(b"\n") or not document else b"\n"
    assert found.document == document + end
    (found,) = read(language.written(texts))
    assert (found.texts, found.document) == (texts, None)
