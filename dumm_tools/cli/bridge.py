"""`dumm-bridge`: the segments of a lab, and what is plugged into them."""

from __future__ import annotations

import click

from dumm_tools import network, output, state
from dumm_tools.cli.common import Group, each, lab, output_options, run, tool
from dumm_tools.cli.iface import BRIDGE, IFACE, address_options, addresses_argument
from dumm_tools.network import BridgeView
from dumm_tools.output import Field

cli = tool("dumm-bridge", "Segments: bridges on the host that join the interfaces of guests.")

FIELDS: list[Field[BridgeView]] = [
    Field("name", "Its name, on the host too.", lambda v: v.record.name),
    Field("state", "up, or down when it is not there.", lambda v: v.state),
    Field("address", "The host's own addresses on it, A/P.", lambda v: sorted(v.record.addresses)),
    Field("members", "The interfaces connected to it.", lambda v: v.members),
    Field("uplink", "The way out of the lab.", lambda v: None),
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
    from dumm_tools import bridge

    return each(
        names,
        lambda name: bridge.create(lab(), name, addresses=addresses, may_exist=may_exist),
    )


@cli.command()
@several
@click.option("--if-exists", is_flag=True, help="One that is not there is no error.")
def delete(names: tuple[str, ...], if_exists: bool) -> int:
    """Unplug the members of bridges, then remove the bridges."""
    from dumm_tools import bridge

    return each(names, lambda name: bridge.delete(lab(), name, if_exists=if_exists))


@cli.command("list")
@output_options(FIELDS)
def list_(shape: output.Shape) -> None:
    """List the bridges."""
    output.emit(network.bridges(state.load(lab(make=False))), FIELDS, shape)


@cli.command()
@several
@output_options(FIELDS)
def show(names: tuple[str, ...], shape: output.Shape) -> int:
    """Show bridges in full."""
    stored = state.load(lab(make=False))
    found: list[BridgeView] = []
    status = each(names, lambda name: found.append(network.bridge_view(stored, name)))
    output.emit(found, FIELDS, shape, one_by_one=True)
    return status


@cli.command()
@one
@interfaces
def connect(name: str, ifaces: tuple[str, ...]) -> int:
    """Plug interfaces into a bridge.

    One that is on another bridge moves, and its traffic with it. One that was on none comes up
    in its guest.
    """
    from dumm_tools import bridge

    return each(ifaces, lambda interface: bridge.connect(lab(), name, interface))


@cli.command()
@interfaces
def disconnect(ifaces: tuple[str, ...]) -> int:
    """Unplug interfaces; they go down in their guests."""
    from dumm_tools import bridge

    return each(ifaces, lambda interface: bridge.disconnect(lab(), interface))


address_group = Group(name="address", help="The host's own addresses on a bridge.")
cli.add_command(address_group)


@address_group.command("add")
@one
@addresses_argument
@click.option("--may-exist", is_flag=True, help="One that it has is no error.")
def address_add(name: str, addresses: tuple[str, ...], may_exist: bool) -> None:
    """Give the host addresses on a bridge."""
    from dumm_tools import bridge

    bridge.add_addresses(lab(), name, addresses, may_exist=may_exist)


@address_group.command("del")
@one
@addresses_argument
@click.option("--if-exists", is_flag=True, help="One that it has not is no error.")
def address_del(name: str, addresses: tuple[str, ...], if_exists: bool) -> None:
    """Take addresses from the host on a bridge."""
    from dumm_tools import bridge

    bridge.del_addresses(lab(), name, addresses, if_exists=if_exists)


def main() -> None:
    """Entry point."""
    run(cli, "dumm-bridge")
