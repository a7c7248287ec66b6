"""Tools, nouns and verbs as click has them, with the options that all share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from dumm_tools import __version__, proc
from dumm_tools.cli.words import Directory


class NoVerb(click.UsageError):
    """A tool or noun was named without a verb; the message is its help. click has an exception for
    this since 8.2: before, it prints the help on stdout and calls that a success."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__(ctx.get_help(), ctx)


class NoSuchVerb(click.UsageError):
    """A word that is not a verb of the tool or noun."""

    def __init__(self, word: str, ctx: click.Context) -> None:
        from dumm_tools.cli import guess

        super().__init__(f"no such command '{word}'", ctx)
        self.hint = guess.hint(ctx, word)


def _set_directory(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta["dumm.directory"] = value


def _set_verbosity(_ctx: click.Context, _param: click.Parameter, value: int) -> None:
    if value:
        proc.set_verbosity(value)


#: -C and -v, accepted before and after the verb. All commands share the same two objects: creating
#: each would take a tenth of a millisecond, at each start.
_SHARED_OPTIONS: tuple[click.Parameter, ...] = (
    click.Option(
        ["-C", "--directory"],
        metavar="DIR",
        type=Directory(),
        expose_value=False,
        is_eager=True,
        callback=_set_directory,
        help="Working directory of the lab (default: $DUMM_DIR, else the current directory).",
    ),
    click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=_set_verbosity,
        help="Print each step on stderr; repeat for more detail.",
    ),
)


def _show_help(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"{ctx.find_root().info_name} {__version__}")
        ctx.exit()


def _answer(names: Sequence[str], show: Callable[..., None], text: str) -> click.Option:
    """An option that prints something and exits."""
    return click.Option(
        names, is_flag=True, expose_value=False, is_eager=True, callback=show, help=text
    )


_HELP = _answer(["-h", "--help"], _show_help, "Show this message and exit.")


class _Parsed(click.Command):
    """Common base of verbs and groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _SHARED_OPTIONS

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The shared help option."""
        return _HELP

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but a missing verb is an error, not a request for help."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            raise NoVerb(ctx)
        return super().parse_args(ctx, args)

    def make_parser(self, ctx: click.Context) -> Any:
        """The parser of click, but recognizing `-q` at the first lookup: click first looks for a
        long option of that name, and prepares the error for it with similar names (difflib,
        1 ms)."""
        parser = super().make_parser(ctx)
        short, long = getattr(parser, "_short_opt", None), getattr(parser, "_long_opt", None)
        if short and long:
            long.update(short)
        return parser


class Command(_Parsed):
    """A verb. Options may be given before and after operands."""


class Group(_Parsed, click.Group):
    """A tool, or a noun inside a tool."""

    command_class = Command
    group_class = type  # nested groups have the same class

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but the error for an unknown verb knows what may have been meant."""
        if args[0] not in self.commands and args[0][:1] != "-" and not ctx.resilient_parsing:
            raise NoSuchVerb(args[0], ctx)
        return super().resolve_command(ctx, args)


CONTEXT: dict[str, Any] = {"max_content_width": 100}


def tool(name: str, help_text: str) -> Group:
    """The group of a whole tool, with --version."""
    group = Group(name=name, help=help_text, context_settings=CONTEXT)
    group.params.append(_answer(["--version"], _show_version, "Show the version and exit."))
    return group
