"""The four formats of an answer: a table for people, names, chosen fields, JSON.

The field table of each kind of object defines all four, the manual's FIELDS and the completion of
`-o`. The format never depends on the type of stdout, except that states in a table are coloured on
a terminal. The whole text is built first and written at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from dumm_tools import messages
from dumm_tools.errors import Usage

#: Escapes in JSON strings for bytes that are not valid UTF-8 (surrogateescape).
_NO_UTF8 = {0xDC00 + byte: f"\\\\x{byte:02x}" for byte in range(0x80, 0x100)}

#: The colours of states (console_codes(4)): green, yellow and red. Others have none.
_COLOURS = {
    **dict.fromkeys(("running", "up"), 32),
    **dict.fromkeys(("starting", "stopping", "paused", "down", "absent"), 33),
    **dict.fromkeys(("crashed", "missing", "failed"), 31),
}

T = TypeVar("T")
Scalar = str | int | float | bool | None
Value = Scalar | list[str] | dict[str, Scalar]


class Field(Generic[T]):
    """A named value of an object. `people` formats it differently, in the table only. One that is
    `asked` costs a question to a guest: only `show`, or -o with its name, prints it. One that is a
    `state` is coloured.

    A plain class: a dozen are created at each start of a command, and as dataclasses these would
    take half a millisecond.
    """

    __slots__ = ("asked", "doc", "get", "in_table", "name", "people", "state")

    def __init__(
        self,
        name: str,
        doc: str,
        get: Callable[[T], Value],
        people: Callable[[T], str] | None = None,
        in_table: bool = True,
        asked: bool = False,
        state: bool = False,
    ) -> None:
        self.name, self.doc, self.get, self.state = name, doc, get, state
        self.people, self.in_table, self.asked = people, in_table, asked


class Shape:
    """The format that the user wants: at most one of `names`, `fields` and `as_json`."""

    __slots__ = ("as_json", "fields", "names", "nul")

    def __init__(
        self,
        names: bool = False,
        fields: tuple[str, ...] = (),
        as_json: bool = False,
        nul: bool = False,
    ) -> None:
        self.names, self.fields, self.as_json, self.nul = names, fields, as_json, nul


def emit(
    records: Sequence[T],
    table: Sequence[Field[T]],
    shape: Shape,
    *,
    one_by_one: bool = False,
) -> None:
    """Write the records to stdout; with `one_by_one`, the table is a list of fields for each
    (`show`)."""
    check_fields(shape.fields, table)
    by_name = {f.name: f for f in table}
    if shape.as_json:
        shown = [f for f in table if one_by_one or not f.asked]
        text = _json([{f.name: f.get(r) for f in shown} for r in records])
    elif shape.names or shape.fields:
        chosen = [by_name[n] for n in shape.fields] if shape.fields else [table[0]]
        end = "\0" if shape.nul else "\n"
        text = "".join("\t".join(plain(f.get(r)) for f in chosen) + end for r in records)
    elif one_by_one:
        text = "\n".join(_sheet(r, table) for r in records)
    else:
        text = _table(records, [f for f in table if f.in_table and not f.asked])
    _write(text)


def emit_lines(records: Sequence[T], table: Sequence[Field[T]], shape: Shape) -> None:
    """Write records of a sequence that goes on: in JSON, an object on each line; otherwise the
    chosen fields, which are escaped if they are not printable, unless records end with NUL."""
    if shape.as_json:
        text = "".join(_json({f.name: f.get(r) for f in table}) for r in records)
    else:
        by_name, end = {f.name: f for f in table}, "\0" if shape.nul else "\n"
        rows = ([plain(by_name[n].get(r)) for n in shape.fields] for r in records)
        look = str if shape.nul else _on_a_line
        text = "".join("\t".join(map(look, row)) + end for row in rows)
    _write(text)


def _on_a_line(text: str) -> str:
    return text if text.isprintable() else quoted(os.fsencode(text))


def _json(value: object) -> str:
    """A line of JSON, which is UTF-8: invalid bytes are written as backslash, x and two digits."""
    import json

    return json.dumps(value, ensure_ascii=False).translate(_NO_UTF8) + "\n"


def _write(text: str) -> None:
    """Names may contain invalid UTF-8 (paths do), which is printed unchanged."""
    sys.stdout.flush()
    out = sys.stdout.buffer
    out.write(text.encode("utf-8", "surrogateescape"))
    out.flush()


def check_fields(names: Sequence[str], table: Sequence[Field[T]]) -> None:
    """Raise Usage for an unknown field, listing the known ones."""
    known = [f.name for f in table]
    for name in names:
        if name not in known:
            raise Usage(f"no field '{name}'", hint=f"the fields are: {','.join(known)}")


def plain(value: Value) -> str:
    """A value as printed by `-o`: `-` for absent, lists joined with commas, bools as yes and no."""
    if value is None or value == [] or value == {} or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, dict):
        return ",".join(f"{k}={plain(v)}" for k, v in value.items())
    return str(value)


def quoted(path: bytes) -> str:
    """A path for display, on one line: unprintable characters are escaped as in C or Python."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_quoted(c) for c in text)


def _quoted(char: str) -> str:
    if char.isprintable() and char != "\\":
        return char
    code = ord(char)
    if code in _NO_UTF8:
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def size(number: int) -> str:
    """Bytes for display: 64M, 1.5G; exact if a unit divides it."""
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if number >= 1 << shift:
            whole, rest = divmod(number, 1 << shift)
            return f"{whole}{unit}" if not rest else f"{number / (1 << shift):.1f}{unit}"
    return str(number)


def painted(text: str, state: str) -> str:
    """A text in the colour of a state, if stdout is a terminal that has colours and their use is
    not forbidden (https://no-color.org)."""
    colour = _COLOURS.get(state)
    if colour is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    if os.environ.get("TERM", "dumb") == "dumb":
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def _look(field: Field[T], record: T) -> str:
    text = field.people(record) if field.people else plain(field.get(record))
    text = messages.printable(text)  # a path, or routes reported by a guest
    # A state may be followed by a reason.
    return painted(text, text.partition(" ")[0]) if field.state else text


def _table(records: Sequence[T], fields: Sequence[Field[T]]) -> str:
    rows = [[_look(f, r) for f in fields] for r in records]
    headers = [f.name.upper() for f in fields]
    from tabulate import tabulate

    return f"{tabulate(rows, headers=headers, tablefmt='plain', disable_numparse=True)}\n"


def _sheet(record: T, fields: Sequence[Field[T]]) -> str:
    width = max(len(f.name) for f in fields) + 1
    return "".join(f"{f.name + ':':{width}} {_look(f, record)}\n" for f in fields)
