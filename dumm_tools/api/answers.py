"""The answer to a request, and the error that it stands for."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, AnyStr, Generic, NamedTuple

from dumm_tools import errors
from dumm_tools.errors import CommandFailed, DummError, ExecFailed, StartFailed, TimedOut


class Fault(NamedTuple):
    """A one-line error of a command: the operand that it is about, if there is one."""

    operand: str | None
    message: str
    hint: str | None


class Answer(NamedTuple):
    """The end of a request: its exit status, and the time that it took in seconds."""

    status: int
    seconds: float
    stdout: bytes
    stderr: bytes
    faults: list[Fault]


class Completed(NamedTuple, Generic[AnyStr]):
    """A program that has ended.

    `returncode` is its exit status, 128 + n if signal n has killed it. `stdout` and `stderr` are
    what it printed, unless that went to a file: text, in which bytes that are not UTF-8 have become
    \\xNN, or bytes with `text=False`. `seconds` is the time from its start to its end.
    """

    returncode: int
    stdout: AnyStr
    stderr: AnyStr
    seconds: float


def piece(message: dict[str, Any], stream: str) -> bytes | None:
    """The bytes of a stream in a message; None if there are none."""
    if (text := message.get(stream)) is not None:
        return str(text).encode("utf-8", "surrogateescape")
    if (coded := message.get(f"{stream}_base64")) is not None:
        return base64.b64decode(coded)
    return None


def answer(message: dict[str, Any], stdout: bytes, stderr: bytes) -> Answer:
    """The answer in a last message, after the pieces of its streams."""
    found = [
        Fault(one.get("operand"), one.get("message", ""), one.get("hint"))
        for one in message.get("errors") or ()
    ]
    if (refused := message.get("error")) is not None:
        found.append(Fault(None, refused, None))
    return Answer(
        message["status"],
        message.get("seconds", 0.0),
        stdout + (piece(message, "stdout") or b""),
        stderr + (piece(message, "stderr") or b""),
        found,
    )


def failure(answer: Answer) -> DummError | None:
    """The error of a command of ours that has failed."""
    if answer.status == 0:
        return None
    message = "; ".join(fault.message for fault in answer.faults)
    if not message:
        last = answer.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        message = last or f"the command ended with status {answer.status}"
    hint = next((fault.hint for fault in answer.faults if fault.hint), None)
    kinds = {2: errors.Usage, 3: errors.NotFound, 4: errors.Conflict, 5: TimedOut}
    if answer.status in kinds:
        return kinds[answer.status](message, hint=hint)
    if answer.status in errors.EXEC_EXIT_CODES:
        return ExecFailed(message, answer.status, hint=hint)
    return DummError(message, hint=hint)


def start_failure(answer: Answer) -> DummError | None:
    """The error of a start. A single guest that does not exist, or runs already, is told as by
    other commands."""
    error = failure(answer)
    failures = [(f.operand, f.message) for f in answer.faults if f.operand is not None]
    if error is None or not failures or answer.status == 2:
        return error
    if len(failures) == 1 and answer.status in (3, 4):
        return error
    return StartFailed(str(error), failures, answer.status, hint=error.hint)


def outcome(answer: Answer, *, text: bool) -> Completed[Any]:
    """The outcome of a program; the error if it is ours that it did not run, or not to its end."""
    out, err = (_as_text(data) if text else data for data in (answer.stdout, answer.stderr))
    error = failure(answer) if answer.faults else None
    if error is not None:
        if isinstance(error, TimedOut):
            error.stdout, error.stderr = out, err
        raise error
    return Completed(answer.status, out, err, answer.seconds)


def checked(done: Completed[Any], where: str, command: Sequence[str]) -> Completed[Any]:
    """The outcome of a program that must have succeeded. CommandFailed."""
    if done.returncode == 0:
        return done
    import shlex

    said = done.stderr if isinstance(done.stderr, str) else _as_text(done.stderr)
    last = said.strip().rpartition("\n")[2]
    status = done.returncode
    ended = (
        f"was killed by signal {status - 128}" if status > 128 else f"ended with status {status}"
    )
    text = f"{where}: '{shlex.join(command)}' {ended}" + (f": {last}" if last else "")
    raise CommandFailed(text, done.returncode, done.stdout, done.stderr)


def _as_text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
