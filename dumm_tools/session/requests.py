"""Requests of a framed session: one JSON object on a line each (dumm-console(1))."""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import signal
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple

Id = str | int
#: Longer lines are refused (bytes).
LINE_MAX = 16 << 20
_ID_MAX = 200
#: The longest time that a request may take (seconds): a year.
_TIMEOUT_MAX = 366 * 86400.0


class Source(NamedTuple):
    """Where a request's standard input comes from: `data`, the file `path`, or inputs that
    follow."""

    kind: Literal["data", "file", "stream"] = "data"
    data: bytes = b""
    path: str = ""


class Target(NamedTuple):
    """Where an output goes: into the answer, out in pieces as they come, or to the file `path`."""

    kind: Literal["answer", "stream", "file"] = "answer"
    path: str = ""
    append: bool = False


class Run(NamedTuple):
    """Run a command of the suite. `timeout` is in seconds. One for the end may depend on the
    success of the request `after`."""

    id: Id
    words: list[str]
    stdin: Source = Source()
    stdout: Target = Target()
    stderr: Target = Target()
    timeout: float | None = None
    parallel: bool = False
    at_end: bool = False
    after: Id | None = None


class Input(NamedTuple):
    """More input for a request; None is its end."""

    id: Id
    data: bytes | None


class Signal(NamedTuple):
    """A signal for a request."""

    id: Id
    number: int


class Forget(NamedTuple):
    """Take back a request that is kept for the end."""

    id: Id


Request = Run | Input | Signal | Forget


class Refused(Exception):
    """A line that is not a request: the id that it gives, if it does, and why."""

    def __init__(self, request_id: Id | None, text: str) -> None:
        super().__init__(text)
        self.id = request_id


def parse(line: bytes) -> Request:
    """The request on a line. Refused."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused(None, "not JSON") from None
    if not isinstance(found, dict):
        raise Refused(None, "not an object")
    request_id = _id(found)
    for key, read in _KINDS.items():
        if key in found:
            del found["id"]
            try:
                return read(request_id, found)
            except _Bad as e:
                raise Refused(request_id, str(e)) from None
    raise Refused(request_id, f"one of {', '.join(map(repr, _KINDS))} is needed")


class _Bad(Exception):
    pass


def _id(found: dict[str, Any]) -> Id:
    value = found.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Refused(None, "'id' is a string or a whole number")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise Refused(None, "'id' has at most 63 bits")
    if isinstance(value, str) and len(value) > _ID_MAX:
        raise Refused(None, f"'id' has at most {_ID_MAX} characters")
    if isinstance(value, str) and not _can_be_said(value):
        raise Refused(None, "'id' is not text")
    return value


def _run(request_id: Id, found: dict[str, Any]) -> Run:
    _only(found, ("run", "stdin", "stdout", "stderr", "timeout", "parallel", "at_end", "after"))
    words = found["run"]
    if not isinstance(words, list) or not words:
        raise _Bad("'run' is a list of words")
    for word in words:
        _path(word, "a word of 'run'", empty=True)
    run = Run(
        request_id,
        words,
        _source(found.get("stdin")),
        _target(found.get("stdout"), "stdout"),
        _target(found.get("stderr"), "stderr"),
        _timeout(found.get("timeout")),
        _flag(found, "parallel"),
        _flag(found, "at_end"),
        _after(found),
    )
    if run.at_end and run.stdin.kind == "stream":
        raise _Bad("the input of a request for the end cannot be a stream")
    return run


def _after(found: dict[str, Any]) -> Id | None:
    if "after" not in found:
        return None
    if not found.get("at_end"):
        raise _Bad("'after' is for requests with 'at_end'")
    try:
        return _id({"id": found["after"]})
    except Refused:
        raise _Bad("'after' is the id of a request") from None


def _input(request_id: Id, found: dict[str, Any]) -> Input:
    _only(found, ("input", "input_base64", "input_end"))
    if len(found) > 1:
        raise _Bad("one kind of input at a time")
    if "input_end" in found:
        if found["input_end"] is not True:
            raise _Bad("'input_end' is true")
        return Input(request_id, None)
    return Input(request_id, _data(found, "input", "input_base64"))


def _signal(request_id: Id, found: dict[str, Any]) -> Signal:
    _only(found, ("signal",))
    name = found["signal"]
    number = getattr(signal, f"SIG{str(name).removeprefix('SIG')}", None)
    if not isinstance(name, str) or not isinstance(number, signal.Signals):
        raise _Bad("'signal' is the name of one, such as 'TERM'")
    return Signal(request_id, int(number))


def _forget(request_id: Id, found: dict[str, Any]) -> Forget:
    _only(found, ("forget",))
    if found["forget"] is not True:
        raise _Bad("'forget' is true")
    return Forget(request_id)


#: By the key that tells them apart.
_KINDS: dict[str, Callable[[Id, dict[str, Any]], Request]] = {
    "run": _run,
    "input": _input,
    "input_base64": _input,
    "input_end": _input,
    "signal": _signal,
    "forget": _forget,
}


def _only(found: dict[str, Any], known: Collection[str]) -> None:
    for key in found:
        if key not in known:
            raise _Bad(f"unknown key {key[:50]!r}")


def _flag(found: dict[str, Any], key: str) -> bool:
    value = found.get(key, False)
    if not isinstance(value, bool):
        raise _Bad(f"'{key}' is true or false")
    return value


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Bad("'timeout' is a number of seconds")
    if not 0 < value <= _TIMEOUT_MAX or math.isnan(value):
        raise _Bad(f"'timeout' is above 0, and at most {_TIMEOUT_MAX:.0f}")
    return float(value)


def _source(value: Any) -> Source:
    if value is None:
        return Source()
    if not isinstance(value, dict) or len(value) != 1:
        raise _Bad("'stdin' is an object with 'text', 'base64', 'file' or 'stream'")
    if "file" in value:
        return Source("file", path=_path(value["file"], "the 'file' of 'stdin'"))
    if "stream" in value:
        if value["stream"] is not True:
            raise _Bad("'stream' is true")
        return Source("stream")
    _only(value, ("text", "base64"))
    return Source("data", _data(value, "text", "base64"))


def _target(value: Any, key: str) -> Target:
    if value is None:
        return Target()
    if isinstance(value, dict) and value.get("stream") is True and len(value) == 1:
        return Target("stream")
    if not isinstance(value, dict) or "file" not in value:
        raise _Bad(f"'{key}' is an object with 'file', or {{\"stream\": true}}")
    _only(value, ("file", "append"))
    path = _path(value["file"], f"the 'file' of '{key}'")
    return Target("file", path, _flag(value, "append"))


def _data(found: dict[str, Any], text: str, base: str) -> bytes:
    if base in found:
        try:
            return base64.b64decode(found[base], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise _Bad(f"'{base}' is not base64") from None
    value = found[text]
    if not isinstance(value, str) or not _can_be_said(value):
        raise _Bad(f"'{text}' is not text")
    return os.fsencode(value)


def _path(value: Any, what: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not _can_be_said(value) or "\0" in value:
        raise _Bad(f"{what} is not text")
    if not value and not empty:
        raise _Bad(f"{what} is empty")
    return value


def _can_be_said(text: str) -> bool:
    """Whether a text can be encoded: JSON may have half of a surrogate pair."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
