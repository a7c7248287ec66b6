"""`dumm-console import`: labs of other tools as lab files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.values import human_size
from dumm_tools.cli.words import Directory, File

if TYPE_CHECKING:
    from dumm_tools.importing.printing import Choice
    from dumm_tools.importing.topology import Topology

imports = commands.Group(
    "import",
    help="""Print labs of other tools as lab files.

    The lab file goes to standard output, for `dumm-console apply`. Everything that is not carried
    over is reported on standard error, one line each.
    """,
)


def _masters(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, str]]:
    found = []
    for value in values:
        image, _, master = value.rpartition("=")
        if not image or not master:
            raise click.BadParameter(f"'{value}' is not IMAGE=MASTER", ctx, param)
        found.append((image, master))
    return found


_OPTIONS = (
    click.option(
        "--map",
        "masters",
        metavar="IMAGE=MASTER",
        multiple=True,
        callback=_masters,
        help="Master for machines with this image, or all that match, such as 'frr*'.",
    ),
    click.option(
        "--memory",
        metavar="SIZE",
        default="128M",
        show_default=True,
        callback=human_size,
        help="Memory of machines for which the lab names none.",
    ),
    click.option(
        "--strict", is_flag=True, help="Exit with status 1 if anything is not carried over."
    ),
)
Read = Callable[["Choice"], "Topology"]


def _importer(name: str, operand: click.ParamType[str], metavar: str) -> Callable[..., Any]:
    """Make a command of a function that has the operand and returns what reads it."""

    def command(function: Callable[[str], Read]) -> click.Command:
        def run(source: str, masters: list[tuple[str, str]], memory: int, strict: bool) -> int:
            return _print(function(source), masters, memory, strict)

        made: Any = click.argument("source", metavar=metavar, type=operand)(run)
        for option in reversed(_OPTIONS):
            made = option(made)
        return imports.command(name, help=function.__doc__)(made)

    return command


def _print(read: Read, masters: list[tuple[str, str]], memory: int, strict: bool) -> int:
    from dumm_tools.importing import printing

    base = os.path.realpath(lab.named_directory(click.get_current_context()))
    choice = printing.Choice(masters, memory, base)
    found = read(choice)
    text = printing.text(found, choice, _command_of)
    for note in found.notes:
        ending.report(ending.program(), note)
    sys.stdout.buffer.write(text)
    return 1 if strict and found.notes else 0


def _command_of(master: str) -> list[str] | None:
    """The command of the image that a master in the cache was made from."""
    from dumm_tools.images import master as masters
    from dumm_tools.images import startup

    command = startup.command_of(masters.resolve(master).path)
    return None if command is None else command.as_words()


@_importer("kathara", Directory(), "DIR")
def kathara(source: str) -> Read:
    """Print a lab of Kathara: the directory with its lab.conf."""
    from dumm_tools.importing import kathara as reader

    return lambda choice: reader.read(source)


@_importer("containerlab", File(), "FILE|DIR")
def containerlab(source: str) -> Read:
    """Print a topology of containerlab: its YAML file, or the directory with it.

    Variables are those of the environment, as for containerlab. Needs PyYAML.
    """
    from dumm_tools.importing import containerlab as reader

    return lambda choice: reader.read(
        source, os.environ, lambda image: choice.master(image) is not None
    )


@_importer("mininet", File(), "FILE")
def mininet(source: str) -> Read:
    """Print a network of Mininet: a script in Python, or a file of MiniEdit.

    The script is not run. Constants, loops and functions are followed; everything else that would
    matter is reported. Switches become segments.
    """
    from dumm_tools.importing import mininet as reader

    return lambda choice: reader.read(source)
