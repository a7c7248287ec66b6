"""`dumm-fs diff|reset|commit|cp`: guests' files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dumm_tools import output
from dumm_tools.cli import ending, lab
from dumm_tools.cli.commands import Command
from dumm_tools.cli.ending import each, warn
from dumm_tools.cli.operands import guests
from dumm_tools.cli.progress import Progress
from dumm_tools.cli.shapes import output_options
from dumm_tools.cli.words import Words
from dumm_tools.errors import DummError
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools.trees.diff import Change


def _path(change: Change) -> str:
    return change.path.decode("utf-8", "surrogateescape")


FIELDS: list[Field[Any]] = [
    Field("path", "Path in the guest.", _path),
    Field("kind", "A: added, M: modified, D: deleted.", lambda c: c.kind),
]


@click.command(cls=Command)
@click.argument("name", metavar="NAME", type=guests())
@output_options(FIELDS)
def diff(name: str, shape: output.Shape) -> None:
    """List what the top layer of a guest adds, modifies and deletes.

    Each line is A, M or D and a path. A deleted directory is listed with everything that was in
    it. Content, type, mode, owner, extended attributes and modification time are compared, except
    for the times of directories.
    """
    from dumm_tools.files import changes

    found = changes.changes(lab.entered(), name)
    if shape.names or shape.fields or shape.as_json:
        output.emit(found, FIELDS, shape)
    else:
        click.echo("".join(f"{c.kind} {output.quoted(c.path)}\n" for c in found), nl=False)


@click.command(cls=Command)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=guests("stopped"))
def reset(names: tuple[str, ...]) -> int:
    """Discard the changes of stopped guests: the contents of host/NAME."""
    from dumm_tools.files import changes

    labdir = lab.entered()
    return each(names, lambda n: changes.reset(labdir, n))


@click.command(cls=Command)
@click.argument("name", metavar="NAME", type=guests("stopped"))
@click.argument("to", metavar="TO", type=click.Path())
def commit(name: str, to: str) -> None:
    """Save the changes of a stopped guest as the new layer TO.

    If TO contains a slash, it is a new directory that receives the contents of host/NAME, for use
    with 'overlay add'. If other users of the host could enter it, it is closed to them (mode 0700)
    and a warning is printed, because it may contain setuid programs made by the guest. Otherwise,
    TO is the name of a new master that contains everything that the guest sees. The guest keeps
    its changes.
    """
    from dumm_tools.files import changes

    with Progress() as progress:
        changes.commit(lab.entered(), name, to, warn=warn, progress=progress)


class Place(Words):
    """A local path, or GUEST:PATH; completes guest names and local files."""

    name = "place"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        found = [] if "/" in incomplete else guests().shell_complete(ctx, param, incomplete)
        if not found:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(f"{item.value}:/") for item in found]


@click.command(cls=Command)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=Place())
@click.argument("target", metavar="DST", type=Place())
@click.option(
    "--preserve",
    type=click.Choice(["mode"]),
    help="mode: keep setuid and setgid bits and capabilities when copying to the host.",
)
def cp(sources: tuple[str, ...], target: str, preserve: str | None) -> int:
    """Copy files and trees to, from and between guests.

    As with scp, GUEST:PATH is a path in a guest. Modes, owners, times, links, holes and extended
    attributes are preserved. Files copied from a guest to the host lose setuid and setgid bits and
    capabilities, since anybody on the host could use what root in the guest made (see --preserve).
    DST is an existing directory or a new name; several SRC need a directory. A directory that ends
    in '/.' stands for its contents. Write a local name that contains a colon as ./NAME. Guests may
    be running, and see the copied files immediately.
    """
    from dumm_tools.files import cp as copying

    status = 0

    def failed(error: DummError) -> None:
        nonlocal status
        ending.report(ending.program(), str(error), error.hint)
        status = status or error.exit_code

    with Progress() as progress:
        copying.copy(
            lab.entered(),
            sources,
            target,
            on_error=failed,
            warn=warn,
            progress=progress,
            keep_mode=preserve == "mode",
        )
    return status


COMMANDS = (diff, reset, commit, cp)
