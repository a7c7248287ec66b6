"""dumm-guest: guests and the commands that run in them."""

from __future__ import annotations

import sys
from typing import Any

import click

from dumm_tools import output
from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.cached import Cached
from dumm_tools.cli.ending import each, run
from dumm_tools.cli.execute import exec_
from dumm_tools.cli.operands import guests
from dumm_tools.cli.progress import Progress
from dumm_tools.cli.shapes import output_options
from dumm_tools.cli.values import Seconds, human_size
from dumm_tools.errors import DummError
from dumm_tools.output import Field

cli = commands.tool("dumm-guest", "Manage guests: User Mode Linux kernels that run as processes.")


def _fields() -> list[Field[Any]]:
    return [
        Field("name", "Name of the guest, and its hostname.", lambda v: v.guest.name),
        Field(
            "state", "stopped, starting, running, paused, stopping or crashed.", lambda v: v.state
        ),
        Field(
            "pid", "Process id of the guest's kernel; absent if it is not running.", lambda v: v.pid
        ),
        Field("kernel", "Kernel pack or UML binary.", lambda v: v.kernel),
        Field("master", "Master underneath the guest's own files.", lambda v: v.master),
        Field(
            "memory",
            "Size of the memory, in bytes.",
            lambda v: v.guest.memory,
            people=lambda v: output.size(v.guest.memory),
        ),
        Field("init", "Init program; absent if only the agent runs.", lambda v: v.guest.init),
        Field("args", "Additional kernel arguments.", lambda v: v.guest.args, in_table=False),
        Field("ifaces", "Interfaces of the guest.", lambda v: v.ifaces),
        Field("overlays", "Overlays, newest first.", lambda v: v.guest.overlays, in_table=False),
    ]


FIELDS = _fields()

memory_option = click.option(
    "--memory",
    metavar="SIZE",
    callback=human_size,
    help="Amount of memory, such as 64M (default) or 1G.",
)
kernel_option = click.option(
    "--kernel",
    metavar="PACK|FILE",
    type=Cached("kernels"),
    help="Kernel pack or UML binary (default: that of the working set).",
)
master_option = click.option(
    "--master",
    metavar="NAME|DIR",
    type=Cached("masters"),
    help="Master of the root file system (default: that of the working set).",
)
init_option = click.option(
    "--init", metavar="PATH", help="Program to start as pid 1, such as /sbin/init."
)
arg_option = click.option(
    "--arg", "args", metavar="KERNEL_ARG", multiple=True, help="Additional kernel argument."
)
timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=Seconds(),
    default=30.0,
    show_default=True,
    help="Give up after this time.",
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
        code = ending.tell(self._prog, error)
        self.code = self.code or code
        self.names.append(name)


def chosen(
    labdir: str, names: tuple[str, ...], everyone: bool, states: tuple[str, ...]
) -> list[str]:
    """The operands or, with --all, the guests in one of `states`."""
    from dumm_tools.running import guest_views

    if everyone == bool(names):
        raise click.UsageError(
            "name guests, or use --all" if not names else "--all cannot be combined with names"
        )
    if everyone:
        return guest_views.all_names(labdir, lambda s: s in states)
    return list(dict.fromkeys(names))


