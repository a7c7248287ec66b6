"""dumm-guest: the verbs that start and stop guests, and wait for them."""

from __future__ import annotations

import click

from dumm_tools import messages
from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.ending import each, warn
from dumm_tools.cli.operands import guests
from dumm_tools.cli.progress import Progress
from dumm_tools.cli.values import Seconds
from dumm_tools.errors import DummError

timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=Seconds(),
    default=30.0,
    show_default=True,
    help="Give up after this time.",
)


wait_option = click.option(
    "--wait",
    "what",
    type=click.Choice(["ready", "booted"]),
    default="ready",
    show_default=True,
    help="Condition to wait for; see `wait`.",
)


class Errors:
    """Collects failures of individual guests; keeps the first exit code."""

    def __init__(self, keep: bool = True) -> None:
        self.code = 0
        self._keep = keep
        self.names: list[str] = []
        self._prog = ending.program()

    def __call__(self, name: str, error: Exception) -> None:
        if isinstance(error, DummError) and not self._keep:
            error.hint = None  # the log that it refers to is deleted, too
        if messages.on_terminal():
            messages.clear()  # a progress line that is shown
        with ending.concerning(name):
            code = ending.tell(self._prog, error)
        self.code = self.code or code
        self.names.append(name)


def check_names(names: tuple[str, ...], everyone: bool) -> None:
    """Raise UsageError unless there are either names or --all."""
    if everyone == bool(names):
        raise click.UsageError(
            "name guests, or use --all" if not names else "--all cannot be combined with names"
        )


def chosen(
    labdir: str, names: tuple[str, ...], everyone: bool, states: tuple[str, ...]
) -> list[str]:
    """The operands or, with --all, the guests in one of `states`."""
    from dumm_tools.running import guest_views

    check_names(names, everyone)
    if everyone:
        return guest_views.all_names(labdir, lambda s: s in states)
    return list(dict.fromkeys(names))


def start_all(
    labdir: str,
    names: list[str],
    timeout: float,
    what: str | None,
    *,
    may_run: bool = False,
    keep: bool = True,
) -> Errors:
    """Start guests in parallel with progress on a terminal, and wait for `what`; `keep` is False
    for guests that will be deleted if they fail."""
    from dumm_tools.guests import start as starting

    errors = Errors(keep)
    with Progress() as progress:
        starting.start(
            labdir,
            names,
            timeout=timeout,
            wait=what,
            may_run=may_run,
            on_error=errors,
            warn=warn,
            progress=progress,
        )
    return errors


@click.command(cls=commands.Command)
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests("stopped", "crashed"))
@click.option("--all", "everyone", is_flag=True, help="Start all guests that are not running.")
@timeout_option
@wait_option
@click.option("--no-wait", is_flag=True, help="Return as soon as the kernels run; see `wait`.")
@click.option(
    "--may-run",
    "--may-exist",
    "may_run",
    is_flag=True,
    help="Do not fail if it is already running.",
)
def start(
    names: tuple[str, ...],
    everyone: bool,
    timeout: float,
    what: str,
    no_wait: bool,
    may_run: bool,
) -> int:
    """Start guests in parallel; return when all are ready."""
    if no_wait and what != "ready":
        raise click.UsageError("--no-wait cannot be combined with --wait")
    labdir = lab.entered()
    targets = chosen(labdir, names, everyone, ("stopped", "crashed", "starting"))
    return start_all(labdir, targets, timeout, None if no_wait else what, may_run=may_run).code


UP = ("running", "paused", "starting", "stopping", "crashed")
stop_timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=Seconds(),
    help="Time to wait before killing them (default: 10, or 100 with an init).",
)


@click.command(cls=commands.Command)
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests(*UP))
@click.option("--all", "everyone", is_flag=True, help="Stop all running guests.")
@stop_timeout_option
@click.option("--kill", "force", is_flag=True, help="Kill the guests immediately.")
@click.option(
    "--if-running",
    "--if-exists",
    "if_exists",
    is_flag=True,
    help="Do not fail if it is not running, or does not exist.",
)
def stop(
    names: tuple[str, ...], everyone: bool, timeout: float | None, force: bool, if_exists: bool
) -> int:
    """Shut down guests in parallel, and kill them after a timeout."""
    from dumm_tools.guests import stop as stopping

    errors, labdir = Errors(), lab.entered(make=False)
    targets = chosen(labdir, names, everyone, UP)
    stopping.stop(
        labdir, targets, timeout=timeout, force=force, if_exists=if_exists, on_error=errors
    )
    return errors.code


@click.command(cls=commands.Command)
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests(*UP))
@click.option("--all", "everyone", is_flag=True, help="Restart all running guests.")
@timeout_option
@wait_option
def restart(names: tuple[str, ...], everyone: bool, timeout: float, what: str) -> int:
    """Stop guests and start them again, in parallel."""
    from dumm_tools.guests import stop as stopping

    labdir = lab.entered()
    targets = chosen(labdir, names, everyone, UP)
    errors = Errors()
    stopping.stop(labdir, targets, timeout=None, force=False, on_error=errors)
    started = start_all(labdir, [n for n in targets if n not in errors.names], timeout, what)
    return errors.code or started.code


@click.command(cls=commands.Command)
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests("running"))
@click.option("--all", "everyone", is_flag=True, help="Pause all running guests.")
def pause(names: tuple[str, ...], everyone: bool) -> int:
    """Suspend the kernels of guests."""
    from dumm_tools.guests import control

    labdir = lab.entered(make=False)
    return each(chosen(labdir, names, everyone, ("running",)), lambda n: control.pause(labdir, n))


@click.command(cls=commands.Command)
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests("paused"))
@click.option("--all", "everyone", is_flag=True, help="Resume all paused guests.")
def resume(names: tuple[str, ...], everyone: bool) -> int:
    """Resume paused guests."""
    from dumm_tools.guests import control

    labdir = lab.entered(make=False)
    return each(
        chosen(labdir, names, everyone, ("paused",)), lambda n: control.resume(labdir, n, warn)
    )


@click.command("is-running", cls=commands.Command)
@click.argument("name", type=guests())
def is_running(name: str) -> int:
    """Exit with 0 if a guest is running, with 1 if not."""
    from dumm_tools.running import guest_views

    return 0 if guest_views.is_running(lab.labdir(), name) else 1


#: In the order of the manual.
COMMANDS = (start, stop, restart, pause, resume)
