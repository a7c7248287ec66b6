"""`dumm-fs master`: root trees in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dumm_tools.cli.cached import (
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
from dumm_tools.cli.ending import warn
from dumm_tools.cli.progress import Progress
from dumm_tools.output import Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumm_tools.images import master
    from dumm_tools.model import RootFS


FIELDS: list[Field[master.Stored]] = [
    Field("name", "Name of the master.", lambda m: m.name),
    Field(
        "rootfs",
        "How guests reach their root file system by default: hostfs or virtiofs.",
        lambda m: m.rootfs,
        in_table=False,
    ),
    Field(
        "command",
        "Command of its container image, which guests without an init run at each boot.",
        lambda m: None if m.command is None else list(m.command.argv),
        in_table=False,
    ),
    Field(
        "environment",
        "Environment of that command.",
        lambda m: None if m.command is None else [f"{k}={v}" for k, v in m.command.env.items()],
        in_table=False,
    ),
    Field(
        "directory",
        "Directory in which it starts.",
        lambda m: None if m.command is None else m.command.directory,
        in_table=False,
    ),
    Field(
        "user",
        "User as whom it runs.",
        lambda m: None if m.command is None else m.command.user,
        in_table=False,
    ),
    *place_fields("master"),
]

rootfs_option = click.option(
    "--rootfs",
    type=click.Choice(["hostfs", "virtiofs"]),
    help="How guests reach their root file system (default: virtiofs for a distribution).",
)

group = Group(name="master", help="Manage masters: read-only root trees, shared by all labs.")


@group.command()
@click.argument("what", metavar="busybox|debian", type=click.Choice(["busybox", "debian"]))
@source_options("stable")
@click.option(
    "--include",
    metavar="PKG,...",
    multiple=True,
    help="Additional packages for debian.",
)
@rootfs_option
@name_option
@may_exist_option
def build(
    what: str,
    suite: str | None,
    mirror: str | None,
    allow_expired: bool,
    include: tuple[str, ...],
    rootfs: RootFS | None,
    name: str | None,
    may_exist: bool,
) -> None:
    """Build a master: busybox, or a Debian system (with mmdebstrap).

    busybox is taken from this host if a static one is installed and neither --suite nor --mirror
    is given; its root user has no password. The Debian system has no host name and no name servers,
    so each guest has its own name. The name of the master is printed unless --name is
    given.
    """
    from dumm_tools.images import busybox, debian, master

    packages = [p for each in include for p in each.split(",") if p]
    if packages and what != "debian":
        raise click.UsageError("--include is for debian only")
    with Progress() as progress:
        if what == "busybox":
            made = busybox.build(
                name or master.BUSYBOX,
                suite=suite,
                mirror=mirror,
                allow_expired=allow_expired,
                rootfs=rootfs,
                may_exist=may_exist,
                progress=progress,
            )
        else:
            made = debian.build(
                name,
                suite=suite,
                include=packages,
                mirror=mirror,
                allow_expired=allow_expired,
                rootfs=rootfs,
                may_exist=may_exist,
                progress=progress,
            )
    print_chosen(name, made)


@group.command("import")
@click.argument("source", metavar="DIR|FILE|-", type=click.Path(allow_dash=True))
@rootfs_option
@name_option
@may_exist_option
def import_(source: str, rootfs: RootFS | None, name: str | None, may_exist: bool) -> None:
    """Make a master from a directory, an archive or a container image (- for stdin).

    Archives are tar or cpio (newc), images those of `docker save` and OCI layouts; all may be
    compressed. Owners are preserved as far as ids are available for them (subuid(5)). Device nodes
    are skipped: guests create their own. An archive that would write outside the master is refused.
    The name of the master is printed unless --name is given.
    """
    from dumm_tools.images import master_import
    from dumm_tools.running import isolation

    isolation.become_root()
    with Progress() as progress:
        made = master_import.import_(
            source, name, rootfs=rootfs, may_exist=may_exist, progress=progress, warn=warn
        )
    print_chosen(name, made)


def _all() -> list[master.Stored]:
    from dumm_tools.images import master

    return master.list_()


def _deleter() -> Callable[[str], None]:
    from dumm_tools.images import master
    from dumm_tools.running import isolation

    over = master.mounted_over()
    isolation.become_root()
    return lambda name: master.delete(name, over)


list_verb(group, FIELDS, _all, "List the masters.")
show_verb(group, FIELDS, "masters", _all, "Show all fields of masters.")
delete_verb(group, "masters", _deleter, "Delete masters that are not in use by a guest.")
