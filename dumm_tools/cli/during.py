"""Changes for the time of a command: a verb, then `--`, then a program of the host.

The verb makes its change in a child process, which enters the lab's namespaces; the program runs
outside them, like any other that the user starts; then another child undoes the change, however the
program has ended. The exit status is the program's.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from dumm_tools.cli import ending
from dumm_tools.cli.commands import Command

_META = "dumm.command"
METAVAR = "[-- CMD [ARG...]]"


class Block(Command):
    """A verb that accepts a program after `--`, and so many operands before it."""

    def __init__(self, *args: Any, operands: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._operands = operands

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Everything after a `--` is the program with its arguments, unless operands are lacking:
        that one only ends the options, and the program follows the next one."""
        if "--" in args:
            at = args.index("--")
            lacking = self._lacking(ctx, args[:at])
            end = at + 1 + lacking if lacking else at
            args, rest = args[:end], args[end:]
            if rest and not ctx.resilient_parsing:
                if rest[0] != "--":
                    _refuse_word(rest[0])
                if len(rest) == 1:
                    raise click.UsageError("no command to run after '--'", ctx)
            if rest:
                ctx.meta[_META] = rest[1:]
        return super().parse_args(ctx, args)

    def _lacking(self, ctx: click.Context, args: list[str]) -> int:
        """The number of operands that are not among these arguments."""
        options = [param for param in self.params if isinstance(param, click.Option)]
        try:
            parser = click.Command(self.name, params=[*options]).make_parser(ctx)
            found, operands, _ = parser.parse_args(list(args))
        except click.UsageError:  # or a request for help
            return 0
        everyone = bool(found.get("everyone"))  # instead of a name
        return max(0, self._operands - everyone - len(operands))


def _refuse_word(word: str) -> NoReturn:
    raise click.UsageError(f"unexpected '{word}': a command goes after '--'")


def _refuse(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> None:
    if value:
        _refuse_word(value[0])


#: Shows the program among the operands of a verb that has no list of them.
argument = click.argument(
    "_command",
    metavar=METAVAR,
    nargs=-1,
    type=click.UNPROCESSED,
    expose_value=False,
    callback=_refuse,
)


def is_block(context: click.Context) -> bool:
    """Whether a verb was given a program."""
    return _META in context.meta


def block(change: Callable[[], int], before: Callable[[], Callable[[], int | None]]) -> int:
    """Make a change; with a program, only for its time. `before` is called first, and returns the
    function that undoes the change. Return the exit status."""
    command: Sequence[str] | None = click.get_current_context().meta.get(_META)
    if command is None:
        return change()
    from dumm_tools.running.family import Family, become

    undo = before()
    family = Family()
    sys.stdout.flush()  # the children have copies of its buffer
    with family.signals():
        code = family.run(lambda: _tried(change))
        if code == 0 and family.ended_by is None:
            code = family.run(lambda: become(command, ending.program()))
        undone = family.run(lambda: _tried(undo), heedless=True)
    if family.ended_by is not None and code in (0, -family.ended_by):
        ending.die_of(family.ended_by)
    if code == -signal.SIGINT:
        ending.die_of(signal.SIGINT)
    return (code if code >= 0 else 128 - code) or undone


def _tried(action: Callable[[], int | None]) -> int:
    """The exit status of an action, whose failure is reported."""
    try:
        return action() or 0
    except Exception as e:
        return ending.tell(ending.program(), e)
    finally:
        sys.stdout.flush()
