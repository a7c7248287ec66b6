"""dumm-console: terminals in guests."""

from __future__ import annotations

import sys
from typing import Any

import click

from dumm_tools import messages, output
from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.ending import run
from dumm_tools.cli.execute import run_on_host
from dumm_tools.cli.guest_startup import FileOrStdin
from dumm_tools.cli.imports import imports
from dumm_tools.cli.operands import guests
from dumm_tools.cli.shapes import output_options
from dumm_tools.output import Field

cli = commands.tool("dumm-console", "Open terminals in guests, and show what their kernels print.")


def _no_verb(context: click.Context, keep_going: bool, as_json: bool) -> int | None:
    """Without a verb: the interactive console, a batch, or a framed session."""
    if context.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json cannot be combined with a command")
        return None
    if as_json:
        if keep_going:
            raise click.UsageError("--json cannot be combined with --keep-going")
        from dumm_tools.cli import framed

        return framed.main(lab.anywhere())
    from dumm_tools.cli import batch

    return batch.main(lab.labdir(), keep_going)


cli.invoke_without_command, cli.no_args_is_help = True, False
cli.callback = click.pass_context(_no_verb)
cli.params.append(
    click.Option(["-k", "--keep-going"], is_flag=True, help="Continue a batch after a failure.")
)
cli.params.append(
    click.Option(
        ["--json", "as_json"],
        is_flag=True,
        help="Read requests as lines of JSON, and answer them as lines of JSON.",
    )
)
cli.help = """Open terminals in guests, and show what their kernels print.

Without a command, on a terminal, read commands with history and completion: those of all tools
without "dumm-", such as "guest start alice". From a file or a pipe, read the same commands as a
batch, with a single start of Python, and stop at the first that fails. '#' starts a comment.
"""

FIELDS: list[Field[Any]] = [
    Field("name", "Name of the guest.", lambda v: v.guest),
    Field("line", "Number of the terminal, for --line.", lambda v: v.line),
    Field("device", "Terminal in the guest.", lambda v: f"tty{v.line}"),
    Field("attached", "Whether a terminal is attached to it.", lambda v: v.attached),
    Field("path", "FIFO for the input.", lambda v: v.path, in_table=False),
]

line_option = click.option(
    "--line",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Terminal ttyN of the guest; 0 is the kernel's console.",
)


@cli.command()
@click.argument("name", type=guests("running"), required=False)
@click.option("--host", is_flag=True, help="Run a shell on the host, inside the lab's namespaces.")
@click.option("-u", "--user", metavar="USER", help="Log in as this user (default: root).")
def shell(name: str | None, host: bool, user: str | None) -> int:
    """Open a login shell in a guest, on a terminal of its own.

    The terminal follows the window size. If standard input is not a terminal, the shell reads
    commands from it. With --host instead of NAME, run your own shell in the lab's namespaces, where
    tcpdump, ip and bridge see the lab's links.
    """
    import os

    from dumm_tools.agent.program import Program
    from dumm_tools.guests import execution

    if host:
        if name or user:
            raise click.UsageError("--host cannot be combined with a guest or a user")
        return run_on_host((os.environ.get("SHELL") or "/bin/sh",), shell=True)
    if name is None:
        raise click.UsageError("name a guest, or use --host")
    env = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    program = Program(["~"], env, "~", user or "root", terminal=os.isatty(0))
    try:
        return execution.execute(lab.labdir(), name, program)
    except BrokenPipeError:
        import signal

        ending.die_of(signal.SIGPIPE)


@cli.command()
@click.argument("name", type=guests("running"))
@line_option
def attach(name: str, line: int) -> None:
    """Connect this terminal to a raw console of a guest; ^] detaches.

    In a guest without an init, a root shell starts on line 0 once something is typed.
    """
    from dumm_tools import waiting
    from dumm_tools.guests import console

    def say() -> None:
        messages.say(f"attached to {name}, line {line}; ^] detaches")

    try:
        console.attach(lab.labdir(), name, line, say)
    except waiting.Ended as e:
        ending.die_of(e.number)


@cli.command()
@click.argument("name", type=guests())
@click.option("-f", "--follow", is_flag=True, help="Follow the output until the guest ends.")
@click.option(
    "-n", "--lines", metavar="N", type=click.IntRange(min=0), help="Print only the last N lines."
)
def log(name: str, follow: bool, lines: int | None) -> None:
    """Print the output of a guest's kernel console since its last start."""
    from dumm_tools.guests import console

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    console.log(lab.labdir(), name, write, last=lines, follow=follow)


@cli.command()
@click.argument("name", type=guests("running"))
@click.argument("text", metavar="[--] TEXT...", nargs=-1, required=True)
@line_option
def send(name: str, text: tuple[str, ...], line: int) -> None:
    """Type TEXT and Enter at a raw console of a guest."""
    from dumm_tools.guests import console

    console.send(lab.labdir(), name, line, " ".join(text))


@cli.command("list")
@output_options(FIELDS)
def list_(shape: output.Shape) -> None:
    """List the raw consoles of running guests."""
    from dumm_tools.guests import console

    output.emit(console.list_(lab.labdir()), FIELDS, shape)


@cli.command()
@click.argument("file", metavar="FILE|-", type=FileOrStdin())
@click.option(
    "--dry-run", is_flag=True, help="Print the commands that would be run; 1 if there are any."
)
@click.option("--prune", is_flag=True, help="Delete whatever the file does not have.")
def apply(file: str, dry_run: bool, prune: bool) -> int:
    """Make a lab what a file says.

    The file consists of the commands that make it, as `dumm-fs dump` prints them. Only what differs
    is changed, in running guests as well; if nothing does, nothing is done. Guests, bridges and
    interfaces that the file creates become entirely as it says; others stay, unless --prune is
    given. Everything is checked before anything is changed.
    """
    from dumm_tools.cli import apply as applying

    found = applying.read(file)
    return applying.show(found, prune=prune) if dry_run else applying.run(found, prune=prune)


cli.add_command(imports)


def main() -> None:
    """Entry point."""
    run(cli, "dumm-console")
