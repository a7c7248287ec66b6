"""`dumm-fs diff|reset|commit|cp`: guests' files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dumm_tools import output
from dumm_tools.cli import common
from dumm_tools.cli.common import Command, Progress, Words, each, output_options, warn
from dumm_tools.cli.operands import guests
from dumm_tools.errors import DummError
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools.trees.diff import Change


def _path(change: Change) -> str:
    return change.path.decode("utf-8", "surrogateescape")


FIELDS: list[Field[Any]] = [
    Field("path", "Where, as the guest has it.", _path),
    Field("kind", "A: added, M: modified, D: deleted.", lambda c: c.kind),
]


@click.command(cls=Command)
@click.argument("name", metavar="NAME", type=guests())
@output_options(FIELDS)
def diff(name: str, shape: output.Shape) -> None:
    """Say what a guest changed: what its top layer adds, modifies and deletes.

    Each line is A, M or D and a path. A deleted directory is listed, and everything that was in
    it. Content, type, mode, owner, extended attributes and the time of modification count; the
    times of directories do not.
    """
    from dumm_tools.files import changes

    found = changes.changes(common.entered(), name)
    if shape.names or shape.fields or shape.as_json:
        output.emit(found, FIELDS, shape)
    else:
        click.echo("".join(f"{c.kind} {output.quoted(c.path)}\n" for c in found), nl=False)


@click.command(cls=Command)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=guests("stopped"))
def reset(names: tuple[str, ...]) -> int:
    """Drop the changes of stopped guests: what is in host/NAME."""
    from dumm_tools.files import changes

    labdir = common.entered()
    return each(names, lambda n: changes.reset(labdir, n))


@click.command(cls=Command)
@click.argument("name", metavar="NAME", type=guests("stopped"))
@click.argument("to", metavar="TO", type=click.Path())
def commit(name: str, to: str) -> None:
    """Keep the changes of a stopped guest as the new layer TO.

    A TO with a slash in it is a new directory, which gets what is in host/NAME: for 'overlay
    add'. Where other users of the host could get into it, it is closed to them (mode 0700), with a
    warning: it may have a guest's setuid programs in it. Any other TO is a new master of that
    name, with all that the guest sees. The guest keeps its changes.
    """
    from dumm_tools.files import changes

    with Progress() as progress:
        changes.commit(common.entered(), name, to, warn=warn, progress=progress)


class Place(Words):
    """A local path, or GUEST:PATH; completes the guest's name and local files."""

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
    help="mode: what a guest made setuid or setgid, or gave capabilities, is so on the host too.",
)
def cp(sources: tuple[str, ...], target: str, preserve: str | None) -> int:
    """Copy files and trees to, from and between guests; GUEST:PATH is a guest's, as with scp.

    Modes, owners, times, links, holes and attributes stay as they are; but what comes from a guest
    to the host is neither setuid nor setgid there, and has no capabilities, or anyone on the host
    could use what root in the guest made (see --preserve). Into a directory that is there, or to a
    new name; several SRC need a directory. A directory with '/.' at its end stands
    for what is in it. A local name with a colon in it is ./NAME. Guests may run, and see what was
    copied at once.
    """
    from dumm_tools.files import cp as copying

    status = 0

    def failed(error: DummError) -> None:
        nonlocal status
        common.report(common.program(), str(error), error.hint)
        status = status or error.exit_code

    with Progress() as progress:
        copying.copy(
            common.entered(),
            sources,
            target,
            on_error=failed,
            warn=warn,
            progress=progress,
            keep_mode=preserve == "mode",
        )
    return status


COMMANDS = (diff, reset, commit, cp)
