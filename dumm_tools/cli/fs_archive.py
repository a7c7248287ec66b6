"""`dumm-fs save|restore`: a lab as one archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dumm_tools.cli import lab
from dumm_tools.cli.commands import Command
from dumm_tools.cli.ending import note, warn
from dumm_tools.cli.operands import guests
from dumm_tools.cli.progress import Progress
from dumm_tools.images import cache

#: A kind and the lab's name for an image, and what is used instead.
Choice = tuple[tuple[str, str], str]
if TYPE_CHECKING:
    Type = click.ParamType[Choice]
else:  # older clicks have no generic one
    Type = click.ParamType


#: For verbs that make a lab.
own_network = click.option(
    "--isolated/--host-net",
    "isolated",
    default=None,
    help="Give the lab its own namespaces (always the case without root), or put it on the host's "
    "network (the default for root).",
)


@click.command(cls=Command)
@click.argument("file", metavar="FILE|-", type=click.Path(allow_dash=True))
@click.argument("names", metavar="[NAME...]", nargs=-1, type=guests())
@click.option(
    "--with-masters",
    is_flag=True,
    help="Include the masters and kernel packs that the guests use.",
)
def save(file: str, names: tuple[str, ...], with_masters: bool) -> None:
    """Write the lab to FILE, or to stdout, for `restore` on any machine.

    This includes guests with their own files, startup scripts and disks, interfaces, bridges,
    templates, and what is used by --files and as overlays. With NAME, only these guests are saved,
    with their interfaces, and the bridges that they are connected to. It is a tar archive,
    compressed if zstd is installed. FILE is replaced only once the archive is complete. Guests may
    be running: each file is saved as it is at that moment.
    """
    from dumm_tools.labs import saving
    from dumm_tools.running import isolation

    labdir = lab.labdir()
    isolation.become_root()
    with Progress() as progress:
        saving.save(
            labdir,
            file,
            names,
            with_masters=with_masters,
            progress=progress,
            warn=warn,
            note=note,
        )


class Pair(Type):
    """OLD=NEW: a master or a pack that is used instead of another."""

    name = "pair"

    def __init__(self, kind: cache.Kind) -> None:
        self._kind: cache.Kind = kind

    def convert(self, value: str, param: Any, ctx: Any) -> Choice:
        """Split it at its last equals sign."""
        old, equals, new = value.rpartition("=")
        if not (old and equals and new):
            self.fail(f"'{value}' is not OLD=NEW", param, ctx)
        return (self._kind, old), new

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        """Complete NEW."""
        from click.shell_completion import CompletionItem

        old, equals, new = incomplete.rpartition("=")
        found = cache.names(self._kind) if equals else []
        return [CompletionItem(f"{old}={name}") for name in found if name.startswith(new)]


@click.command(cls=Command)
@click.argument("file", metavar="FILE|-", type=click.Path(allow_dash=True))
@click.option(
    "--kernel",
    "kernels",
    metavar="OLD=NEW",
    multiple=True,
    type=Pair("kernels"),
    help="Use the kernel NEW where the lab had OLD.",
)
@click.option(
    "--master",
    "masters",
    metavar="OLD=NEW",
    multiple=True,
    type=Pair("masters"),
    help="Use the master NEW where the lab had OLD.",
)
@own_network
def restore(
    file: str,
    kernels: tuple[Choice, ...],
    masters: tuple[Choice, ...],
    isolated: bool | None,
) -> None:
    """Make the lab that was saved in FILE, or on stdin, in the working directory.

    The directory must not have a lab yet. The masters and kernel packs that its guests use must be
    here, with the same contents, or in the archive; others are used only if --master or --kernel
    says so. If OLD is in the archive, NEW may be a new name for it. An archive may come from
    anybody: nothing is written outside the working directory and the cache. If anything fails,
    nothing is left.
    """
    from dumm_tools.labs import restoring
    from dumm_tools.running import isolation

    labdir = lab.labdir()
    root_user = lab.is_hosts_root()
    if isolated is False and not root_user:
        raise click.UsageError("--host-net needs root")
    isolation.become_root()
    with Progress() as progress:
        restoring.restore(
            labdir,
            file,
            isolated=not root_user if isolated is None else isolated,
            chosen=dict((*kernels, *masters)),
            progress=progress,
            warn=warn,
        )


COMMANDS = (save, restore)
