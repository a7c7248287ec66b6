"""`dumm-extcap`: the interfaces of labs in Wireshark and tshark, as extcap(4) describes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

from dumm_tools import __version__, proc
from dumm_tools.cli import commands, ending, lab
from dumm_tools.cli.words import File
from dumm_tools.errors import DummError, NotFound, Usage

if TYPE_CHECKING:
    from dumm_tools.labs.named import Place

_ETHERNET = "dlt {number=1}{name=EN10MB}{display=Ethernet}"


@click.command(
    "dumm-extcap",
    cls=commands.Command,
    # Newer versions of Wireshark may have options that make no difference here.
    context_settings={**commands.CONTEXT, "ignore_unknown_options": True},
)
@click.option("--extcap-interfaces", "listing", is_flag=True, help="List what can be captured.")
@click.option("--extcap-interface", "name", metavar="NAME", help="One of these.")
@click.option("--extcap-dlts", "dlts", is_flag=True, help="Print its link type.")
@click.option("--extcap-config", "config", is_flag=True, help="Print its options: there are none.")
@click.option("--capture", is_flag=True, help="Capture it until a signal arrives.")
@click.option("--fifo", metavar="FILE", type=File(), help="Where to write its packets (pcapng).")
@click.option("--extcap-capture-filter", "expression", metavar="FILTER", help="A capture filter.")
@click.option("--extcap-version", "_version", metavar="VERSION", help="The caller's version.")
@click.argument("_others", metavar="", nargs=-1, type=click.UNPROCESSED)
def cli(
    listing: bool,
    name: str | None,
    dlts: bool,
    config: bool,
    capture: bool,
    fifo: str | None,
    expression: str | None,
    _version: str | None,
    _others: tuple[str, ...],
) -> int:
    """Show the interfaces of labs to Wireshark.

    Wireshark and tshark run this program by themselves, if it is where they look for it. It knows
    the labs that DUMM_LABS, the file ~/.config/dumm/labs and DUMM_DIR name.
    """
    from dumm_tools.labs import named

    if listing:
        click.echo(f"extcap {{version={__version__}}}{{display=dumm-tools}}")
        for place in named.places(ending.note):
            click.echo(f"interface {{value={place.name}}}{{display={place.display}}}")
        return 0
    if name is None:
        raise click.UsageError("one of --extcap-interfaces and --extcap-interface is needed")
    if dlts:
        click.echo(_ETHERNET)
        return 0
    if config:
        return 0
    found = next((p for p in named.places(proc.log) if p.name == name), None)
    if found is None:
        raise NotFound(f"no interface '{name}'", hint="is a guest on it running?")
    if capture and fifo is None:
        raise click.UsageError("--capture needs --fifo")
    return _capture(found, expression, fifo if capture else None)


def _capture(place: Place, expression: str | None, fifo: str | None) -> int:
    """Capture, or only say what is wrong with the filter."""
    from dumm_tools.net import capture_many

    click.get_current_context().meta["dumm.directory"] = place.labdir
    labdir = lab.entered(make=False)
    words = [expression] if expression else []
    if place.bridge:
        sources = capture_many.bridges(labdir, [place.bridge])
    else:
        sources = capture_many.interfaces(labdir, [place.interface] if place.interface else [])
    if fifo is None:
        try:
            capture_many.compiled(sources[0].device, words)
        except DummError as e:
            click.echo(str(e))
        return 0
    if not fifo:
        raise Usage("an empty path")
    try:
        return capture_many.run(sources, words, fifo, proc.log)
    except BrokenPipeError:
        ending.die_of(signal.SIGPIPE)


def main() -> None:
    """Entry point."""
    ending.run(cli, "dumm-extcap")
