"""dumm-fs: the working set, kernel packs, masters, and guests' files."""

from __future__ import annotations

from typing import Any

import click

from dumm_tools import output
from dumm_tools.cli import common, fs_files, fs_kernel, fs_layers, fs_master
from dumm_tools.cli.cached import Cached
from dumm_tools.cli.common import each, output_options, run
from dumm_tools.cli.operands import guests
from dumm_tools.errors import DummError
from dumm_tools.output import Field

cli = common.tool("dumm-fs", "Files: the working set, kernel packs, masters, guests' root trees.")
cli.add_command(fs_kernel.group)
cli.add_command(fs_master.group)
cli.add_command(fs_layers.overlay)
cli.add_command(fs_layers.template)
for command in fs_files.COMMANDS:
    cli.add_command(command)

CHECK_FIELDS: list[Field[Any]] = [
    Field("name", "What is looked at.", lambda c: c.name),
    Field("state", "ok, missing, or absent where it is not needed.", lambda c: c.state),
    Field("found", "What was found.", lambda c: c.found),
    Field("remedy", "What to do about it.", lambda c: c.remedy),
]


@cli.command()
@click.option(
    "--kernel",
    metavar="PACK|FILE",
    type=Cached("kernels"),
    help="Default kernel of the guests; else the newest pack of the cache.",
)
@click.option(
    "--master",
    metavar="NAME|DIR",
    type=Cached("masters"),
    help="Default master of the guests; else `busybox`, or the only one of the cache.",
)
@click.option(
    "--isolated/--host-net",
    "isolated",
    default=None,
    help="Give the lab namespaces of its own (always so without root), or root's on this host's "
    "network (the default for root).",
)
def init(kernel: str | None, master: str | None, isolated: bool | None) -> None:
    """Make a working set in the working directory."""
    from dumm_tools.labs import working_set

    root_user = _is_hosts_root()
    if isolated is False and not root_user:
        raise click.UsageError("--host-net needs root")
    working_set.init(
        common.labdir(),
        kernel_spec=kernel,
        master_spec=master,
        isolated=not root_user if isolated is None else isolated,
    )


@cli.command()
def destroy() -> None:
    """Stop all guests and remove what the working set made in the kernel, and its state.

    What guests wrote (host/NAME), templates, masters and kernel packs stay.
    """
    from dumm_tools.labs import working_set

    working_set.destroy(common.entered(make=False))


def _isolated(labdir: str) -> bool:
    """What the lab in `labdir` is, or what one would be."""
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
    """Say what this host lacks, one line each, with the remedy; 0 when a guest can start."""
    from dumm_tools.labs import check as checks

    labdir = common.labdir()
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
    """Mount the root trees of guests at mount/NAME, after a host's reboot for example."""
    from dumm_tools.labs import working_set

    labdir = common.entered()
    return each(names, lambda n: working_set.mount(labdir, n))


@cli.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=guests())
def umount(names: tuple[str, ...]) -> int:
    """Take the root trees of guests off mount/NAME; a running guest keeps its own."""
    from dumm_tools.labs import working_set

    labdir = common.entered()
    return each(names, lambda n: working_set.umount(labdir, n))


def main() -> None:
    """Entry point."""
    run(cli, "dumm-fs")
