"""`dumm-guest exec`: a command in a guest, or on the host in the lab's namespaces."""

from __future__ import annotations

from typing import Any

import click

from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.operands import guest_list, guests
from dumm_tools.cli.values import Seconds
from dumm_tools.cli.words import Words

#: How many words follow `--`.
_AFTER = "dumm.after"


class GuestThenCommand(Words):
    """NAME, followed by a command that is passed on unchanged; completes the name."""

    name = "words"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        if ctx.params.get("words") or ctx.params.get("everyone") or ctx.params.get("only"):
            return []
        return guests("running").shell_complete(ctx, param, incomplete)


class _Exec(commands.Command):
    """Remembers which words were before `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_AFTER] = len(args) - args.index("--") - 1 if "--" in args else None
        return super().parse_args(ctx, args)


def _pairs(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for one in value:
        key, equals, rest = one.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"'{one}' is not K=V")
        pairs[key] = rest
    return pairs


@click.command("exec", cls=_Exec)
@click.option("--all", "everyone", is_flag=True, help="Run it in all running guests, side by side.")
@click.option(
    "--only",
    metavar="NAME,...",
    multiple=True,
    type=guest_list("running"),
    help="Run it in these guests, side by side. May be repeated.",
)
@click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="With --all or --only: in at most so many guests at a time (default: in all).",
)
@click.option(
    "-i",
    "--input",
    "with_input",
    is_flag=True,
    help="With --all or --only: give each a copy of standard input (default: none).",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "json"]),
    help="With --all or --only: lines with the names of the guests (default), or one array with "
    "an object for each.",
)
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
@click.argument(
    "words", metavar="NAME|--all|--only|--host -- CMD [ARG...]", nargs=-1, type=GuestThenCommand()
)
def exec_(
    everyone: bool,
    only: tuple[str, ...],
    jobs: int | None,
    with_input: bool,
    form: str | None,
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

    With --all or --only, the command runs in several guests at once. Each line that it prints has
    the name of its guest in front of it, on standard output or error as the command chose, or is
    kept for --format json. Standard input is empty, unless -i is given. The exit status is that of
    the first guest in which it is not 0, in the order of the names.

    With --host instead of NAME, the command runs on the host, in the lab's namespaces, where
    tcpdump, ip and bridge see the lab's links.
    """
    import os

    from dumm_tools.agent.program import Program
    from dumm_tools.guests import execution

    several = everyone or bool(only)
    if host:
        if terminal or workdir or user or timeout or env or several or jobs or with_input or form:
            raise click.UsageError("--host cannot be combined with other options")
        if not words:
            raise click.UsageError("no command to run")
        return run_on_host(words)
    if several:
        from dumm_tools.cli import execute_many

        after = click.get_current_context().meta[_AFTER]
        if everyone and only:
            raise click.UsageError("--all and --only contradict each other")
        if after is not None and after < len(words):
            option = "--all" if everyone else "--only"
            raise click.UsageError(f"{option} cannot be combined with names before '--'")
        if terminal:
            raise click.UsageError("a terminal (-t) is for a single guest only")
        if not words:
            raise click.UsageError("no command to run")
        program = Program(words, env, workdir or "/", user or "root", False, timeout)
        names = execute_many.chosen(only)
        return execute_many.run(names, program, jobs or 0, with_input, form == "json")
    if jobs or form:
        raise click.UsageError("-j and --format need --all or --only")
    if len(words) < 2:
        raise click.UsageError("no command to run" if words else "no guest named")
    name, *command = words
    if terminal and "TERM" in os.environ:
        env = {"TERM": os.environ["TERM"], **env}
    program = Program(command, env, workdir or "/", user or "root", terminal, timeout)
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
        from dumm_tools.agent.program import Program, shell_hint

        hint = shell_hint(Program(command), command[0])
        raise ExecFailed(f"cannot run '{command[0]}': command not found", 127, hint=hint)
    return isolation.run_inside(command, shell=shell, prog=ending.program())
