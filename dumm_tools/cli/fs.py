"""dumm-fs: the working set, kernel packs, masters, and guests' files."""

from __future__ import annotations

from typing import Any

import click

from dumm_tools import output
from dumm_tools.cli import commands, fs_files, fs_kernel, fs_layers, fs_master, lab
from dumm_tools.cli.cached import Cached
from dumm_tools.cli.ending import each, run
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
for command in fs_files.COMMANDS:
    cli.add_command(command)

CHECK_FIELDS: list[Field[Any]] = [
    Field("name", "Name of the check.", lambda c: c.name),
    Field("state", "ok, missing, or absent if it is not required.", lambda c: c.state),
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
@click.option(
    "--isolated/--host-net",
    "isolated",
    default=None,
    help="Give the lab its own namespaces (always the case without root), or put it on the host's "
    "network (the default for root).",
)
def init(kernel: str | None, master: str | None, isolated: bool | None) -> None:
    """Create a working set in the working directory."""
    from dumm_tools.labs import working_set

    root_user = _is_hosts_root()
    if isolated is False and not root_user:
        raise click.UsageError("--host-net needs root")
    working_set.init(
        lab.labdir(),
        kernel_spec=kernel,
        master_spec=master,
        isolated=not root_user if isolated is None else isolated,
    )


@cli.command()
def destroy() -> None:
    """Stop all guests and take the lab apart.

    This removes what the lab made in the kernel, its run-time files and its state. Files written by
    guests (host/NAME), templates, masters and kernel packs are kept.
    """
    from dumm_tools.labs import working_set

    working_set.destroy(lab.entered(make=False))


def _isolated(labdir: str) -> bool:
    """Whether the lab in `labdir` is isolated, or a new one would be."""
    from dumm_tools import statefile

    try:
        return statefile.load(labdir).isolated
    except DummError:
        return not _is_hosts_root()


def _is_hosts_root() -> bool:
    import os

    from dumm_tools.linux import namespaces

    return os.geteuid() == 0 and namespaces.is_initial()


@cli.command()
@output_options(CHECK_FIELDS)
def check(shape: output.Shape) -> int:
    """Report what this host lacks and how to fix it.

    Each problem is one line. The exit status is 0 if guests can start.
    """
    from dumm_tools.labs import check as checks

    labdir = lab.labdir()
    found = checks.run(labdir, isolated=_isolated(labdir))
    wanted = shape.names or bool(shape.fields) or shape.as_json
    shown = found if wanted else [c for c in found if c.state != "ok"]
    if wanted:
        output.emit(shown, CHECK_FIELDS, shape)
    else:
        for c in shown:
            click.echo(f"{c.name}: {c.found}; {c.remedy}")
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
def umount(names: tuple[str, ...]) -> int:
    """Unmount the root trees of guests from mount/NAME.

    Running guests keep their own.
    """
    from dumm_tools.labs import working_set

    labdir = lab.entered()
    return each(names, lambda n: working_set.umount(labdir, n))


def main() -> None:
    """Entry point."""
    run(cli, "dumm-fs")
