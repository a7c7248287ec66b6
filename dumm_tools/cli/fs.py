"""dumm-fs: the working set, kernel packs, masters, and guests' files."""

from __future__ import annotations

from typing import Any

import click

from dumm_tools import output, statefile
from dumm_tools.cli import (
    commands,
    fs_archive,
    fs_files,
    fs_kernel,
    fs_layers,
    fs_master,
    lab,
    repeated,
)
from dumm_tools.cli.cached import Cached
from dumm_tools.cli.ending import each, run, warn
from dumm_tools.cli.operands import guests
from dumm_tools.cli.shapes import output_options
from dumm_tools.errors import DummError
from dumm_tools.output import Field

cli = commands.tool(
    "dumm-fs", "Manage files: working sets, kernel packs, masters and root trees of guests."
)
cli.add_command(fs_kernel.group)
cli.add_command(fs_master.group)
cli.add_command(fs_layers.overlay)
cli.add_command(fs_layers.template)
for command in (*fs_files.COMMANDS, *fs_archive.COMMANDS):
    cli.add_command(command)

CHECK_FIELDS: list[Field[Any]] = [
    Field("name", "Name of the check.", lambda c: c.name),
    Field("state", "ok, missing, or absent if it is not required.", lambda c: c.state, state=True),
    Field("found", "Result of the check.", lambda c: c.found),
    Field("remedy", "How to fix it.", lambda c: c.remedy),
]


@cli.command()
@click.option(
    "--kernel",
    metavar="PACK|FILE",
    type=Cached("kernels"),
    help="Default kernel of the guests (default: the newest pack in the cache).",
)
@click.option(
    "--master",
    metavar="NAME|DIR",
    type=Cached("masters"),
    help="Default master of the guests (default: `busybox`, or the only one in the cache).",
)
@fs_archive.own_network
@repeated.may_exist("Give an existing one this kernel and this master, if they differ.")
def init(kernel: str | None, master: str | None, isolated: bool | None, may_exist: bool) -> None:
    """Create a working set in the working directory."""
    from dumm_tools.labs import working_set

    root_user = lab.is_hosts_root()
    if isolated is False and not root_user:
        raise click.UsageError("--host-net needs root")
    labdir = lab.entered(make=False) if may_exist else lab.labdir()
    if may_exist and working_set.converge(
        labdir, kernel_spec=kernel, master_spec=master, isolated=isolated
    ):
        return
    working_set.init(
        labdir,
        kernel_spec=kernel,
        master_spec=master,
        isolated=not root_user if isolated is None else isolated,
    )


@cli.command()
@repeated.if_exists("Do not fail if there is no working set.")
def destroy(if_exists: bool) -> None:
    """Stop all guests and take the lab apart.

    This removes what the lab made in the kernel, its run-time files and its state. Files written by
    guests (host/NAME), templates, masters and kernel packs are kept.
    """
    from dumm_tools.labs import working_set

    if not (if_exists and working_set.is_missing(lab.labdir())):
        working_set.destroy(lab.entered(make=False))


@cli.command()
def dump() -> None:
    """Print the lab as a lab file: the commands that make it.

    They can be edited, compared, kept, and applied to this or another working set with
    `dumm-console apply`; see dumm-lab(5).
    """
    import sys

    from dumm_tools.labs import description
    from dumm_tools.labs import dump as dumping

    sys.stdout.buffer.write(dumping.text(description.of(lab.labdir())))


@cli.command()
def clear() -> int:
    """Take the lab back to its guests.

    The template is unloaded, and all overlays, interfaces with their routes, rules and bridges are
    removed. Guests keep their settings and files, and running ones keep running. Templates and the
    directories of overlays are kept.
    """
    from dumm_tools.labs import clearing

    failures = fs_layers.Failures()
    clearing.clear(lab.entered(), on_error=failures, warn=warn)
    return failures.code


def _isolated(labdir: str) -> bool:
    """Whether the lab in `labdir` is isolated, or a new one would be."""
    try:
        return statefile.load(labdir).isolated
    except DummError:
        return not lab.is_hosts_root()


@cli.command()
@output_options(CHECK_FIELDS)
def check(shape: output.Shape) -> int:
    """Report what this host lacks and how to fix it.

    Each problem is one line. The exit status is 0 if guests can start.
    """
    from dumm_tools.labs import check as checks

    labdir = lab.anywhere()
    found = checks.run(labdir, isolated=_isolated(labdir))
    wanted = shape.names or bool(shape.fields) or shape.as_json
    shown = found if wanted else [c for c in found if c.state != "ok"]
    if wanted:
        output.emit(shown, CHECK_FIELDS, shape)
    else:
        for c in shown:
            click.echo(f"{output.painted(c.name, c.state)}: {c.found}; {c.remedy}")
    return 1 if any(c.state == "missing" for c in found) else 0


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=guests())
def mount(names: tuple[str, ...]) -> int:
    """Mount the root trees of guests on mount/NAME.

    This is needed, for example, after a reboot of the host.
    """
    from dumm_tools.labs import working_set

    labdir = lab.entered()
    return each(names, lambda n: working_set.mount(labdir, n))


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=guests())
@repeated.if_exists("Do not fail if it is not mounted, or does not exist.")
def umount(names: tuple[str, ...], if_exists: bool) -> int:
    """Unmount the root trees of guests from mount/NAME.

    Running guests keep their own.
    """
    from dumm_tools.labs import working_set

    labdir = lab.entered()
    return each(names, lambda n: working_set.umount(labdir, n, if_exists=if_exists))


def main() -> None:
    """Entry point."""
    run(cli, "dumm-fs")
