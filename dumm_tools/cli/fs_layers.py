"""`dumm-fs overlay` and `dumm-fs template`: the layers of guests' roots."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from dumm_tools import output
from dumm_tools.cli import during, ending, lab, repeated
from dumm_tools.cli.commands import Group
from dumm_tools.cli.ending import each, warn
from dumm_tools.cli.operands import guests
from dumm_tools.cli.shapes import output_options
from dumm_tools.cli.words import Directory, Name, Words
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools.model import State

overlay = Group(name="overlay", help="Manage overlays: directories on top of the files of guests.")
template = Group(name="template", help="Manage templates: sets of layers, one for each guest.")

OVERLAY_FIELDS: list[Field[Any]] = [
    Field("path", "Directory of the layer.", lambda v: v[1]),
    Field("position", "Position in the stack; 1 is the newest, on top.", lambda v: v[0]),
]
TEMPLATE_FIELDS: list[Field[Any]] = [
    Field("name", "Name of the template.", lambda v: v.name),
    Field("loaded", "Whether it is loaded.", lambda v: v.loaded),
    Field("guests", "Guests that it has files for.", lambda v: v.guests),
    Field(
        "fresh",
        "Whether guests write to a copy of it; see --fresh.",
        lambda v: v.fresh,
        in_table=False,
    ),
]

all_option = click.option(
    "--all",
    "everyone",
    is_flag=True,
    help="Apply to all guests, or to none if the host cannot do it for one of them.",
)


def _templates(state: State, labdir: str) -> Iterable[str]:
    return sorted(os.listdir(os.path.join(labdir, "templates")))


TEMPLATE = Name("template", _templates)


class GuestThenLayer(Words):
    """NAME (not with --all), followed by a directory; completes both, from a guest's layers if
    `listed`."""

    name = "words"

    def __init__(self, *, listed: bool) -> None:
        self._listed = listed

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        said = ctx.params.get("words") or ()
        everyone = bool(ctx.params.get("everyone"))
        if not said and not everyone:
            return guests().shell_complete(ctx, param, incomplete)
        if len(said) + everyone > 1:
            return []
        if not self._listed:
            return Directory().shell_complete(ctx, param, incomplete)

        def layers(state: State, _labdir: str) -> Iterable[str]:
            chosen = [g for n, g in state.guests.items() if everyone or n in said]
            return {layer for guest in chosen for layer in guest.overlays}

        return Name("layer", layers).shell_complete(ctx, param, incomplete)


def _targets(
    labdir: str, everyone: bool, words: tuple[str, ...], rest: int
) -> tuple[list[str], Any]:
    """Parse NAME|--all and `rest` more operands."""
    if len(words) != rest + (not everyone):
        raise click.UsageError("give one guest or --all" + (", and one directory" if rest else ""))
    if not everyone:
        return [words[0]], words[1:]
    from dumm_tools.running import guest_views

    return guest_views.all_names(labdir, lambda _: True), words


class Failures:
    """Reports failures of individual guests; keeps the first exit code."""

    def __init__(self) -> None:
        self.code = 0
        self._prog = ending.program()

    def __call__(self, name: str, error: Exception) -> None:
        with ending.concerning(name):
            code = ending.tell(self._prog, error)
        self.code = self.code or code


@overlay.command(cls=during.Block, operands=2)
@click.argument(
    "words",
    metavar=f"NAME|--all DIR {during.METAVAR}",
    nargs=-1,
    type=GuestThenLayer(listed=False),
)
@all_option
@click.option("--create", is_flag=True, help="Create the directory, if it does not exist.")
@repeated.may_exist("Leave the directory where it is, if it is already one of the layers.")
def add(words: tuple[str, ...], everyone: bool, create: bool, may_exist: bool) -> int:
    """Put a directory on top of the layers of a guest, running or not.

    From then on the guest writes to this directory. It should be closed to other users of the
    host, who could otherwise run setuid programs in it. A directory that is already one of the
    layers moves to the top. With a command, it is a layer while that runs on the host.
    """
    from dumm_tools.files import stack
    from dumm_tools.trees import exposure

    labdir = lab.labdir()
    names, (directory,) = _targets(labdir, everyone, words, 1)
    failures = Failures()

    def change() -> int:
        added = stack.add(
            lab.entered(),
            names,
            directory,
            create=create,
            may_exist=may_exist,
            on_error=failures,
            warn=warn,
        )
        if added and exposure.is_open(directory):
            warn(
                f"other users can enter '{directory}' and run setuid programs that guests write "
                "there; a parent directory that is closed to them (0700) keeps them out"
            )
        return failures.code

    def before() -> Callable[[], int]:
        block = stack.block(labdir, directory, names)

        def undo() -> int:
            stack.put_back(lab.entered(), directory, block, on_error=failures, warn=warn)
            return failures.code

        return undo

    return during.block(change, before)


@overlay.command("del")
@click.argument("words", metavar="NAME|--all DIR", nargs=-1, type=GuestThenLayer(listed=True))
@all_option
@repeated.if_exists("Do not fail if it is not a layer of the guest, or there is no such guest.")
def del_(words: tuple[str, ...], everyone: bool, if_exists: bool) -> int:
    """Remove a directory from a guest's layers, without deleting it."""
    from dumm_tools.files import stack

    labdir = lab.entered()
    names, (directory,) = _targets(labdir, everyone, words, 1)
    failures = Failures()
    stack.delete(labdir, names, directory, if_exists=if_exists, on_error=failures, warn=warn)
    return failures.code


