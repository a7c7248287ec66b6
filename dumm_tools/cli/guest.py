"""dumm-guest: guests and the commands that run in them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dumm_tools import output
from dumm_tools.cli import commands, guest_settings, lab, repeated
from dumm_tools.cli.ending import each, note, run, warn
from dumm_tools.cli.execute import exec_
from dumm_tools.cli.guest_life import COMMANDS, is_running, start_all, wait_option
from dumm_tools.cli.guest_monitor import monitor
from dumm_tools.cli.guest_startup import FileOrStdin, read_script, startup
from dumm_tools.cli.guest_wait import wait
from dumm_tools.cli.operands import guests
from dumm_tools.cli.shapes import output_options
from dumm_tools.output import Field

if TYPE_CHECKING:
    pass

cli = commands.tool("dumm-guest", "Manage guests: User Mode Linux kernels that run as processes.")


def _rootfs(view: Any) -> str | None:
    from dumm_tools.guests import rootfs

    return view.rootfs or rootfs.default(view.master_spec)


def _fields() -> list[Field[Any]]:
    return [
        Field("name", "Name of the guest, and its hostname.", lambda v: v.guest.name),
        Field(
            "state",
            "stopped, starting, running, paused, stopping or crashed.",
            lambda v: v.state,
            state=True,
        ),
        Field(
            "pid", "Process id of the guest's kernel; absent if it is not running.", lambda v: v.pid
        ),
        Field("kernel", "Kernel pack or UML binary.", lambda v: v.kernel),
        Field("master", "Master underneath the guest's own files.", lambda v: v.master),
        Field(
            "rootfs",
            "How it reaches its root file system: hostfs or virtiofs.",
            _rootfs,
            in_table=False,
        ),
        Field(
            "memory",
            "Size of the memory, in bytes.",
            lambda v: v.guest.memory,
            people=lambda v: output.size(v.guest.memory),
        ),
        Field("init", "Init program; absent if only the agent runs.", lambda v: v.guest.init),
        Field("args", "Additional kernel arguments.", lambda v: v.guest.args, in_table=False),
        Field("ifaces", "Interfaces of the guest.", lambda v: v.ifaces),
        Field(
            "disks",
            "Files on the host that are its disks, with ':ro' if it only reads them.",
            lambda v: v.guest.disks,
            in_table=False,
        ),
        Field(
            "files",
            "Directories and files on the host that are copied to it before each start.",
            lambda v: v.guest.files,
            in_table=False,
        ),
        Field(
            "startup",
            "Startup script: waiting for the next boot, running, done, or failed with a status; "
            "absent if there is none.",
            lambda v: v.startup,
            in_table=False,
            state=True,
        ),
        Field("overlays", "Overlays, newest first.", lambda v: v.guest.overlays, in_table=False),
        Field(
            "uptime",
            "Seconds since its start. list prints this and the following fields only if -o names "
            "them.",
            lambda v: v.uptime,
            asked=True,
        ),
        Field(
            "cpu_seconds",
            "Processor time on the host that it has used since its start.",
            lambda v: v.usage and round(v.usage.seconds, 2),
            asked=True,
        ),
        Field(
            "memory_used",
            "Memory of the host that it uses, in bytes.",
            lambda v: v.usage and v.usage.memory,
            people=lambda v: output.size(v.usage.memory) if v.usage else "-",
            asked=True,
        ),
    ]


FIELDS = _fields()


def _note_later(name: str, settings: list[str]) -> None:
    """Say which settings a running guest does not have yet, if there are any."""
    if settings:
        note(f"guest '{name}' is running: this takes effect at its next start")


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@guest_settings.kernel_option
@guest_settings.master_option
@guest_settings.rootfs_option
@guest_settings.memory_option
@guest_settings.init_option
@guest_settings.arg_option
@guest_settings.disk_option
@guest_settings.files_option
@repeated.may_exist(
    "Change an existing one as far as it differs, effective at its next start; options not given "
    "leave it alone."
)
@click.option(
    "--start",
    is_flag=True,
    help="Start the guests, in parallel; a guest that fails to start is not created.",
)
@wait_option
@click.option(
    "--startup",
    "script",
    metavar="FILE|-",
    type=FileOrStdin(),
    help="Script to run at each boot; see `startup`.",
)
def create(
    names: tuple[str, ...],
    may_exist: bool,
    start: bool,
    what: str,
    script: str | None,
    **settings: Any,
) -> int:
    """Create guests, with their directories and root trees.

    If there is a directory host/NAME, copied from another working set for example, it contains the
    guest's own files from then on.
    """
    from dumm_tools import model
    from dumm_tools.guests import guest
    from dumm_tools.running import guest_views

    guest_settings.check_wait(what, start=start)
    text = None if script is None else read_script(script)
    labdir = lab.entered()
    there: list[str] = []
    made: list[str] = []

    values = guest_settings.given(empty=may_exist, **settings)

    def one(name: str) -> None:
        new = model.Guest(name=name, **values)
        if guest.create(labdir, new, may_exist=may_exist, script=text):
            made.append(name)
        else:
            _note_later(name, guest.converge(labdir, name, values, script=text))
        there.append(name)

    code = each(dict.fromkeys(names), one)
    if made:
        guest_settings.warn_of_disks(settings["disks"])
    if start and there:
        up = set(guest_views.all_names(labdir, lambda s: s not in ("stopped", "crashed")))
        errors = start_all(labdir, [n for n in there if n not in up], 30.0, what, keep=False)
        code = code or errors.code
        # One that did not boot in time keeps running.
        down = set(guest_views.all_names(labdir, lambda s: s == "stopped")) if errors.names else ()
        each(
            (n for n in errors.names if n in made and n in down), lambda n: guest.delete(labdir, n)
        )
    return code


@cli.command()
@click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, type=guests("stopped", "crashed")
)
@repeated.if_exists()
def delete(names: tuple[str, ...], if_exists: bool) -> int:
    """Delete stopped guests with their interfaces and files."""
    from dumm_tools.guests import guest

    labdir = lab.entered()
    return each(
        dict.fromkeys(names),
        lambda n: guest.delete(labdir, n, if_exists=if_exists, warn=warn),
    )


for command in COMMANDS:
    cli.add_command(command)


@cli.command("set")
@click.argument("name", type=guests())
@guest_settings.memory_option
@guest_settings.kernel_option
@guest_settings.master_option
@guest_settings.rootfs_option
@guest_settings.init_option
@guest_settings.arg_option
@guest_settings.disk_option
@click.option("--no-disks", is_flag=True, help="Remove all disks.")
@guest_settings.files_option
@click.option("--no-files", is_flag=True, help="Copy no files any more.")
def set_(name: str, **settings: Any) -> None:
    """Change the settings of a guest, effective at its next start.

    An empty value restores the default. The given --arg options replace all earlier ones, and so do
    the --disk and --files options.
    """
    from dumm_tools.guests import guest

    values = guest_settings.given(**settings)
    if not values:
        raise click.UsageError("nothing to set")
    _note_later(name, guest.change(lab.entered(), name, **values))
    guest_settings.warn_of_disks(settings["disks"])


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


cli.add_command(startup)
cli.add_command(exec_)
cli.add_command(wait)
cli.add_command(is_running)
cli.add_command(monitor)


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
