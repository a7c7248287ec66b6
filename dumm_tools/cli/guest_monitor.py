"""`dumm-guest monitor`: changes of a lab as they happen."""

from __future__ import annotations

import math
import signal
import time
from typing import TYPE_CHECKING

import click

from dumm_tools import output
from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.operands import guests
from dumm_tools.cli.values import Seconds
from dumm_tools.cli.words import FieldList
from dumm_tools.errors import TimedOut
from dumm_tools.output import Field, Shape, check_fields

if TYPE_CHECKING:
    from dumm_tools.labs.observed import Change

FIELDS: list[Field[Change]] = [
    Field("object", "guest, iface, bridge or lab.", lambda c: c.object),
    Field("name", "Name of the guest, interface or bridge; absent for the lab.", lambda c: c.name),
    Field("field", "Field of the object that has changed.", lambda c: c.field),
    Field("value", "The new value.", lambda c: c.value),
    Field("before", "The previous value.", lambda c: c.before),
    Field("time", "When it was noticed, in seconds since 1970.", lambda c: c.time),
]
NAMES = [f.name for f in FIELDS]
DEFAULT = ("object", "name", "field", "value")


def _chosen(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    chosen = tuple(v.strip() for v in value.split(",")) if value is not None else ()
    check_fields(chosen, FIELDS)
    return chosen


@click.command(cls=commands.Command)
@click.argument("names", metavar="[NAME...]", nargs=-1, type=guests())
@click.option("--initial", is_flag=True, help="Print the present values first.")
@click.option(
    "-n",
    "--count",
    metavar="COUNT",
    type=click.IntRange(min=1),
    help="End after so many changes, with exit status 0.",
)
@click.option(
    "--timeout", metavar="SECONDS", type=Seconds(), help="End after this time, with exit status 5."
)
@click.option(
    "-o",
    "--output",
    "fields",
    metavar="FIELD,...",
    type=FieldList(NAMES),
    callback=_chosen,
    help=f"Print only these fields, separated by tabs: {','.join(NAMES)}.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "json"]),
    default="lines",
    help="Output format; json prints an object on each line.",
)
@click.option("-z", "--nul", is_flag=True, help="End records with NUL, not with a newline.")
def monitor(
    names: tuple[str, ...],
    initial: bool,
    count: int | None,
    timeout: float | None,
    fields: tuple[str, ...],
    form: str,
    nul: bool,
) -> None:
    """Print a line for each change of guests, interfaces, bridges and layers, as it happens.

    With names, only changes of these guests and of their interfaces are printed.
    """
    from dumm_tools.labs.monitor import Monitor

    if form == "json" and (fields or nul):
        raise click.UsageError("--format json cannot be combined with -o or -z")
    shape = Shape(fields=fields or DEFAULT, as_json=form == "json", nul=nul)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    left = math.inf if count is None else count
    try:
        with Monitor(lab.labdir(), names) as monitor:
            monitor.end_with(1)
            now = monitor.first()
            if initial:
                output.emit_lines(now, FIELDS, shape)
            while left > 0:
                found = monitor.wait(deadline)
                if found is None:
                    raise TimedOut(f"timed out after {timeout:g} s")
                found = found[: int(min(left, len(found)))]
                output.emit_lines(found, FIELDS, shape)
                left -= len(found)
    except BrokenPipeError:
        ending.die_of(signal.SIGPIPE)
