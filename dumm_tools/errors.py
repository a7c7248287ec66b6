"""The errors of the suite and their exit codes; one table shared by code and manuals.

Functions under `linux/` raise plain `OSError`; the domain translates what it can explain into one
of these. Only `cli/ending.py` turns them into an exit status.
"""

from __future__ import annotations

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
    """Something did not happen before its deadline (exit 5)."""

    exit_code = 5


class ExecFailed(DummError):
    """`exec` failed before the command's own status was known (exit 125, 126 or 127)."""

    def __init__(self, message: str, code: int = 125, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = code


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
