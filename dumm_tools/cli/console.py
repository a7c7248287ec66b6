"""dumm-console: terminals in guests."""

from __future__ import annotations

import sys
from typing import Any

import click

from dumm_tools import messages, output
from dumm_tools.cli import common
from dumm_tools.cli.common import output_options, run
from dumm_tools.cli.execute import run_on_host
from dumm_tools.cli.operands import guests
from dumm_tools.output import Field

cli = common.tool("dumm-console", "Consoles: terminals in guests, and what their kernels printed.")


def _no_verb(context: click.Context, keep_going: bool) -> int | None:
    """Without a verb: the interactive console, or a batch."""
    if context.invoked_subcommand is not None:
        return None
    from dumm_tools.cli import batch

    return batch.main(common.labdir(), keep_going)


cli.invoke_without_command, cli.no_args_is_help = True, False
cli.callback = click.pass_context(_no_verb)
cli.params.append(
    click.Option(
        ["-k", "--keep-going"], is_flag=True, help="Do not end a batch at the first failure."
    )
)
cli.help = """Consoles: terminals in guests, and what their kernels printed.

Without a command, on a terminal, it reads commands with history and completion: the words of the
tools without "dumm-", such as "guest start alice". From a file or a pipe it reads the same as a
batch, one Python start for all lines, and ends at the first that fails. '#' begins a comment.
"""

FIELDS: list[Field[Any]] = [
    Field("name", "The guest.", lambda v: v.guest),
    Field("line", "Number of the line, for --line.", lambda v: v.line),
    Field("device", "Terminal in the guest.", lambda v: f"tty{v.line}"),
    Field("attached", "Whether somebody is attached to it.", lambda v: v.attached),
    Field("path", "The FIFO that takes what is typed.", lambda v: v.path, in_table=False),
]

line_option = click.option(
    "--line",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Which terminal of the guest: ttyN; 0 is the kernel's console.",
)


@cli.command()
@click.argument("name", type=guests("running"), required=False)
@click.option("--host", is_flag=True, help="On the host, where the lab's links and mounts are.")
@click.option("-u", "--user", metavar="USER", help="Log in as this user (default: root).")
def shell(name: str | None, host: bool, user: str | None) -> int:
    """Open a login shell in a guest, on a real terminal that follows the window's size.

    Without a terminal it reads commands from standard input. With --host and no NAME it is your
    own shell, in the lab's own namespaces: tcpdump, ip and bridge see the lab's links there.
    """
    import os

    from dumm_tools.agent import session
    from dumm_tools.guests import execution

    if host:
        if name or user:
            raise click.UsageError("--host takes no guest and no user")
        return run_on_host((os.environ.get("SHELL") or "/bin/sh",), shell=True)
    if name is None:
        raise click.UsageError("name a guest, or say --host")
    env = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    program = session.Program(["~"], env, "~", user or "root", terminal=os.isatty(0))
    try:
        return execution.execute(common.labdir(), name, program)
    except BrokenPipeError:
        import signal

        common.die_of(signal.SIGPIPE)


@cli.command()
@click.argument("name", type=guests("running"))
@line_option
def attach(name: str, line: int) -> None:
    """Join this terminal to a raw console of a guest; ^] detaches.

    Without an init of the guest's own, a root shell serves line 0 once something is typed.
    """
    from dumm_tools.guests import console

    def say() -> None:
        messages.say(f"attached to {name}, line {line}; ^] detaches")

    try:
        console.attach(common.labdir(), name, line, say)
    except console.Signalled as e:
        common.die_of(e.number)


@cli.command()
@click.argument("name", type=guests())
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until the guest ends.")
@click.option(
    "-n", "--lines", metavar="N", type=click.IntRange(min=0), help="Only the last N lines."
)
def log(name: str, follow: bool, lines: int | None) -> None:
    """Print what a guest's kernel console printed since its last start."""
    from dumm_tools.guests import console

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    console.log(common.labdir(), name, write, last=lines, follow=follow)


@cli.command()
@click.argument("name", type=guests("running"))
@click.argument("text", metavar="[--] TEXT...", nargs=-1, required=True)
@line_option
def send(name: str, text: tuple[str, ...], line: int) -> None:
    """Type TEXT and Enter at a raw console of a guest."""
    from dumm_tools.guests import console

    console.send(common.labdir(), name, line, " ".join(text))


@cli.command("list")
@output_options(FIELDS)
def list_(shape: output.Shape) -> None:
    """List the raw consoles of running guests."""
    from dumm_tools.guests import console

    output.emit(console.list_(common.labdir()), FIELDS, shape)


def main() -> None:
    """Entry point."""
    run(cli, "dumm-console")