def _start(
    labdir: str, names: list[str], timeout: float, wait: bool, *, keep: bool = True
) -> Errors:
    from dumm_tools.guests import start as starting

    errors, prog = Errors(keep), ending.program()

    def warn(text: str) -> None:
        ending.report(prog, text)

    with Progress() as progress:
        starting.start(
            labdir, names, timeout=timeout, wait=wait, on_error=errors, warn=warn, progress=progress
        )
    return errors


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@kernel_option
@master_option
@memory_option
@init_option
@arg_option
@click.option(
    "--may-exist", is_flag=True, help="Do not fail if it already exists; leave it unchanged."
)
@click.option(
    "--start",
    is_flag=True,
    help="Start the guests, in parallel; a guest that fails to start is not created.",
)
def create(
    names: tuple[str, ...],
    kernel: str | None,
    master: str | None,
    memory: int | None,
    init: str | None,
    args: tuple[str, ...],
    may_exist: bool,
    start: bool,
) -> int:
    """Create guests, with their directories and root trees."""
    from dumm_tools import model
    from dumm_tools.guests import guest
    from dumm_tools.running import guest_views

    labdir = lab.entered()
    there: list[str] = []
    made: list[str] = []

    def one(name: str) -> None:
        new = model.Guest(
            name=name,
            kernel=kernel,
            master=master,
            memory=model.DEFAULT_MEMORY if memory is None else memory,
            init=init,
            args=list(args),
        )
        if guest.create(labdir, new, may_exist=may_exist):
            made.append(name)
        there.append(name)

    code = each(dict.fromkeys(names), one)
    if start and there:
        up = set(guest_views.all_names(labdir, lambda s: s not in ("stopped", "crashed")))
        errors = _start(labdir, [n for n in there if n not in up], 30.0, True, keep=False)
        code = code or errors.code
        each((n for n in errors.names if n in made), lambda n: guest.delete(labdir, n))
    return code


@cli.command()
@click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, type=guests("stopped", "crashed")
)
@click.option("--if-exists", is_flag=True, help="Do not fail if it does not exist.")
def delete(names: tuple[str, ...], if_exists: bool) -> int:
    """Delete stopped guests with their interfaces and files."""
    from dumm_tools.guests import guest

    labdir = lab.entered()
    return each(dict.fromkeys(names), lambda n: guest.delete(labdir, n, if_exists=if_exists))


@cli.command()
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests("stopped", "crashed"))
@click.option("--all", "everyone", is_flag=True, help="Start all guests that are not running.")
@timeout_option
@click.option("--no-wait", is_flag=True, help="Return as soon as the kernels run; see `wait`.")
def start(names: tuple[str, ...], everyone: bool, timeout: float, no_wait: bool) -> int:
    """Start guests in parallel; return when all are ready."""
    labdir = lab.entered()
    targets = chosen(labdir, names, everyone, ("stopped", "crashed", "starting"))
    return _start(labdir, targets, timeout, not no_wait).code


UP = ("running", "paused", "starting", "stopping", "crashed")
stop_timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=Seconds(),
    default=10.0,
    show_default=True,
    help="Time to wait before killing them.",
)


@cli.command()
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests(*UP))
@click.option("--all", "everyone", is_flag=True, help="Stop all running guests.")
@stop_timeout_option
@click.option("--kill", "force", is_flag=True, help="Kill the guests immediately.")
def stop(names: tuple[str, ...], everyone: bool, timeout: float, force: bool) -> int:
    """Shut down guests in parallel, and kill them after a timeout."""
    from dumm_tools.guests import stop as stopping

    errors, labdir = Errors(), lab.entered(make=False)
    targets = chosen(labdir, names, everyone, UP)
    stopping.stop(labdir, targets, timeout=timeout, force=force, on_error=errors)
    return errors.code


@cli.command()
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests(*UP))
@click.option("--all", "everyone", is_flag=True, help="Restart all running guests.")
@timeout_option
def restart(names: tuple[str, ...], everyone: bool, timeout: float) -> int:
    """Stop guests and start them again, in parallel."""
    from dumm_tools.guests import stop as stopping

    labdir = lab.entered()
    targets = chosen(labdir, names, everyone, UP)
    errors = Errors()
    stopping.stop(labdir, targets, timeout=10.0, force=False, on_error=errors)
    started = _start(labdir, [n for n in targets if n not in errors.names], timeout, True)
    return errors.code or started.code


