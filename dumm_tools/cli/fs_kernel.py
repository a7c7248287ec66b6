"""`dumm-fs kernel`: kernel packs in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dumm_tools.cli.cached import (
    Cached,
    delete_verb,
    list_verb,
    may_exist_option,
    name_option,
    place_fields,
    print_chosen,
    show_verb,
    source_options,
)
from dumm_tools.cli.commands import Group
from dumm_tools.cli.ending import note, warn
from dumm_tools.cli.progress import Progress
from dumm_tools.output import Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumm_tools.images import kernel


FIELDS: list[Field[kernel.Pack]] = [
    Field("name", "Name of the pack.", lambda p: p.name),
    Field("release", "Release of the kernel, as uname -r prints it.", lambda p: p.release),
    Field("version", "Version of the package that it was made from.", lambda p: p.version),
    Field("suite", "Debian suite that it came from.", lambda p: p.suite),
    Field("date", "Date of that suite's Release file, UTC.", lambda p: p.date, in_table=False),
    Field(
        "features",
        "Names of the kernel's capabilities, if its configuration is known; see FEATURES.",
        lambda p: None if p.features is None else list(p.features),
        in_table=False,
    ),
    Field(
        "source",
        "Source that it was built from: name of the directory, or `linux-source`.",
        lambda p: p.source,
        in_table=False,
    ),
    Field("virtiofsd", "Version of virtiofsd in it.", lambda p: p.virtiofsd, in_table=False),
    *place_fields("pack"),
]

group = Group(
    name="kernel",
    help="Manage kernel packs: UML kernels, their modules and libraries.",
)


@group.command()
@source_options("the newest available")
@name_option
@may_exist_option
def fetch(
    suite: str | None, mirror: str | None, allow_expired: bool, name: str | None, may_exist: bool
) -> None:
    """Make a pack from the UML kernel of a Debian suite. Does not need root.

    The pack is named after the suite, and the name is printed, unless --name is given. A suite
    whose Release file has expired is skipped; if --suite names it, this is an error. With
    --may-exist, a pack that an earlier version fetched gets what it lacks.
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
            note=note,
        )
    print_chosen(name, made)


@group.command()
@click.argument("source", metavar="[SOURCE]", required=False, type=click.Path())
@click.option(
    "--config",
    "fragments",
    metavar="FRAGMENT",
    multiple=True,
    type=click.Path(),
    help="File with options of the kernel, CONFIG_NAME=VALUE, that override the built-in ones.",
)
@source_options("the newest available")
@name_option
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Number of files to compile at a time (default: the number of processors).",
)
@click.option("--modules", is_flag=True, help="Also build and install what is set to m.")
@may_exist_option
def build(
    source: str | None,
    fragments: tuple[str, ...],
    suite: str | None,
    mirror: str | None,
    allow_expired: bool,
    name: str | None,
    jobs: int | None,
    modules: bool,
    may_exist: bool,
) -> None:
    """Build a UML kernel and make a pack of it. Does not need root.

    SOURCE is the source tree of a kernel; without it, Debian's linux-source is downloaded. The tree
    is not written to. All objects are kept in the cache, so that the next build only compiles what
    has changed, until 'kernel delete' removes them. The pack is named after the directory, or
    linux-VERSION for Debian's source, and the name is printed, unless --name is given. A pack that
    was built from the same source before is replaced; guests that run keep the old one until they
    are started again. With --may-exist, nothing is done if the pack exists.
    """
    from dumm_tools import messages
    from dumm_tools.images import build_config, kernel_build, kernel_compile

    if source is not None and (suite or mirror):
        raise click.UsageError("--suite and --mirror are for Debian's source, without SOURCE")
    with Progress() as progress:
        order = kernel_compile.Order(
            build_config.fragments(fragments, modules),
            jobs or _processors(),
            modules,
            progress,
            warn,
            lambda text: messages.say(text, over=True),
            messages.on_terminal(),
        )
        if source is not None:
            made = kernel_build.from_tree(source, name, order, may_exist=may_exist)
        else:
            made = kernel_build.from_debian(
                suite,
                name,
                order,
                mirror=mirror,
                allow_expired=allow_expired,
                may_exist=may_exist,
            )
    print_chosen(name, made)


def _processors() -> int:
    import os

    return len(os.sched_getaffinity(0))


@group.command("import")
@click.argument("path", metavar="DIR|FILE|-", type=click.Path(allow_dash=True))
@name_option
@may_exist_option
def import_(path: str, name: str | None, may_exist: bool) -> None:
    """Make a pack from a directory, a UML binary, or an exported pack (- for stdin).

    A directory must contain a UML kernel. For a binary, the libraries and modules that it uses on
    this host are included. Nothing in it is run. The pack is named after the directory or the
    exported pack, or linux-RELEASE, and the name is printed, unless --name is given.
    """
    from dumm_tools.images import kernel_pack

    with Progress() as progress:
        made = kernel_pack.import_(path, name, may_exist=may_exist, progress=progress)
    print_chosen(name, made)


@group.command()
@click.argument("name", type=Cached("kernels"))
@click.argument("file", metavar="FILE|-", type=click.Path(allow_dash=True))
def export(name: str, file: str) -> None:
    """Write a pack to FILE, or to stdout, for `kernel import` on another machine.

    It is a tar archive, compressed if zstd is installed. The same pack always becomes the same
    archive. FILE is replaced only once the archive is complete.
    """
    from dumm_tools.images import kernel_archive

    with Progress() as progress:
        kernel_archive.export(name, file, progress)


def _all() -> list[kernel.Pack]:
    from dumm_tools.images import kernel

    return kernel.list_()


def _deleter() -> Callable[[str], None]:
    from dumm_tools.images import kernel

    return kernel.delete


list_verb(group, FIELDS, _all, "List the kernel packs.")
show_verb(group, FIELDS, "kernels", _all, "Show all fields of kernel packs.")
delete_verb(group, "kernels", _deleter, "Delete kernel packs that are not in use by a guest.")
