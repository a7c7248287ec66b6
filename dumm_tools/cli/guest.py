"""dumm-guest: guests and the commands that run in them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from dumm_tools import output
from dumm_tools.cli import commands, lab
from dumm_tools.cli.cached import Cached
from dumm_tools.cli.ending import each, run, warn
from dumm_tools.cli.execute import exec_
from dumm_tools.cli.guest_life import COMMANDS, is_running, start_all, wait_option
from dumm_tools.cli.guest_startup import FileOrStdin, read_script, startup
from dumm_tools.cli.guest_wait import wait
from dumm_tools.cli.operands import guests
from dumm_tools.cli.shapes import output_options
from dumm_tools.cli.values import human_size
from dumm_tools.cli.words import File
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools import model

cli = commands.tool("dumm-guest", "Manage guests: User Mode Linux kernels that run as processes.")


def _rootfs(view: Any) -> str | None:
    from dumm_tools.guests import rootfs

    return view.rootfs or rootfs.default(view.master_spec)


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
            "startup",
            "Startup script: waiting for the next boot, running, done, or failed with a status; "
            "absent if there is none.",
            lambda v: v.startup,
            in_table=False,
        ),
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
rootfs_option = click.option(
    "--rootfs",
    type=click.Choice(["hostfs", "virtiofs", "default"]),
    help="How it reaches its root file system (default: that of the master).",
)
init_option = click.option(
    "--init", metavar="PATH", help="Program to start as pid 1, such as /sbin/init."
)
arg_option = click.option(
    "--arg", "args", metavar="KERNEL_ARG", multiple=True, help="Additional kernel argument."
)

disk_option = click.option(
    "--disk",
    "disks",
    metavar="FILE[:ro]",
    multiple=True,
    type=File(),
    help="Raw image as a disk of the guest: /dev/ubdb, then /dev/ubdc...; :ro for reading only.",
)


def warn_of_disks(disks: tuple[str, ...]) -> None:
    """Warn of disks that other users could run as programs."""
    if disks:
        from dumm_tools.guests import disks as domain

        for path in domain.exposed([d for d in disks if d]):
            warn(
                f"other users can reach '{path}', and run it if guests make it a setuid program; "
                "a parent directory that is closed to them (0700) keeps them out"
            )


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@kernel_option
@master_option
@rootfs_option
@memory_option
@init_option
@arg_option
@disk_option
@click.option(
    "--may-exist", is_flag=True, help="Do not fail if it already exists; leave it unchanged."
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
    kernel: str | None,
    master: str | None,
    rootfs: model.RootFS | Literal["default"] | None,
    memory: int | None,
    init: str | None,
    args: tuple[str, ...],
    disks: tuple[str, ...],
    may_exist: bool,
    start: bool,
    what: str,
    script: str | None,
) -> int:
    """Create guests, with their directories and root trees."""
    from dumm_tools import model
    from dumm_tools.guests import guest
    from dumm_tools.running import guest_views

    if what != "ready" and not start:
        raise click.UsageError("--wait needs --start")
    text = None if script is None else read_script(script)
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
            rootfs=None if rootfs == "default" else rootfs,
            disks=list(disks),
        )
        if guest.create(labdir, new, may_exist=may_exist, script=text):
            made.append(name)
        there.append(name)

    code = each(dict.fromkeys(names), one)
    if made:
        warn_of_disks(disks)
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
@click.option("--if-exists", is_flag=True, help="Do not fail if it does not exist.")
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
@memory_option
@kernel_option
@master_option
@rootfs_option
@init_option
@arg_option
@disk_option
@click.option("--no-disks", is_flag=True, help="Remove all disks.")
def set_(
    name: str,
    memory: int | None,
    kernel: str | None,
    master: str | None,
    rootfs: model.RootFS | Literal["default"] | None,
    init: str | None,
    args: tuple[str, ...],
    disks: tuple[str, ...],
    no_disks: bool,
) -> None:
    """Change the settings of a guest, effective at its next start.

    An empty value restores the default. The given --arg options replace all earlier ones, and so do
    the --disk options.
    """
    from dumm_tools.guests import guest

    values: dict[str, object] = {}
    if memory is not None:
        values["memory"] = memory
    for key, value in (("kernel", kernel), ("master", master), ("init", init)):
        if value is not None:
            values[key] = value or None
    if rootfs is not None:
        values["rootfs"] = None if rootfs == "default" else rootfs
    if args:
        values["args"] = [a for a in args if a]
    if disks and no_disks:
        raise click.UsageError("--disk and --no-disks contradict each other")
    if disks or no_disks:
        values["disks"] = [d for d in disks if d]
    if not values:
        raise click.UsageError("nothing to set")
    guest.change(lab.entered(), name, **values)
    warn_of_disks(disks)


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
