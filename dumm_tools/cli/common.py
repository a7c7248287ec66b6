"""What all commands share: the way out, the common options, operands with completion."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dumm_tools import __version__, messages, proc
from dumm_tools.errors import DummError, os_reason
from dumm_tools.output import Field, Shape, check_fields

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def run(command: click.Command, prog: str) -> NoReturn:
    """Run `command` with our own arguments, and end.

    At once: to take its modules apart costs Python 6 ms, and there is nobody who would see it.
    """
    status = outcome(command, prog)
    if sys.getprofile() or sys.gettrace():  # somebody does
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def outcome(command: click.Command, prog: str, args: Sequence[str] | None = None) -> int:
    """Run `command` with our own arguments or `args`; the only place where an exception becomes
    an exit status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _fill_standard_streams()
    try:
        status = command.main(args, prog_name=prog, standalone_mode=False)
        sys.stdout.flush()
    except _NoVerb as e:
        messages.say(*e.format_message().splitlines())
        status = e.exit_code
    except click.UsageError as e:
        where = e.ctx.command_path if e.ctx else prog
        said = e.format_message().rstrip(".")
        hint = f"see '{where} --help'"
        if isinstance(e, click.NoSuchOption):
            # click's words before 8.5
            said = said.replace(f"option: {e.option_name}", f"option '{e.option_name}'")
            if _passes_words_on(e.ctx):
                hint = f"put '--' before a command that has options of its own; {hint}"
        report(prog, said[:1].lower() + said[1:], hint)
        status = e.exit_code
    except (click.Abort, KeyboardInterrupt):
        die_of(signal.SIGINT)
    except Exception as e:
        status = tell(prog, e)
        if isinstance(e, OSError):
            # What stdout did not take stays in its buffer, to fail again at our end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except SystemExit as e:  # click's, when it has completed a word
        status = e.code
    return status if isinstance(status, int) else 0


class _NoVerb(click.UsageError):
    """A tool or noun was named without a verb; the message is its help. click has an exception for
    this since 8.2: before, it prints the help on stdout and calls that a success."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__(ctx.get_help(), ctx)


def _passes_words_on(context: click.Context | None) -> bool:
    """Does the verb take the words of another command, for which `--` makes room?"""
    params = context.command.params if context else []
    return any(isinstance(p, click.Argument) and "--" in (p.metavar or "") for p in params)


def tell(prog: str, error: Exception) -> int:
    """Print what went wrong, with DUMM_DEBUG=1 where it did too; its exit status."""
    if os.environ.get("DUMM_DEBUG") == "1":
        import traceback

        messages.say(*"".join(traceback.format_exception(error)).splitlines())
    if isinstance(error, DummError):
        report(prog, str(error), error.hint)
        return error.exit_code
    if isinstance(error, OSError):
        report(prog, os_reason(error))
    else:
        text = f"internal error: {type(error).__name__}: {error}"
        report(prog, text, "set DUMM_DEBUG=1 for a traceback")
    return 1


def _fill_standard_streams() -> None:
    """Put something in the place of a closed stdin, stdout or stderr, or the first file that we
    open takes it. What is written to a closed stdout is an error, to a closed stderr is not."""
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def die_of(number: int) -> NoReturn:
    """End by signal `number`, so that the shell that called us sees it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)


def report(prog: str, message: str, hint: str | None = None) -> None:
    """Print an error, one line, and its hint on stderr. What a guest said may be part of it, and
    is not for the terminal to obey."""
    lines = [f"{prog}: {' '.join(message.split())}"]
    if hint:
        lines.append(f"{prog}: hint: {' '.join(hint.split())}")
    messages.say(*lines)


def warn(text: str) -> None:
    """Print a warning on stderr: what is named in it was done, but not as one may think."""
    messages.say(f"{program()}: warning: {text}", over=True)


def each(operands: Iterable[T], action: Callable[[T], object]) -> int:
    """Do `action` for all operands, report each failure, return the first failure's code."""
    prog = program()
    status = 0
    for operand in operands:
        try:
            action(operand)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as e:  # whatever one does, the others have their turn
            code = tell(prog, e)
            status = status or code
    return status


def program() -> str:
    """The name of the tool that runs, for its messages."""
    return click.get_current_context().find_root().info_name or "dumm"


def labdir() -> str:
    """The working directory that -C or DUMM_DIR names: absolute, without links, and to be believed
    (`trust.resolve`)."""
    context = click.get_current_context()
    found = context.meta.get("dumm.root")
    if found is None:
        found = context.meta["dumm.root"] = working_directory(context)
    return str(found)


def entered(*, make: bool = True) -> str:
    """As `labdir`, but inside the lab's own namespaces where it has some (`entry`): for verbs that
    look at links or mounts, or, with `make`, change them."""
    directory = labdir()
    meta = click.get_current_context().meta
    if "dumm.entered" not in meta:
        from dumm_tools.running import entry

        if entry.bring_up(directory) if make else entry.enter(directory):
            meta["dumm.entered"] = True
    return directory


