"""`dumm-guest exec --all|--only`: a command in several guests."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dumm_tools import output
from dumm_tools.cli import ending, lab
from dumm_tools.cli.operands import listed
from dumm_tools.output import Field
from dumm_tools.waiting import Ended

if TYPE_CHECKING:
    from dumm_tools.agent.program import Program
    from dumm_tools.guests.many import Outcome

FIELDS: list[Field[Any]] = [
    Field("name", "Name of the guest.", lambda o: o.name),
    Field(
        "status",
        "Exit status: the command's own, 128 + n for signal n, 125 to 127 if it could not be run, "
        "5 if it timed out.",
        lambda o: o.status,
    ),
    Field("seconds", "How long it took.", lambda o: round(o.seconds, 3)),
    Field("stdout", "Its standard output.", lambda o: _text(o.out)),
    Field("stderr", "Its standard error.", lambda o: _text(o.err)),
    Field(
        "error",
        "Why it could not be run or did not end by itself; null otherwise.",
        lambda o: None if o.error is None else str(o.error),
    ),
]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def chosen(only: Sequence[str]) -> list[str]:
    """The guests of --only, or else all that are running."""
    if only:
        return listed("--only", only)
    from dumm_tools.running import guest_views

    return guest_views.all_names(lab.labdir(), lambda state: state == "running")


def run(
    names: Sequence[str], program: Program, at_once: int, with_input: bool, as_json: bool
) -> int:
    """Run it, and report where it failed; the first of these exit statuses, in the given order."""
    from dumm_tools.guests import many

    labdir = lab.labdir()
    with contextlib.ExitStack() as stack:
        stdin = stack.enter_context(many.kept_input()) if with_input else None
        try:
            outcomes = many.execute(
                labdir, names, program, at_once=at_once, stdin=stdin, keep=as_json
            )
        except BrokenPipeError:
            ending.die_of(signal.SIGPIPE)
        except Ended as e:
            return 128 + e.number
    if as_json:
        output.emit(outcomes, FIELDS, output.Shape(as_json=True))
    else:
        _report(outcomes)
    return next((o.status for o in outcomes if o.status), 0)


def _report(outcomes: Sequence[Outcome]) -> None:
    """Say where it failed; the same hint only once."""
    hints: set[str | None] = set()
    for outcome in outcomes:
        guest = f"guest '{outcome.name}'"
        if (error := outcome.error) is not None:
            text = str(error)
            text = text if guest in text else f"{guest}: {text}"
            ending.report(ending.program(), text, None if error.hint in hints else error.hint)
            hints.add(error.hint)
        elif outcome.status:
            ending.report(ending.program(), f"{guest}: exit status {outcome.status}")
