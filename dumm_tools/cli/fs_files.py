"""`dumm-fs diff|reset|commit|cp`: guests' files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dumm_tools import output
from dumm_tools.cli import ending, lab, repeated
from dumm_tools.cli.commands import Command
from dumm_tools.cli.ending import each, warn
from dumm_tools.cli.lab import working_directory
from dumm_tools.cli.operands import guest_list, guests
from dumm_tools.cli.progress import Progress
from dumm_tools.cli.shapes import output_options
from dumm_tools.cli.words import Words
from dumm_tools.errors import DummError, NotFound
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
@repeated.may_exist("Do not fail if TO already exists and contains the same files.")
def commit(name: str, to: str, may_exist: bool) -> None:
    """Save the changes of a stopped guest as the new layer TO.

    If TO contains a slash, it is a new directory that receives the contents of host/NAME, for use
    with 'overlay add'. If other users of the host could enter it, it is closed to them (mode 0700)
    and a warning is printed, because it may contain setuid programs made by the guest. Otherwise,
    TO is the name of a new master that contains everything that the guest sees. The guest keeps
    its changes.
    """
    from dumm_tools.files import changes

    with Progress() as progress:
        changes.commit(lab.entered(), name, to, may_exist=may_exist, warn=warn, progress=progress)


class Place(Words):
    """A local path, or GUEST:PATH; completes guest names, files in guests and local files."""

    name = "place"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        from dumm_tools.files import candidates
        from dumm_tools.running import entry

        head, colon, path = incomplete.partition(":")
        path = path if path.startswith("/") else f"/{path}"
        if "/" in head:
            return [CompletionItem(incomplete, type="file")]
        if colon:
            try:
                directory = working_directory(ctx)
                entry.enter(directory)
                last = head.rpartition(",")[2]  # DST may be in several guests
                guest = last or _one_of_all(directory)
                found = [f"{head}:{each}" for each in candidates.in_guest(directory, guest, path)]
            except (DummError, OSError):
                return []
            return [CompletionItem(each, type=_kind(each)) for each in found]
        words = guest_list().shell_complete(ctx, param, incomplete)
        names = [f"{item.value}:/" for item in words]
        if not names:
            return [CompletionItem(incomplete, type="file")]
        return [
            CompletionItem(each, type=_kind(each))
            for each in (*names, *candidates.here(incomplete))
        ]


def _one_of_all(directory: str) -> str:
    """The guest whose files stand for those of all, with --all; NotFound."""
    from dumm_tools.statefile import load

    guests = load(directory).guests
    if not guests:
        raise NotFound("no guests")
    return min(guests)


def _kind(value: str) -> str:
    """The type of a completion: the scripts put a space after one that is `plain`."""
    return "part" if value.endswith("/") else "plain"


@click.command(cls=Command)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=Place())
@click.argument("target", metavar="DST", type=Place())
@click.option("--all", "everyone", is_flag=True, help="Copy to all guests; DST is written :PATH.")
@click.option(
    "--preserve",
    type=click.Choice(["mode"]),
    help="mode: keep setuid and setgid bits and capabilities when copying to the host.",
)
def cp(sources: tuple[str, ...], target: str, everyone: bool, preserve: str | None) -> int:
    """Copy files and trees to, from and between guests.

    As with scp, GUEST:PATH is a path in a guest. Modes, owners, times, links, holes and extended
    attributes are preserved. Files copied from a guest to the host lose setuid and setgid bits and
    capabilities, since anybody on the host could use what root in the guest made (see --preserve).
    DST is an existing directory or a new name; several SRC need a directory. A directory that ends
    in '/.' stands for its contents. Write a local name that contains a colon as ./NAME. Guests may
    be running, and see the copied files immediately.

    DST may be in several guests: GUEST,GUEST...:PATH or, with --all, :PATH. Each is tried.
    """
    from dumm_tools.files import cp as copying

    status = 0

    def failed(error: DummError) -> None:
        nonlocal status
        ending.report(ending.program(), str(error), error.hint)
        status = status or error.exit_code

    labdir = lab.entered()
    targets = copying.targets(labdir, target, everyone=everyone)
    with Progress() as progress:

        def one(to: str) -> None:
            try:
                copying.copy(
                    labdir,
                    sources,
                    to,
                    on_error=failed,
                    warn=warn,
                    progress=progress,
                    keep_mode=preserve == "mode",
                )
            except DummError as e:  # the others are tried
                failed(e)

        code = each(targets, one)
    return status or code


COMMANDS = (diff, reset, commit, cp)
