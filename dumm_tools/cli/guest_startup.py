"""`dumm-guest startup`: the script that a guest runs at each boot."""

from __future__ import annotations

import sys
from typing import Any

import click

from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.operands import guests
from dumm_tools.cli.words import Words


class FileOrStdin(Words):
    """The name of a file to read, or `-` for standard input."""

    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def read_script(path: str) -> bytes:
    """Read a script from a file or from standard input, but no more than one may have."""
    from dumm_tools.agent import protocol
    from dumm_tools.errors import NotFound, Usage

    most = protocol.STARTUP_MAX + 1
    if path == "-":
        return ending.stdin().read(most)
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except FileNotFoundError:
        raise NotFound(f"no such file '{path}'") from None
    except OSError as e:
        raise Usage(f"cannot read '{path}': {e.strerror}") from None


@click.command(cls=commands.Command)
@click.argument("name", type=guests())
@click.argument("file", metavar="[FILE|-]", required=False, type=FileOrStdin())
@click.option("--clear", is_flag=True, help="Remove the script.")
def startup(name: str, file: str | None, clear: bool) -> int:
    """Set the script that a guest runs at each boot, or print it.

    The agent runs it as root once the interfaces are in place and the init, if there is one, has
    come up: with the interpreter that its first line names, else with /bin/sh. A change takes
    effect at the next boot. Without FILE, the script is printed; the exit status is 1 if there is
    none.
    """
    from dumm_tools.guests import startup as scripts

    if clear and file is not None:
        raise click.UsageError("--clear cannot be combined with a file")
    if file is None and not clear:
        script = scripts.show(lab.labdir(), name)
        sys.stdout.buffer.write(script or b"")
        return 0 if script is not None else 1
    text = None if file is None else read_script(file)
    scripts.set_(lab.entered(), name, text)
    return 0
