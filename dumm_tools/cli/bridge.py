"""`dumm-bridge`: the segments of a lab, and what is plugged into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from dumm_tools.cli import repeated
from dumm_tools.cli.capturing import capture_options, captured
from dumm_tools.cli.commands import tool
from dumm_tools.cli.ending import each, run, warn
from dumm_tools.cli.iface import (
    BRIDGE,
    IFACE,
    address_options,
    known_bridges,
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
    Field(
        "state", "up, or down, also if the device does not exist.", lambda v: v.state, state=True
    ),
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


def chosen_kind(hub: bool, switch: bool, auto: bool = False) -> BridgeKind | None:
    """The kind that options name. UsageError."""
    if hub + switch + auto > 1:
        raise click.UsageError("--hub, --switch and --auto are mutually exclusive")
    return "hub" if hub else "switch" if switch else "auto" if auto else None


@cli.command()
@click.argument("names", metavar="BR...", nargs=-1, required=True)
@address_options
@hub_option
@switch_option
@repeated.may_exist(
    "Change an existing one as far as it differs; options not given leave it alone."
)
def create(
    names: tuple[str, ...], addresses: tuple[str, ...], hub: bool, switch: bool, may_exist: bool
) -> int:
    """Create bridges. Addresses are those of the host on the segment.

    A segment with two ends is a cable, and one with more is a switch, unless --hub or --switch is
    given. Its ends are the interfaces on it, the host if it has an address there, and a device of
    the host that is its uplink. With --may-exist, the --address options of an existing one replace
    all its addresses.
    """
    from dumm_tools.net import bridge, converge

    kind = chosen_kind(hub, switch)
    need_single(names, addresses)
    make = converge.bridge if may_exist else bridge.create
    return each(
        names, lambda name: make(entered(), name, addresses=addresses, kind=kind, warn=warn)
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

    kind = chosen_kind(hub, switch, auto)
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
@repeated.if_exists("Do not fail if it is not connected, or does not exist.")
def disconnect(ifaces: tuple[str, ...], if_exists: bool) -> int:
    """Disconnect interfaces, as if their cables were pulled.

    In its guest, the device loses its carrier, and keeps everything else. So does the device at
    the other end if the segment has only two ends.
    """
    from dumm_tools.net import connection

    return each(
        ifaces,
        lambda interface: connection.disconnect(
            entered(), interface, if_exists=if_exists, warn=warn
        ),
    )


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
@capture_options("BR", known_bridges, "bridges that exist")
def capture_(first: str | None, words: tuple[str, ...], **options: Any) -> int:
    """Print the traffic on a bridge with tcpdump(8), until Ctrl-C.

    FILTER is as in pcap-filter(7). After `--`, options of tcpdump may precede it.

    Several bridges, BR,BR... or --all, need -w: their packets are written to one file, in the order
    of their times, as pcapng with the names of the bridges.
    """
    from dumm_tools.net import capture_many

    return captured(first, words, sources=capture_many.bridges, **options)


address_verbs(
    cli,
    "bridge",
    one,
    group_help="Manage the host's own addresses on a bridge.",
    add_help="Add addresses of the host to a bridge.",
    del_help="Remove addresses of the host from a bridge.",
)


def chosen_uplink(
    *,
    nat: bool,
    device: str | None,
    remove: bool,
    host_access: bool,
    may_exist: bool,
    if_exists: bool,
    **_others: object,
) -> str | None:
    """The uplink that options name, None with --none. UsageError."""
    if nat + remove + (device is not None) > 1:
        raise click.UsageError("--nat, --to and --none are mutually exclusive")
    if host_access and (remove or device is not None):
        raise click.UsageError("--host-access requires --nat")
    if may_exist and remove:
        raise click.UsageError("--may-exist cannot be combined with --none")
    if if_exists and not remove:
        raise click.UsageError("--if-exists requires --none")
    return None if remove else "nat" if device is None else f"to:{device}"


@cli.command()
@one
@click.option("--nat", is_flag=True, help="Use the host's own address (default).")
@click.option("--to", "device", metavar="HOSTDEV", help="Connect a device of the host (root).")
@click.option("--none", "remove", is_flag=True, help="Remove the uplink.")
@click.option(
    "--host-access", is_flag=True, help="With --nat: allow access to the host's own services."
)
@repeated.may_exist("Replace another uplink of the bridge.")
@repeated.if_exists("With --none: do not fail if there is no such bridge.")
def uplink(name: str, host_access: bool, may_exist: bool, if_exists: bool, **options: Any) -> None:
    """Connect a segment to the outside.

    With --nat, guests that use the host's address on the bridge as their gateway can reach
    whatever the host can reach over IPv4; nobody outside can reach them. The host itself only
    answers their pings, and link-local addresses (169.254.0.0/16) are blocked, unless
    --host-access is given.
    """
    from dumm_tools.net import uplink as domain

    wanted = chosen_uplink(
        host_access=host_access, may_exist=may_exist, if_exists=if_exists, **options
    )
    if wanted is None:
        domain.clear(entered(make=False), name, if_exists=if_exists, warn=warn)
        return
    for warning in domain.set_(labdir(), name, wanted, host_access=host_access, replace=may_exist):
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
