"""`dumm-iface capture` and `dumm-bridge capture`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dumm_tools.cli import ending, lab
from dumm_tools.cli.operands import listed
from dumm_tools.cli.words import Names

if TYPE_CHECKING:
    from dumm_tools.net.capture_many import Source


class _Devices(Names):
    """The first operand; with --all, the words of a filter follow immediately."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        if ctx.params.get("everyone"):
            return []
        return super().shell_complete(ctx, param, incomplete)


def capture_options(
    metavar: str, choices: Callable[[Any, str], Iterable[str]], all_of: str
) -> Callable[[Callable[..., Any]], Any]:
    """The operands and options of a `capture`."""
    first = click.argument(
        "first",
        metavar=f"{metavar},...|--all",
        required=False,
        type=_Devices(metavar, choices),
    )
    words = click.argument("words", metavar="[FILTER...]", nargs=-1, type=click.UNPROCESSED)
    everyone = click.option("--all", "everyone", is_flag=True, help=f"Capture all {all_of}.")
    write = click.option(
        "-w",
        "file",
        metavar="FILE|-",
        help="Write pcap, or pcapng for several, to a file or to standard output (-).",
    )

    pcapng = click.option(
        "--pcapng", is_flag=True, help="With -w: write pcapng for a single one, too."
    )

    def decorate(function: Callable[..., Any]) -> Any:
        return everyone(first(words(write(pcapng(function)))))

    return decorate


def captured(
    first: str | None,
    words: tuple[str, ...],
    file: str | None,
    everyone: bool,
    pcapng: bool,
    sources: Callable[[str, Sequence[str]], list[Source]],
) -> int:
    """Run a `capture`; its exit status."""
    from dumm_tools.net import capture, capture_many

    if first is None and not everyone:
        raise click.UsageError("nothing to capture: give a name, or use --all")
    if everyone:
        names = []
        words = words if first is None else (first, *words)
    else:
        names = listed("the list", [first or ""])
    if pcapng and file is None:
        raise click.UsageError("--pcapng needs -w")
    several = everyone or len(names) > 1 or pcapng
    if several and file is None:
        raise click.UsageError(
            "several captures are written to a file: give -w (-w - | tshark -r - prints them)"
        )
    labdir = lab.entered(make=False)
    found = sources(labdir, names)
    try:
        if several:
            return capture_many.run(found, words, str(file), ending.note)
        return capture.run(found[0].device, words, file)
    except BrokenPipeError:
        ending.die_of(signal.SIGPIPE)
