"""How a command ends: what it says of failures, and its exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NoReturn, TextIO, TypeVar

import click

from dumm_tools import messages
from dumm_tools.cli.commands import NoVerb
from dumm_tools.errors import DummError, Usage, os_reason

T = TypeVar("T")
#: Instead of standard input, if that is closed.
_instead: TextIO | None = None
#: Is told of each error too: the operand that it concerns, if that is known, the message, the hint.
hear: Callable[[str | None, str, str | None], None] | None = None
_operand: str | None = None


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
    except NoVerb as e:
        messages.say(*e.format_message().splitlines())
        status = e.exit_code
    except click.UsageError as e:
        where = e.ctx.command_path if e.ctx else prog
        hint = hint_of(e) or f"see '{where} --help'"
        if isinstance(e, click.NoSuchOption) and _passes_words_on(e.ctx):
            hint = f"put '--' before a command that has options of its own; {hint}"
        report(prog, said(e), hint)
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


def said(error: click.UsageError) -> str:
    """The message of a usage error, in our form."""
    text = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        # the wording of click before 8.5
        text = text.replace(f"option: {error.option_name}", f"option '{error.option_name}'")
    return text[:1].lower() + text[1:]


def hint_of(error: click.UsageError) -> str | None:
    """The hint for a usage error, if there is a better one than the help."""
    found: str | None = getattr(error, "hint", None)
    return found or _operands_hint(error)


def _operands_hint(error: click.UsageError) -> str | None:
    """For missing operands, and too many: which there are, or that one is an option here."""
    context, message = error.ctx, error.message
    if context is None:
        return None
    if not isinstance(error, click.MissingParameter):
        _, unexpected, rest = message.partition("unexpected ")
        if not unexpected:
            return None
        known = {name for param in context.command.params for name in param.opts}
        for word in rest.translate(str.maketrans("().'", "    ")).split():
            if f"--{word}" in known:
                return f"did you mean '--{word}'?"
    return context.get_usage().replace("Usage:", "usage:", 1)


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
    if isinstance(error, BlockingIOError) and not error.filename:  # by fork(2)
        hint = "the limit of processes is too low: ulimit -u"
        report(prog, f"cannot start a process: {error.strerror}", hint)
    elif isinstance(error, OSError):
        report(prog, os_reason(error))
    else:
        text = f"internal error: {type(error).__name__}: {error}"
        report(prog, text, "set DUMM_DEBUG=1 for a traceback")
    return 1


def _fill_standard_streams() -> None:
    """Replace a closed stdin, stdout or stderr, whose number the first file opened would get
    otherwise. Writing to a closed stdout is an error, to a closed stderr it is not."""
    global _instead
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stdin is None:
        sys.stdin = _instead = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def stdin() -> BinaryIO:
    """Standard input, for what `-` names; Usage if it is closed: that is not an empty file."""
    if sys.stdin is _instead:
        raise Usage("standard input is closed")
    return sys.stdin.buffer


def die_of(number: int) -> NoReturn:
    """End by signal `number`, so that the calling shell sees it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sys.exit(128 + number)


def report(prog: str, message: str, hint: str | None = None) -> None:
    """Print an error, in one line, and its hint on stderr. It may contain text from a guest, which
    must not control the terminal."""
    if hear is not None:
        hear(_operand, " ".join(message.split()), " ".join(hint.split()) if hint else None)
    lines = [f"{prog}: {' '.join(message.split())}"]
    if hint:
        lines.append(f"{prog}: hint: {' '.join(hint.split())}")
    messages.say(*lines)


def warn(text: str) -> None:
    """Print a warning on stderr: the operation succeeded, but perhaps not as expected."""
    messages.say(f"{program()}: warning: {text}", over=True)


def note(text: str) -> None:
    """Print a remark on stderr."""
    messages.say(f"{program()}: {text}", over=True)


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
            with concerning(str(operand)):
                code = tell(prog, e)
            status = status or code
    return status


@contextlib.contextmanager
def concerning(operand: str) -> Iterator[None]:
    """Errors that are reported inside this block concern an operand."""
    global _operand
    _operand = operand
    try:
        yield
    finally:
        _operand = None


def program() -> str:
    """The name of the running tool, for its messages."""
    return click.get_current_context().find_root().info_name or "dumm"
