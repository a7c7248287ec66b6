"""`dumm-guest exec`: a command in a guest, or on the host in the lab's namespaces."""

from __future__ import annotations

from typing import Any

import click

from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.operands import guests
from dumm_tools.cli.values import Seconds
from dumm_tools.cli.words import Words


class GuestThenCommand(Words):
    """NAME, followed by a command that is passed on unchanged; completes the name."""

    name = "words"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        if ctx.params.get("words"):
            return []
        return guests("running").shell_complete(ctx, param, incomplete)


def _pairs(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for one in value:
        key, equals, rest = one.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"'{one}' is not K=V")
        pairs[key] = rest
    return pairs


@click.command("exec", cls=commands.Command)
@click.option("--host", is_flag=True, help="Run it on the host, inside the lab's namespaces.")
@click.option("-t", "--tty", "terminal", is_flag=True, help="Allocate a terminal for the command.")
@click.option(
    "-e",
    "--env",
    metavar="K=V",
    multiple=True,
    callback=_pairs,
    help="Set an environment variable.",
)
@click.option(
    "-w", "--workdir", metavar="DIR", help="Working directory of the command (default: /)."
)
@click.option(
    "-u", "--user", metavar="USER[:GROUP]", help="Run the command as this user (default: root)."
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Seconds(positive=True),
    help="Terminate the command after this time (exit status 5).",
)
@click.argument("words", metavar="NAME|--host -- CMD [ARG...]", nargs=-1, type=GuestThenCommand())
def exec_(
    host: bool,
    terminal: bool,
    env: dict[str, str],
    workdir: str | None,
    user: str | None,
    timeout: float | None,
    words: tuple[str, ...],
) -> int:
    """Run a command in a guest.

    Standard input, output and error and the exit status are passed through. This needs no network,
    and no program in the guest other than the command. Exit status 125 means that dumm-guest itself
    failed, 126 that the command could not be run, 127 that it was not found, and 128 + n that it
    was killed by signal n.

    With --host instead of NAME, the command runs on the host, in the lab's namespaces, where
    tcpdump, ip and bridge see the lab's links.
    """
    import os

    from dumm_tools.agent import session
    from dumm_tools.guests import execution

    if host:
        if terminal or workdir or user or timeout or env:
            raise click.UsageError("--host cannot be combined with other options")
        if not words:
            raise click.UsageError("no command to run")
        return run_on_host(words)
    if len(words) < 2:
        raise click.UsageError("no command to run" if words else "no guest named")
    name, *command = words
    if terminal and "TERM" in os.environ:
        env = {"TERM": os.environ["TERM"], **env}
    program = session.Program(command, env, workdir or "/", user or "root", terminal, timeout)
    try:
        return execution.execute(lab.labdir(), name, program)
    except BrokenPipeError:
        import signal

        ending.die_of(signal.SIGPIPE)


def run_on_host(command: tuple[str, ...], *, shell: bool = False) -> int:
    """Run a program of the host in the lab's own namespaces, if it has any."""
    import shutil

    from dumm_tools import statefile
    from dumm_tools.errors import ExecFailed
    from dumm_tools.running import isolation

    statefile.load(lab.entered())
    if shutil.which(command[0]) is None and "/" not in command[0]:
        raise ExecFailed(f"cannot run '{command[0]}': command not found", 127)
    return isolation.run_inside(command, shell=shell, prog=ending.program())
