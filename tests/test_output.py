"""The four output formats, byte by byte."""

from __future__ import annotations

import json
import os

import pytest

from dumm_tools import output
from dumm_tools.errors import Usage
from dumm_tools.output import Field, Shape, Value

Row = dict[str, Value]

FIELDS: list[Field[Row]] = [
    Field("name", "A name.", lambda r: r["name"]),
    Field("count", "A number.", lambda r: r["count"], people=lambda r: f"<{r['count']}>"),
    Field("on", "Whether.", lambda r: r["on"]),
    Field("words", "Some words.", lambda r: r["words"], in_table=False),
    Field("map", "Pairs.", lambda r: r["map"]),
]
ROWS: list[Row] = [
    {"name": "alice", "count": 0, "on": True, "words": ["a", "b"], "map": {"x": 1, "y": None}},
    {"name": "bob", "count": None, "on": False, "words": [], "map": {}},
]


def shown(shape: Shape, capfdbinary: pytest.CaptureFixture[bytes], **how: bool) -> bytes:
    output.emit(ROWS, FIELDS, shape, **how)
    out, err = capfdbinary.readouterr()
    assert err == b""
    return out


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (Shape(names=True), b"alice\nbob\n"),
        (Shape(names=True, nul=True), b"alice\0bob\0"),
        (Shape(fields=("count", "name")), b"0\talice\n-\tbob\n"),
        (Shape(fields=("words", "map", "on")), b"a,b\tx=1,y=-\tyes\n-\t-\tno\n"),
        (Shape(fields=("name", "name"), nul=True), b"alice\talice\0bob\tbob\0"),
        (
            Shape(as_json=True),
            b'[{"name": "alice", "count": 0, "on": true, "words": ["a", "b"],'
            b' "map": {"x": 1, "y": null}},'
            b' {"name": "bob", "count": null, "on": false, "words": [], "map": {}}]\n',
        ),
        (
            Shape(),
            b"NAME    COUNT    ON    MAP\nalice   <0>      yes   x=1,y=-\n"
            b"bob     <None>   no    -\n",
        ),
    ],
)
def test_output_in_every_shape(
    shape: Shape, wanted: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert shown(shape, capfdbinary) == wanted


def test_show_without_options_is_for_people(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert shown(Shape(), capfdbinary, one_by_one=True) == (
        b"name:  alice\ncount: <0>\non:    yes\nwords: a,b\nmap:   x=1,y=-\n"
        b"\nname:  bob\ncount: <None>\non:    no\nwords: -\nmap:   -\n"
    )
    assert shown(Shape(names=True), capfdbinary, one_by_one=True) == b"alice\nbob\n"


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (Shape(names=True), b""),
        (Shape(fields=("name",)), b""),
        (Shape(as_json=True), b"[]\n"),
        (Shape(), b"NAME    COUNT    ON    MAP\n"),
    ],
)
def test_output_of_no_records(
    shape: Shape, wanted: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    output.emit([], FIELDS, shape)
    assert capfdbinary.readouterr().out == wanted


def test_unknown_field_error_lists_the_fields() -> None:
    with pytest.raises(Usage, match="no field 'nope'") as caught:
        output.emit(ROWS, FIELDS, Shape(fields=("name", "nope")))
    assert caught.value.exit_code == 2
    assert caught.value.hint == "the fields are: name,count,on,words,map"


def test_non_text_bytes(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = os.fsdecode(b"/a\xff\xc3\xa9")
    row: Row = {"name": path, "count": 1, "on": True, "words": [], "map": {}}
    output.emit([row], FIELDS, Shape(names=True))
    assert capfdbinary.readouterr().out == b"/a\xff\xc3\xa9\n"
    output.emit([row], FIELDS, Shape(as_json=True))
    assert json.loads(capfdbinary.readouterr().out)[0]["name"] == "/a\\xff\u00e9"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1K"), (64 << 20, "64M"), (3 << 29, "1.5G"), (1 << 30, "1G")],
)
def test_sizes_for_people(number: int, text: str) -> None:
    assert output.size(number) == text
