"""`dumm-bridge`: the segments of a lab, and what is plugged into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from dumm_tools.cli.common import each, entered, labdir, run, tool, warn
from dumm_tools.cli.iface import (
    BRIDGE,
    IFACE,
    address_options,
    capture_options,
    captured,
)
from dumm_tools.cli.objects import address_verbs, delete_verb, list_verb, show_verb
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools.net.link_views import BridgeView

cli = tool("dumm-bridge", "Segments: bridges on the host that join the interfaces of guests.")

FIELDS: list[Field[BridgeView]] = [
    Field("name", "Its name, on the host too.", lambda v: v.record.name),
    Field("state", "up, or down when it is not there.", lambda v: v.state),
    Field("address", "The host's own addresses on it, A/P.", lambda v: sorted(v.record.addresses)),
    Field("members", "The interfaces connected to it.", lambda v: v.members),
    Field("uplink", "The way out of the lab: nat, or to:HOSTDEV.", lambda v: v.record.uplink),
    Field(
        "host_access",
        "May guests reach the host's own services by the uplink?",
        lambda v: v.record.host_access,
        in_table=False,
    ),
]

several = click.argument("names", metavar="BR...", nargs=-1, required=True, type=BRIDGE)
one = click.argument("name", metavar="BR", type=BRIDGE)
interfaces = click.argument("ifaces", metavar="IFACE...", nargs=-1, required=True, type=IFACE)


@cli.command()
@click.argument("names", metavar="BR...", nargs=-1, required=True)
@address_options
@click.option("--may-exist", is_flag=True, help="One that is there is left as it is.")
def create(names: tuple[str, ...], addresses: tuple[str, ...], may_exist: bool) -> int:
    """Make bridges. An address is the host's own on the segment."""
    from dumm_tools.net import bridge

    return each(
        names,
        lambda name: bridge.create(entered(), name, addresses=addresses, may_exist=may_exist),
    )


delete_verb(
    cli, "bridge", several, "Unplug the members of bridges, then remove the bridges.", warns=True
)
list_verb(cli, FIELDS, "bridges", "List the bridges.")
show_verb(cli, FIELDS, several, "bridge_view", "Show bridges in full.")


@cli.command()
@one
@interfaces
def connect(name: str, ifaces: tuple[str, ...]) -> int:
    """Plug interfaces into a bridge.

    One that is on another bridge moves, and its traffic with it. One that is down comes up in
    its guest.
    """
    from dumm_tools.net import bridge

    return each(ifaces, lambda interface: bridge.connect(entered(), name, interface))


@cli.command()
@interfaces
def disconnect(ifaces: tuple[str, ...]) -> int:
    """Unplug interfaces; they go down in their guests."""
    from dumm_tools.net import bridge

    return each(ifaces, lambda interface: bridge.disconnect(entered(), interface))


@cli.command("capture")
@one
@capture_options
def capture_(name: str, words: tuple[str, ...], file: str | None) -> int:
    """Print what passes a bridge, until Ctrl-C; by tcpdump(8).

    FILTER is as in pcap-filter(7). Behind `--` options of tcpdump may stand before it.
    """
    from dumm_tools.net import capture

    return captured(capture.of_bridge(entered(make=False), name), words, file)


address_verbs(
    cli,
    "bridge",
    one,
    group_help="The host's own addresses on a bridge.",
    add_help="Give the host addresses on a bridge.",
    del_help="Take addresses from the host on a bridge.",
)


@cli.command()
@one
@click.option("--nat", is_flag=True, help="By the host's own address (the default).")
@click.option("--to", "device", metavar="HOSTDEV", help="Plug a device of the host's in (root).")
@click.option("--none", "remove", is_flag=True, help="Take the uplink away.")
@click.option("--host-access", is_flag=True, help="With --nat: to the host's own services, too.")
def uplink(name: str, nat: bool, device: str | None, remove: bool, host_access: bool) -> None:
    """Give a segment a way out of the lab.

    With --nat guests that send to the host's address on the bridge reach what the host reaches
    by IPv4; nobody outside reaches them. Of the host itself they reach nothing but its answer to
    a ping, and no link-local address (169.254.0.0/16) beyond it, unless --host-access is given.
    """
    from dumm_tools.net import uplink as domain

    if nat + remove + (device is not None) > 1:
        raise click.UsageError("--nat, --to and --none exclude each other")
    if host_access and (remove or device is not None):
        raise click.UsageError("--host-access goes with --nat")
    if remove:
        domain.clear(entered(make=False), name)
        return
    wanted = f"to:{device}" if device is not None else "nat"
    before = domain.record(labdir(), name, wanted, host_access=host_access)
    try:
        directory = entered()
    except BaseException:
        domain.forget(labdir(), name, before)
        raise
    for warning in domain.make(directory, name, before):
        warn(warning)


@cli.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["dot", "svg", "mermaid", "json"]),
    default="dot",
    show_default=True,
    help="What to print; svg is drawn by Graphviz.",
)
def graph(form: Literal["dot", "svg", "mermaid", "json"]) -> None:
    """Print a picture of the lab as it is now.

    Guests with their states, interfaces with addresses and impairments, bridges, the host's
    addresses, uplinks.
    """
    from dumm_tools.labs import graph as domain

    click.echo(domain.draw(entered(make=False), form), nl=False)


def main() -> None:
    """Entry point."""
    run(cli, "dumm-bridge")
