"""Answers of a framed session: one JSON object on a line each."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from typing import Any, NamedTuple, Protocol

from dumm_tools.agent.sink import BACKLOG_MAX, Sink
from dumm_tools.agent.steps import Wants
from dumm_tools.errors import DummError
from dumm_tools.guests.gathering import Kept, TooMuch
from dumm_tools.session.requests import Id


class Failure(NamedTuple):
    """An error of a request, as the commands report it; `operand` is what it concerns, if there are
    several."""

    operand: str | None
    message: str
    hint: str | None


class Answers:
    """Our standard output, and how much of it waits for its reader."""

    def __init__(self, fd: int = 1) -> None:
        self._sink = Sink(fd)
        self.moved_at = time.monotonic()  # when our reader last accepted something
        self.is_deaf = False  # whether there is no reader any more

    @property
    def waiting(self) -> int:
        """Bytes that our reader has not accepted yet."""
        return len(self._sink.backlog)

    @property
    def are_full(self) -> bool:
        """Whether no more should be accepted from programs."""
        return self.waiting >= BACKLOG_MAX

    def put(self, answer: dict[str, Any]) -> None:
        """Queue an answer."""
        if not self.is_deaf:
            text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
            # Half of a surrogate pair, from a name that is not UTF-8, becomes what JSON has for it.
            self._sink.backlog += text.encode(errors="backslashreplace") + b"\n"

    def wants(self) -> Wants:
        """The events to poll for."""
        return self._sink.wants()

    def write(self, events: Wants | None) -> None:
        """Write what our reader accepts, after a poll or, without events, at once; OSError."""
        if self._sink.write(events):
            self.moved_at = time.monotonic()

    def close(self) -> None:
        """Close our descriptors."""
        self._sink.close()

    def silence(self) -> None:
        """There is no reader any more."""
        self.is_deaf = True
        self._sink.backlog.clear()


def data(key: str, value: bytes) -> dict[str, str]:
    """Data as text under a key or, if it is not UTF-8 or has null bytes, as base64 under
    `KEY_base64`."""
    if b"\0" not in value:
        with contextlib.suppress(UnicodeDecodeError):
            return {key: value.decode()}
    return {f"{key}_base64": base64.b64encode(value).decode()}


class Output(Protocol):
    """Where a program's output goes."""

    def __call__(self, piece: bytes, /) -> None:
        """Take some. DummError."""

    def end(self) -> dict[str, str]:
        """Nothing follows; what the answer has of it."""


class InAnswer(Kept):
    """Keeps an output for the answer."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def __call__(self, piece: bytes) -> None:
        try:
            super().__call__(piece)
        except TooMuch as e:
            hint = f'"{self._key}": {{"file": PATH}} takes any amount'
            raise TooMuch(str(e), hint=hint) from None

    def end(self) -> dict[str, str]:  # type: ignore[override]
        """All of it."""
        return data(self._key, bytes(self.data))


class InPieces:
    """Passes an output on in pieces. A character that is cut waits for its other half."""

    def __init__(self, answers: Answers, request_id: Id, key: str) -> None:
        self._answers, self._id, self._key = answers, request_id, key
        self._held = b""

    def __call__(self, piece: bytes) -> None:
        piece = self._held + piece
        self._held = b""
        try:
            piece.decode()
        except UnicodeDecodeError as e:
            if e.reason == "unexpected end of data":
                piece, self._held = piece[: e.start], piece[e.start :]
        if piece:
            self._answers.put({"id": self._id, **data(self._key, piece)})

    def end(self) -> dict[str, str]:
        """Pass on what was held back."""
        if self._held:
            self._answers.put({"id": self._id, **data(self._key, self._held)})
            self._held = b""
        return {}


class InFile:
    """Writes an output to a file, which is closed at the end."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd, self._path = fd, path

    def __call__(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except OSError as e:
                raise DummError(f"cannot write '{self._path}': {e.strerror}") from None

    def end(self) -> dict[str, str]:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        return {}