@cli.command()
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests("running"))
@click.option("--all", "everyone", is_flag=True, help="Pause all running guests.")
def pause(names: tuple[str, ...], everyone: bool) -> int:
    """Suspend the kernels of guests."""
    from dumm_tools.guests import control

    labdir = lab.entered(make=False)
    return each(chosen(labdir, names, everyone, ("running",)), lambda n: control.pause(labdir, n))


@cli.command()
@click.argument("names", metavar="NAME...|--all", nargs=-1, type=guests("paused"))
@click.option("--all", "everyone", is_flag=True, help="Resume all paused guests.")
def resume(names: tuple[str, ...], everyone: bool) -> int:
    """Resume paused guests."""
    from dumm_tools.guests import control

    labdir = lab.entered(make=False)
    return each(chosen(labdir, names, everyone, ("paused",)), lambda n: control.resume(labdir, n))


@cli.command("set")
@click.argument("name", type=guests())
@memory_option
@kernel_option
@master_option
@init_option
@arg_option
def set_(
    name: str,
    memory: int | None,
    kernel: str | None,
    master: str | None,
    init: str | None,
    args: tuple[str, ...],
) -> None:
    """Change the settings of a guest, effective at its next start.

    An empty value restores the default. The given --arg options replace all earlier ones.
    """
    from dumm_tools.guests import guest

    values: dict[str, object] = {}
    if memory is not None:
        values["memory"] = memory
    for key, value in (("kernel", kernel), ("master", master), ("init", init)):
        if value is not None:
            values[key] = value or None
    if args:
        values["args"] = [a for a in args if a]
    if not values:
        raise click.UsageError("nothing to set")
    guest.change(lab.entered(), name, **values)


@cli.command("list")
@output_options(FIELDS)
def list_(shape: output.Shape) -> None:
    """List all guests."""
    from dumm_tools.running import guest_views

    output.emit(guest_views.list_(lab.labdir()), FIELDS, shape)


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=guests())
@output_options(FIELDS)
def show(names: tuple[str, ...], shape: output.Shape) -> int:
    """Show all fields of guests."""
    from dumm_tools.running import guest_views

    labdir = lab.labdir()
    views: list[Any] = []
    code = each(names, lambda n: views.append(guest_views.show(labdir, n)))
    if views:
        output.emit(views, FIELDS, shape, one_by_one=True)
    return code


cli.add_command(exec_)


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=guests())
@click.option(
    "--for",
    "what",
    type=click.Choice(["ready", "stopped"]),
    default="ready",
    show_default=True,
    help="Condition to wait for.",
)
@click.option("--timeout", metavar="SECONDS", type=Seconds(), help="Maximum time to wait.")
def wait(names: tuple[str, ...], what: str, timeout: float | None) -> int:
    """Wait until guests are ready or stopped.

    The exit status is 5 if the timeout expires first.
    """
    import time

    from dumm_tools.guests import readiness

    labdir = lab.labdir()
    end = None if timeout is None else time.monotonic() + timeout

    def one(name: str) -> None:
        left = None if end is None else max(0.0, end - time.monotonic())
        readiness.wait(labdir, name, what, left)

    return each(names, one)


@cli.command("is-running")
@click.argument("name", type=guests())
def is_running(name: str) -> int:
    """Exit with 0 if a guest is running, with 1 if not."""
    from dumm_tools.running import guest_views

    return 0 if guest_views.is_running(lab.labdir(), name) else 1


@cli.command()
@click.argument("name", type=guests("running", "paused"))
@click.argument("command", metavar="-- COMMAND", nargs=-1, type=click.UNPROCESSED, required=True)
def mconsole(name: str, command: tuple[str, ...]) -> None:
    """Send a command to the control channel of a guest's kernel.

    The reply is printed. The command `help` lists all commands.
    """
    from dumm_tools.guests import control

    answer = control.mconsole(lab.entered(make=False), name, command)
    if answer:
        sys.stdout.write(answer + "\n")


def main() -> None:
    """Entry point."""
    run(cli, "dumm-guest")
