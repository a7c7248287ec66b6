"""The settings of guests as options of `create` and `set`, and in lab files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from dumm_tools.cli.cached import Cached
from dumm_tools.cli.ending import warn
from dumm_tools.cli.values import human_size
from dumm_tools.cli.words import File

if TYPE_CHECKING:
    from dumm_tools import model

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

files_option = click.option(
    "--files",
    "files",
    metavar="DIR[:PATH]",
    multiple=True,
    type=File(),
    help="Copy the contents of DIR to / in the guest, or PATH, before each start.",
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


def check_wait(what: str, *, start: bool) -> None:
    """Raise UsageError unless guests are started, if the command waits for anything."""
    if what != "ready" and not start:
        raise click.UsageError("--wait needs --start")


def given(
    *,
    memory: int | None,
    kernel: str | None,
    master: str | None,
    rootfs: model.RootFS | Literal["default"] | None,
    init: str | None,
    args: tuple[str, ...],
    disks: tuple[str, ...],
    files: tuple[str, ...],
    no_disks: bool = False,
    no_files: bool = False,
    empty: bool = True,
    **_others: object,
) -> dict[str, Any]:
    """The settings that options give a guest, as they are recorded; an empty value is the
    default, if that may be said so. UsageError."""
    if disks and no_disks:
        raise click.UsageError("--disk and --no-disks contradict each other")
    if files and no_files:
        raise click.UsageError("--files and --no-files contradict each other")
    values: dict[str, Any] = {}
    if memory is not None:
        values["memory"] = memory
    for key, value in (("kernel", kernel), ("master", master), ("init", init)):
        if value is not None:
            values[key] = value or (None if empty else value)
    if rootfs is not None:
        values["rootfs"] = None if rootfs == "default" else rootfs
    for key, several, none in (
        ("args", args, False),
        ("disks", disks, no_disks),
        ("files", files, no_files),
    ):
        if several or none:
            values[key] = [one for one in several if one or not empty]
    return values