@overlay.command()
@click.argument("words", metavar="NAME|--all", nargs=-1, type=guests())
@all_option
@repeated.if_exists("Do not fail if there are no overlays, or there is no such guest.")
def pop(words: tuple[str, ...], everyone: bool, if_exists: bool) -> int:
    """Remove the newest directory from a guest's layers."""
    from dumm_tools.files import stack

    labdir = lab.entered()
    names, _ = _targets(labdir, everyone, words, 0)
    failures = Failures()
    stack.pop(labdir, names, if_exists=if_exists, on_error=failures, warn=warn)
    return failures.code


@overlay.command("list")
@click.argument("name", type=guests())
@output_options(OVERLAY_FIELDS)
def overlay_list(name: str, shape: output.Shape) -> None:
    """List the directories added to a guest's layers, newest first."""
    from dumm_tools.files import stack

    output.emit(list(enumerate(stack.list_(lab.labdir(), name), 1)), OVERLAY_FIELDS, shape)


@template.command(cls=during.Block)
@click.argument("name", metavar="T", type=TEMPLATE)
@during.argument
@click.option("--create", is_flag=True, help="Create an empty template, if it does not exist.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Load a copy of it, which is deleted when it is unloaded: T stays as it is.",
)
def load(name: str, create: bool, fresh: bool) -> int:
    """Load a template for all guests, replacing the currently loaded one.

    Guests immediately see templates/T/GUEST on top, and write to it from then on. With a command,
    it is loaded while that runs on the host.
    """
    from dumm_tools.files import template as templates

    failures = Failures()

    def change() -> int:
        templates.load_(
            lab.entered(), name, create=create, fresh=fresh, on_error=failures, warn=warn
        )
        return failures.code

    def before() -> Callable[[], int]:
        block = templates.block(lab.labdir(), name, fresh=fresh)

        def undo() -> int:
            templates.put_back(lab.entered(), block, on_error=failures, warn=warn)
            return failures.code

        return undo

    return during.block(change, before)


@template.command()
@repeated.if_exists("Do not fail if no template is loaded.")
def unload(if_exists: bool) -> int:
    """Unload the loaded template.

    Whatever guests have written to it is kept there.
    """
    from dumm_tools.files import template as templates

    failures = Failures()
    templates.unload(lab.entered(), if_exists=if_exists, on_error=failures, warn=warn)
    return failures.code


@template.command()
@click.argument("name", metavar="T")
@repeated.may_exist("Do not fail if it already exists and contains the same files.")
def save(name: str, may_exist: bool) -> None:
    """Save the changes of the guests as a new template.

    It is a copy of the loaded template, or of the guests' own files if none is loaded.
    """
    from dumm_tools.files import template as templates

    templates.save(lab.entered(), name, may_exist=may_exist)


@template.command("list")
@output_options(TEMPLATE_FIELDS)
def template_list(shape: output.Shape) -> None:
    """List the templates."""
    from dumm_tools.files import template as templates

    output.emit(templates.list_(lab.labdir()), TEMPLATE_FIELDS, shape)


@template.command()
@click.argument("names", metavar="T...", nargs=-1, required=True, type=TEMPLATE)
@repeated.if_exists()
def delete(names: tuple[str, ...], if_exists: bool) -> int:
    """Delete templates that are not loaded."""
    from dumm_tools.files import template as templates

    labdir = lab.entered()
    return each(names, lambda name: templates.delete(labdir, name, if_exists=if_exists))