def working_directory(context: click.Context | None) -> str:
    """The working directory for a context (None while completing without one)."""
    from dumm_tools import trust

    while context is not None:
        if "dumm.directory" in context.meta:
            return trust.resolve(str(context.meta["dumm.directory"]))
        context = context.parent
    return trust.resolve(os.environ.get("DUMM_DIR") or ".")


def _set_directory(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta["dumm.directory"] = value


def _set_verbosity(_ctx: click.Context, _param: click.Parameter, value: int) -> None:
    if value:
        proc.set_verbosity(value)


if TYPE_CHECKING:
    Words = click.ParamType[str]
else:  # older clicks have no generic one
    Words = click.ParamType


class Directory(Words):
    """An operand that names a directory, or what may become one. click's own asks for translations
    at each start, as its version and help options do, which costs a millisecond."""

    name = "directory"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if os.path.lexists(value) and not os.path.isdir(value):
            self.fail(f"'{value}' is not a directory", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


#: -C and -v, taken before the verb and behind it alike. All commands have the same two objects:
#: each would take a tenth of a millisecond to make, at each start.
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
    """An option that has its own answer."""
    return click.Option(
        names, is_flag=True, expose_value=False, is_eager=True, callback=show, help=text
    )


_HELP = _answer(["-h", "--help"], _show_help, "Show this message and exit.")


class _Parsed(click.Command):
    """What verbs and groups have alike."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _SHARED_OPTIONS

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The one that all share."""
        return _HELP

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """click's; help that nobody asked for is an error."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            raise _NoVerb(ctx)
        return super().parse_args(ctx, args)

    def make_parser(self, ctx: click.Context) -> Any:
        """click's, that knows `-q` at the first look: it looks for a long option of that name
        before, and makes the error for that with all that looks alike (difflib, 1 ms)."""
        parser = super().make_parser(ctx)
        short, long = getattr(parser, "_short_opt", None), getattr(parser, "_long_opt", None)
        if short and long:
            long.update(short)
        return parser


class Command(_Parsed):
    """A verb. Options may stand before and behind operands."""


class Group(_Parsed, click.Group):
    """A tool, or a noun inside a tool."""

    command_class = Command
    group_class = type  # a group inside a group is of the same class


CONTEXT: dict[str, Any] = {"max_content_width": 100}


def tool(name: str, help_text: str) -> Group:
    """The group that a whole tool is, with --version."""
    group = Group(name=name, help=help_text, context_settings=CONTEXT)
    group.params.append(_answer(["--version"], _show_version, "Show the version and exit."))
    return group


def output_options(table: Sequence[Field[Any]]) -> Callable[[F], F]:
    """Give a `list` or `show` verb -q, -o, -z and --format; it receives one `shape`."""
    names = [f.name for f in table]

    def split(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
        chosen = tuple(v.strip() for v in value.split(",")) if value is not None else ()
        check_fields(chosen, table)
        return chosen

    def decorate(function: F) -> F:
        import functools

        @functools.wraps(function)
        def wrapper(
            *args: Any, quiet: bool, fields: tuple[str, ...], form: str, nul: bool, **kwargs: Any
        ) -> Any:
            if quiet + bool(fields) + (form == "json") > 1:
                raise click.UsageError("-q, -o and --format json are mutually exclusive")
            if nul and not (quiet or fields):
                raise click.UsageError("-z requires -q or -o")
            shape = Shape(names=quiet, fields=fields, as_json=form == "json", nul=nul)
            return function(*args, shape=shape, **kwargs)

        for option in (
            click.option("-z", "--nul", is_flag=True, help="End records with NUL (for -q and -o)."),
            click.option(
                "--format",
                "form",
                type=click.Choice(["table", "json"]),
                default="table",
                help="Output format; json prints one array of objects.",
            ),
            click.option(
                "-o",
                "--output",
                "fields",
                metavar="FIELD,...",
                type=FieldList(names),
                callback=split,
                help=f"Print only these fields, separated by tabs: {','.join(names)}.",
            ),
            click.option("-q", "--quiet", is_flag=True, help="Print only names, one per line."),
        ):
            wrapper = option(wrapper)
        return wrapper  # type: ignore[return-value]

    return decorate


class FieldList(Words):
    """The operand of -o; completes the last field of the list."""

    name = "fields"

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = fields

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        head, comma, last = incomplete.rpartition(",")
        return [CompletionItem(head + comma + f) for f in self.fields if f.startswith(last)]


class Name(Words):
    """An operand that names an object; `choices` reads the candidates from a loaded state."""

    def __init__(self, name: str, choices: Callable[[Any, str], Iterable[str]]) -> None:
        self.name = name
        self._choices = choices

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        from dumm_tools import statefile

        try:
            directory = working_directory(ctx)
            found = sorted(self._choices(statefile.load(directory), directory))
        except (DummError, OSError):
            return []
        return [CompletionItem(n) for n in found if n.startswith(incomplete)]


class Progress:
    """One changing line on stderr when that is a terminal; nothing at all when it is not."""

    def __init__(self) -> None:
        self._on = messages.on_terminal()
        self._shown = False

    def __call__(self, text: str) -> None:
        if self._on:
            messages.progress(text)
            self._shown = True
        else:
            proc.log(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            messages.clear()
