"""`dumm-guest wait`: for a state of guests, or for a command in them to succeed."""

from __future__ import annotations

import click

from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.ending import each, warn
from dumm_tools.cli.operands import guest_list, guests, listed
from dumm_tools.cli.values import Seconds

_COMMAND = "dumm.until"


class _ThenCommand(commands.Command):
    """With --until, everything after `--` is a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        before = args[: args.index("--")] if "--" in args else args
        if "--until" in before:
            ctx.meta[_COMMAND] = args[len(before) + 1 :]
            args = before
        return super().parse_args(ctx, args)


@click.command(cls=_ThenCommand)
@click.argument("names", metavar="NAME...|--all|--only [-- CMD [ARG...]]", nargs=-1, type=guests())
@click.option(
    "--all", "everyone", is_flag=True, help="Wait for all guests, or all that have been started."
)
@click.option(
    "--only",
    metavar="NAME,...",
    multiple=True,
    type=guest_list(),
    help="Wait for these guests, as if they were operands. May be repeated.",
)
@click.option(
    "--for",
    "what",
    type=click.Choice(["ready", "booted", "stopped"]),
    default="ready",
    show_default=True,
    help="Condition to wait for.",
)
@click.option(
    "--until", is_flag=True, help="Then run CMD again and again, until it exits with status 0."
)
@click.option(
    "--match",
    metavar="REGEX",
    help="With --until: until REGEX, as in Python, is found in the output of CMD, too.",
)
@click.option("--timeout", metavar="SECONDS", type=Seconds(), help="Maximum time to wait.")
def wait(
    names: tuple[str, ...],
    everyone: bool,
    only: tuple[str, ...],
    what: str,
    until: bool,
    match: str | None,
    timeout: float | None,
) -> int:
    """Wait until guests are ready, have booted, or are stopped.

    A guest has booted when its init, if it has one, has come up, and its startup script has ended.
    With --until, wait also until a command succeeds in each of the guests; -v shows its output.
    With --all, guests that are stopped are left out, except with --for stopped.

    The exit status is 5 if the timeout expires first.
    """
    import math
    import time

    from dumm_tools.guests import readiness

    command: list[str] = click.get_current_context().meta.get(_COMMAND, [])
    if until and not command:
        raise click.UsageError("--until needs a command after '--'")
    if until and what == "stopped":
        raise click.UsageError("--until cannot be combined with --for stopped")
    if match is not None and not until:
        raise click.UsageError("--match needs --until")
    labdir = lab.labdir()
    chosen = _chosen(labdir, names, everyone, only, what)
    end = math.inf if timeout is None else time.monotonic() + timeout

    def one(name: str) -> None:
        if what == "booted":
            from dumm_tools.guests import booted

            booted.wait(labdir, name, end, warn)
        elif not until:
            left = None if timeout is None else max(0.0, end - time.monotonic())
            readiness.wait(labdir, name, what, left)
        if until:
            _until(labdir, name, command, end, match)

    return each(chosen, one)


def _chosen(
    labdir: str, names: tuple[str, ...], everyone: bool, only: tuple[str, ...], what: str
) -> list[str]:
    if bool(names) + everyone + bool(only) != 1:
        raise click.UsageError("name guests, or use --all or --only")
    if not everyone:
        return listed("--only", only) if only else list(names)
    from dumm_tools.running import guest_views

    return guest_views.all_names(labdir, lambda state: what == "stopped" or state != "stopped")


def _until(labdir: str, name: str, command: list[str], deadline: float, match: str | None) -> None:
    from dumm_tools import waiting
    from dumm_tools.guests import booted

    try:
        with waiting.ended_by_signals():
            booted.until(labdir, name, command, deadline, warn, match=match)
    except waiting.Ended as e:
        ending.die_of(e.number)
