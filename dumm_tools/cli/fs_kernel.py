"""`dumm-fs kernel`: kernel packs in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dumm_tools import output
from dumm_tools.cli.cached import (
    Cached,
    delete_each,
    if_exists_option,
    may_exist_option,
    name_option,
    source_options,
)
from dumm_tools.cli.common import Group, Progress, output_options, warn
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools.images import kernel


def _size(pack: kernel.Pack) -> int:
    from dumm_tools.trees import tree

    return tree.size(pack.path)


FIELDS: list[Field[kernel.Pack]] = [
    Field("name", "Name of the pack.", lambda p: p.name),
    Field("release", "Release of the kernel, as uname -r prints it.", lambda p: p.release),
    Field("version", "Version of the package it was made of.", lambda p: p.version),
    Field("suite", "Debian suite it came from.", lambda p: p.suite),
    Field("date", "Date of that suite's Release file, UTC.", lambda p: p.date, in_table=False),
    Field("size", "Bytes on disk.", _size, people=lambda p: output.size(_size(p))),
    Field("path", "Directory of the pack.", lambda p: p.path),
]

group = Group(
    name="kernel",
    help="Kernel packs: a UML kernel with its modules and libraries, shared by all labs.",
)


@group.command()
@source_options("the newest that can be had")
@name_option
@may_exist_option
def fetch(
    suite: str | None, mirror: str | None, allow_expired: bool, name: str | None, may_exist: bool
) -> None:
    """Make a pack of the UML kernel in a Debian suite. Needs no root.

    Prints the name of the pack unless --name gives it: it is that of the suite. A suite whose
    Release file has expired is passed over, unless --suite names it: then that is an error.
    """
    from dumm_tools.images import kernel_pack

    with Progress() as progress:
        made = kernel_pack.fetch(
            suite,
            name,
            mirror=mirror,
            allow_expired=allow_expired,
            may_exist=may_exist,
            progress=progress,
            warn=warn,
        )
    if name is None:
        click.echo(made)


@group.command("import")
@click.argument("path", type=click.Path())
@name_option
@may_exist_option
def import_(path: str, name: str | None, may_exist: bool) -> None:
    """Make a pack of PATH: a directory with a UML kernel in it, or a UML binary.

    A binary takes the libraries and the modules that it uses on this host along. Nothing of PATH is
    run. Prints the name of the pack unless --name gives it.
    """
    from dumm_tools.images import kernel_pack

    made = kernel_pack.import_(path, name, may_exist=may_exist)
    if name is None:
        click.echo(made)


@group.command("list")
@output_options(FIELDS)
def list_(shape: output.Shape) -> None:
    """List the kernel packs."""
    from dumm_tools.images import kernel

    output.emit(kernel.list_(), FIELDS, shape)


@group.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=Cached("kernels"))
@if_exists_option
def delete(names: tuple[str, ...], if_exists: bool) -> int:
    """Delete kernel packs; not one that a guest runs."""
    from dumm_tools.images import kernel

    return delete_each(kernel.delete, names, if_exists)
