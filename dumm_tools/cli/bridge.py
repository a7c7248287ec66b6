"""`dumm-bridge`: the segments of a lab, and what is plugged into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from dumm_tools.cli.commands import tool
from dumm_tools.cli.ending import each, run, warn
from dumm_tools.cli.iface import (
    BRIDGE,
    IFACE,
    address_options,
    capture_options,
    captured,
    need_single,
)
from dumm_tools.cli.lab import entered, labdir
from dumm_tools.cli.objects import address_verbs, delete_verb, list_verb, show_verb
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools.model import BridgeKind
    from dumm_tools.net.link_views import BridgeView

cli = tool(
    "dumm-bridge", "Manage segments: bridges on the host that connect the interfaces of guests."
)

FIELDS: list[Field[BridgeView]] = [
    Field("name", "Name of the bridge, also on the host.", lambda v: v.record.name),
    Field("state", "up, or down, also if the device does not exist.", lambda v: v.state),
    Field(
        "address",
        "The host's own addresses on the bridge, A/P.",
        lambda v: sorted(v.record.addresses),
    ),
    Field("members", "Interfaces connected to the bridge.", lambda v: v.members),
    Field("uplink", "Uplink to the outside: nat or to:HOSTDEV.", lambda v: v.record.uplink),
    Field(
        "host_access",
        "Whether guests can reach the host's own services through the uplink.",
        lambda v: v.record.host_access,
        in_table=False,
    ),
    Field("kind", "Present kind of the segment: cable, hub or switch.", lambda v: v.kind),
    Field(
        "kind_set",
        "Configured kind: auto, hub or switch.",
        lambda v: v.record.kind,
        in_table=False,
    ),
]

several = click.argument("names", metavar="BR...", nargs=-1, required=True, type=BRIDGE)
one = click.argument("name", metavar="BR", type=BRIDGE)
hub_option = click.option("--hub", is_flag=True, help="Send each frame to all other ends.")
switch_option = click.option("--switch", is_flag=True, help="Learn where addresses are.")
interfaces = click.argument("ifaces", metavar="IFACE...", nargs=-1, required=True, type=IFACE)


def _kind(hub: bool, switch: bool, auto: bool = False) -> BridgeKind | None:
    if hub + switch + auto > 1:
        raise click.UsageError("--hub, --switch and --auto are mutually exclusive")
    return "hub" if hub else "switch" if switch else "auto" if auto else None


@cli.command()
@click.argument("names", metavar="BR...", nargs=-1, required=True)
@address_options
@hub_option
@switch_option
@click.option(
    "--may-exist",
    is_flag=True,
    help="Do not fail if it already exists; change only its kind, if one is given.",
)
def create(
    names: tuple[str, ...], addresses: tuple[str, ...], hub: bool, switch: bool, may_exist: bool
) -> int:
    """Create bridges. Addresses are those of the host on the segment.

    A segment with two ends is a cable, and one with more is a switch, unless --hub or --switch is
    given. Its ends are the interfaces on it, the host if it has an address there, and a device of
    the host that is its uplink.
    """
    from dumm_tools.net import bridge

    kind = _kind(hub, switch)
    need_single(names, addresses)
    return each(
        names,
        lambda name: bridge.create(
            entered(), name, addresses=addresses, kind=kind, may_exist=may_exist, warn=warn
        ),
    )


delete_verb(
    cli,
    "bridge",
    several,
    "Disconnect the members of bridges, then delete the bridges.",
    warns=True,
)
list_verb(cli, FIELDS, "bridges", "List the bridges.")
show_verb(cli, FIELDS, several, "bridge_view", "Show all fields of bridges.")


@cli.command("set")
@one
@hub_option
@switch_option
@click.option("--auto", is_flag=True, help="A cable with two ends, a switch with more.")
def set_(name: str, hub: bool, switch: bool, auto: bool) -> None:
    """Change the kind of a segment, immediately."""
    from dumm_tools.net import bridge

    kind = _kind(hub, switch, auto)
    if kind is None:
        raise click.UsageError("one of --hub, --switch and --auto is required")
    bridge.set_kind(entered(), name, kind, warn=warn)


@cli.command()
@one
@interfaces
def connect(name: str, ifaces: tuple[str, ...]) -> int:
    """Connect interfaces to a bridge.

    In its guest, the device gets a carrier. An interface that is connected to another bridge
    moves, and its traffic with it.
    """
    from dumm_tools.net import connection

    return each(ifaces, lambda interface: connection.connect(entered(), name, interface, warn=warn))


@cli.command()
@interfaces
def disconnect(ifaces: tuple[str, ...]) -> int:
    """Disconnect interfaces, as if their cables were pulled.

    In its guest, the device loses its carrier, and keeps everything else. So does the device at
    the other end if the segment has only two ends.
    """
    from dumm_tools.net import connection

    return each(ifaces, lambda interface: connection.disconnect(entered(), interface, warn=warn))


@cli.command()
@several
def up(names: tuple[str, ...]) -> int:
    """Bring segments up again.

    Their members get their carriers back in their guests.
    """
    from dumm_tools.net import bridge

    return each(names, lambda name: bridge.set_up(entered(), name, True, warn=warn))


@cli.command()
@several
def down(names: tuple[str, ...]) -> int:
    """Take whole segments down.

    No traffic passes, not even to the host, and all members lose their carriers in their guests,
    until the segment is brought up again.
    """
    from dumm_tools.net import bridge

    return each(names, lambda name: bridge.set_up(entered(), name, False, warn=warn))


@cli.command("capture")
@one
@capture_options
def capture_(name: str, words: tuple[str, ...], file: str | None) -> int:
    """Print the traffic on a bridge with tcpdump(8), until Ctrl-C.

    FILTER is as in pcap-filter(7). After `--`, options of tcpdump may precede it.
    """
    from dumm_tools.net import capture

    return captured(capture.of_bridge(entered(make=False), name), words, file)


address_verbs(
    cli,
    "bridge",
    one,
    group_help="Manage the host's own addresses on a bridge.",
    add_help="Add addresses of the host to a bridge.",
    del_help="Remove addresses of the host from a bridge.",
)


@cli.command()
@one
@click.option("--nat", is_flag=True, help="Use the host's own address (default).")
@click.option("--to", "device", metavar="HOSTDEV", help="Connect a device of the host (root).")
@click.option("--none", "remove", is_flag=True, help="Remove the uplink.")
@click.option(
    "--host-access", is_flag=True, help="With --nat: allow access to the host's own services."
)
def uplink(name: str, nat: bool, device: str | None, remove: bool, host_access: bool) -> None:
    """Connect a segment to the outside.

    With --nat, guests that use the host's address on the bridge as their gateway can reach
    whatever the host can reach over IPv4; nobody outside can reach them. The host itself only
    answers their pings, and link-local addresses (169.254.0.0/16) are blocked, unless
    --host-access is given.
    """
    from dumm_tools.net import uplink as domain

    if nat + remove + (device is not None) > 1:
        raise click.UsageError("--nat, --to and --none are mutually exclusive")
    if host_access and (remove or device is not None):
        raise click.UsageError("--host-access requires --nat")
    if remove:
        domain.clear(entered(make=False), name, warn=warn)
        return
    wanted = f"to:{device}" if device is not None else "nat"
    for warning in domain.set_(labdir(), name, wanted, host_access=host_access):
        warn(warning)


@cli.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["dot", "svg", "png", "pdf", "mermaid", "json"]),
    default="dot",
    show_default=True,
    help="Output format; svg, png and pdf are rendered by Graphviz.",
)
@click.option("--core", is_flag=True, help="Leave out guests on fewer than two segments.")
def graph(form: Literal["dot", "svg", "png", "pdf", "mermaid", "json"], core: bool) -> None:
    """Print a picture of the current state of the lab.

    It shows guests with their states, interfaces with their addresses and shaping, bridges, the
    host's addresses and uplinks.
    """
    from dumm_tools.labs import graph as domain

    click.echo(domain.draw(entered(make=False), form, core=core), nl=False)


def main() -> None:
    """Entry point."""
    run(cli, "dumm-bridge")
