"""Code shared by all commands: exit handling, common options, operands with completion."""

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
    """Run `command` with our own arguments, and exit.

    Exit immediately: tearing down its modules costs Python 6 ms, for nobody's benefit.
    """
    status = outcome(command, prog)
    if sys.getprofile() or sys.gettrace():  # a profiler or tracer needs it
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def outcome(command: click.Command, prog: str, args: Sequence[str] | None = None) -> int:
    """Run `command` with our own arguments or `args`; the only place that turns exceptions into an
    exit status."""
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
            # Data that stdout did not accept stays in its buffer, and would fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except SystemExit as e:  # raised by click after completing a word
        status = e.code
    return status if isinstance(status, int) else 0


class _NoVerb(click.UsageError):
    """A tool or noun was named without a verb; the message is its help. click has an exception for
    this since 8.2: before, it prints the help on stdout and calls that a success."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__(ctx.get_help(), ctx)


def _passes_words_on(context: click.Context | None) -> bool:
    """Whether the verb takes the words of another command, which `--` separates."""
    params = context.command.params if context else []
    return any(isinstance(p, click.Argument) and "--" in (p.metavar or "") for p in params)


def tell(prog: str, error: Exception) -> int:
    """Print an error, with its traceback if DUMM_DEBUG=1; return its exit status."""
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
    """Replace a closed stdin, stdout or stderr, whose number the first file opened would get
    otherwise. Writing to a closed stdout is an error, to a closed stderr it is not."""
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
    """End by signal `number`, so that the calling shell sees it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)


def report(prog: str, message: str, hint: str | None = None) -> None:
    """Print an error, in one line, and its hint on stderr. It may contain text from a guest, which
    must not control the terminal."""
    lines = [f"{prog}: {' '.join(message.split())}"]
    if hint:
        lines.append(f"{prog}: hint: {' '.join(hint.split())}")
    messages.say(*lines)


def warn(text: str) -> None:
    """Print a warning on stderr: the operation succeeded, but perhaps not as expected."""
    messages.say(f"{program()}: warning: {text}", over=True)


def each(operands: Iterable[T], action: Callable[[T], object]) -> int:
    """Call `action` for all operands and report each failure; return the first failure's code."""
    prog = program()
    status = 0
    for operand in operands:
        try:
            action(operand)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as e:  # one failure must not affect the other operands
            code = tell(prog, e)
            status = status or code
    return status


def program() -> str:
    """The name of the running tool, for its messages."""
    return click.get_current_context().find_root().info_name or "dumm"


def labdir() -> str:
    """The working directory named by -C or DUMM_DIR: absolute, without links, and trusted
    (`trust.resolve`)."""
    context = click.get_current_context()
    found = context.meta.get("dumm.root")
    if found is None:
        found = context.meta["dumm.root"] = working_directory(context)
    return str(found)


def entered(*, make: bool = True) -> str:
    """Like `labdir`, but inside the lab's own namespaces if it has any (`entry`): for
    verbs that look at links or mounts or, with `make`, change them."""
    directory = labdir()
    meta = click.get_current_context().meta
    if "dumm.entered" not in meta:
        from dumm_tools.running import entry

        if entry.bring_up(directory) if make else entry.enter(directory):
            meta["dumm.entered"] = True
    return directory


def working_directory(context: click.Context | None) -> str:
    """The working directory for a context (None when completing without one)."""
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
    """An operand that names a directory, or a path that may become one. click's own type looks up
    translations at each start, as do its version and help options, which costs a millisecond."""

    name = "directory"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if os.path.lexists(value) and not os.path.isdir(value):
            self.fail(f"'{value}' is not a directory", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


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
        """click's; help that nobody asked for is an error."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            raise _NoVerb(ctx)
        return super().parse_args(ctx, args)

    def make_parser(self, ctx: click.Context) -> Any:
        """click's parser, but recognizing `-q` at the first lookup: click first looks for a long
        option of that name, and prepares the error for it with similar names (difflib, 1 ms)."""
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


CONTEXT: dict[str, Any] = {"max_content_width": 100}


def tool(name: str, help_text: str) -> Group:
    """The group of a whole tool, with --version."""
    group = Group(name=name, help=help_text, context_settings=CONTEXT)
    group.params.append(_answer(["--version"], _show_version, "Show the version and exit."))
    return group


def output_options(table: Sequence[Field[Any]]) -> Callable[[F], F]:
    """Add -q, -o, -z and --format to a `list` or `show` verb, which receives a single `shape`."""
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
    """The argument of -o; completes the last field of the list."""

    name = "fields"

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = fields

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        head, comma, last = incomplete.rpartition(",")
        return [CompletionItem(head + comma + f) for f in self.fields if f.startswith(last)]


class Name(Words):
    """An operand that names an object; `choices` takes the candidates from a loaded state."""

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
    """A changing line on stderr if that is a terminal; otherwise nothing."""

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
