"""The errors of the suite and their exit codes; one table shared by code and manuals.

Functions under `linux/` raise plain `OSError`; the domain translates what it can explain into one
of these. Only `cli/ending.py` turns them into an exit status.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_CODES: dict[int, str] = {
    0: "Success, or a 'yes' answer.",
    1: "Failure, or a 'no' answer.",
    2: "Usage error.",
    3: "No such object, or no working set in this directory.",
    4: "Conflict: the object already exists, is running, is not running, or is busy.",
    5: "Timed out.",
}

EXEC_EXIT_CODES: dict[int, str] = {
    125: "dumm-tools itself failed to run the command.",
    126: "The command was found but could not be run.",
    127: "The command was not found.",
}


class DummError(Exception):
    """A failure with a one-line message and, if useful, a hint."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Usage(DummError):
    """An operand or option that does not make sense (exit 2)."""

    exit_code = 2


class NotFound(DummError):
    """The named object does not exist (exit 3)."""

    exit_code = 3


class Conflict(DummError):
    """The object already exists, or its state forbids the change (exit 4)."""

    exit_code = 4


class TimedOut(DummError):
    """Something did not happen before its deadline (exit 5). In the library, `stdout` and `stderr`
    are what a program had printed by then."""

    exit_code = 5
    stdout: str | bytes = ""
    stderr: str | bytes = ""


class ExecFailed(DummError):
    """`exec` failed before the command's own status was known (exit 125, 126 or 127)."""

    def __init__(self, message: str, code: int = 125, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = code


class StartFailed(DummError):
    """Guests did not start. `failures` has the guest and the reason of each (exit 1 or 5)."""

    def __init__(
        self,
        message: str,
        failures: Sequence[tuple[str, str]] = (),
        code: int = 1,
        *,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.failures, self.exit_code = list(failures), code


class CommandFailed(DummError):
    """A program that had to succeed has ended with another status, `returncode`; `stdout` and
    `stderr` are what it printed."""

    def __init__(
        self, message: str, returncode: int = 1, stdout: str | bytes = "", stderr: str | bytes = ""
    ) -> None:
        super().__init__(message)
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


class SessionEnded(DummError):
    """The session of the library (`dumm-console --json`) has ended before it answered."""


def explain(error: Exception) -> str:
    """The text of `error`, marked as an internal error if it is of an unexpected class."""
    if isinstance(error, DummError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"internal error: {type(error).__name__}: {error}"


def os_reason(error: OSError) -> str:
    """The errno text of `error`, with the file concerned if there is one."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text
