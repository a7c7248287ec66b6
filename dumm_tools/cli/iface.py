"""`dumm-iface`: the guests' network interfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from dumm_tools import output
from dumm_tools.cli import during, repeated
from dumm_tools.cli.capturing import capture_options, captured
from dumm_tools.cli.commands import tool
from dumm_tools.cli.ending import each, run, warn
from dumm_tools.cli.iface_route import route_group, rule_group
from dumm_tools.cli.lab import entered, labdir
from dumm_tools.cli.objects import address_verbs, delete_verb, list_verb, show_verb
from dumm_tools.cli.shapes import output_options
from dumm_tools.cli.words import Name
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools.net import live
    from dumm_tools.net.link_views import InterfaceView

cli = tool(
    "dumm-iface",
    "Manage the network interfaces of guests, running or not.\n\n"
    "An interface is named GUEST-DEVICE, such as alice-eth0; so is its tap on the host.",
)

FIELDS: list[Field[InterfaceView]] = [
    Field("name", "Name of the interface, GUEST-DEVICE.", lambda v: v.record.name),
    Field("guest", "Guest that it belongs to.", lambda v: v.record.guest, in_table=False),
    Field("device", "Name of the device in the guest.", lambda v: v.record.device, in_table=False),
    Field("tap", "Name of the tap on the host.", lambda v: v.record.tap, in_table=False),
    Field("bridge", "Bridge that it is connected to.", lambda v: v.record.bridge),
    Field("mac", "MAC address at each start; see live_mac.", lambda v: v.record.mac),
    Field(
        "mtu",
        "Maximum packet size in bytes (MTU) at each start; see live_mtu.",
        lambda v: v.record.mtu,
    ),
    Field(
        "state",
        "up if the device is up in the running guest and has a carrier, otherwise down; in "
        "tables, with a reason such as 'on no bridge'.",
        lambda v: v.state,
        people=lambda v: f"{v.state} ({v.fault})" if v.fault and v.state == "down" else v.state,
        state=True,
    ),
    Field(
        "carrier",
        "Whether its cable leads somewhere.",
        lambda v: v.has_carrier,
        in_table=False,
    ),
    Field("addresses", "Addresses, A/P.", lambda v: sorted(v.record.addresses)),
    Field(
        "shape",
        "Impairments applied to outgoing traffic, KEY=VALUE: milliseconds, percent, bit/s.",
        lambda v: dict(v.record.shape) or None,
    ),
    Field("rx_bytes", "Bytes received by the guest since its start.", lambda v: v.rx_bytes),
    Field("tx_bytes", "Bytes sent by the guest since its start.", lambda v: v.tx_bytes),
    Field(
        "rx_packets",
        "Packets received by the guest since its start. list prints this and the following fields "
        "only if -o names them.",
        lambda v: v.rx_packets,
        asked=True,
    ),
    Field("tx_packets", "Packets sent by the guest.", lambda v: v.tx_packets, asked=True),
    Field(
        "rx_dropped",
        "Packets for the guest that the host dropped because the guest was too slow.",
        lambda v: v.rx_dropped,
        asked=True,
    ),
    Field(
        "tx_dropped",
        "Packets from the guest that the host dropped when they arrived there.",
        lambda v: v.tx_dropped,
        asked=True,
    ),
    Field(
        "actual",
        "Impairments currently in force in the running guest, which is asked for this and the "
        "following fields.",
        lambda v: _shape(v),
        asked=True,
    ),
    Field(
        "live_mac",
        "MAC address that the device currently has in the running guest.",
        lambda v: _link(v, "mac"),
        asked=True,
    ),
    Field(
        "live_mtu",
        "MTU that the device currently has in the running guest.",
        lambda v: _link(v, "mtu"),
        asked=True,
    ),
]

ADDRESS_FIELDS: list[Field[str]] = [
    Field("address", "Address with its prefix length, A/P.", lambda a: a),
    Field("family", "inet or inet6.", lambda a: "inet6" if ":" in a else "inet"),
]


def _questions() -> live.Questions:
    """Those of this command to the guests."""
    from dumm_tools.net import live

    meta = click.get_current_context().meta
    if "live" not in meta:
        meta["live"] = live.Questions(entered(make=False))
    found: live.Questions = meta["live"]
    return found


def _shape(view: InterfaceView) -> dict[str, output.Scalar] | None:
    found = _questions().shape(view.record)
    return dict(found) if found else None


def _link(view: InterfaceView, key: str) -> Any:
    link = _questions().link(view.record)
    return getattr(link, key) if link is not None else None


def known_ifaces(state: Any, _directory: str) -> Iterable[str]:
    """Candidates for an interface operand."""
    return list(state.ifaces)


def known_bridges(state: Any, _directory: str) -> Iterable[str]:
    """Candidates for a bridge operand."""
    return list(state.bridges)


def _new_ifaces(state: Any, _directory: str) -> Iterable[str]:
    """The next free ethN of each guest."""
    for guest in state.guests:
        taken = {i.device for i in state.ifaces_of(guest)}
        yield next(f"{guest}-eth{n}" for n in range(len(taken) + 1) if f"eth{n}" not in taken)


IFACE = Name("interface", known_ifaces)
BRIDGE = Name("bridge", known_bridges)

several = click.argument("names", metavar="IFACE...", nargs=-1, required=True, type=IFACE)
one = click.argument("name", metavar="IFACE", type=IFACE)


def address_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--address of a `create`."""
    return click.option(
        "--address",
        "addresses",
        metavar="A/P",
        multiple=True,
        help="Address with prefix length, such as 10.0.0.1/24 or fd00::1/64. May be repeated.",
    )(function)


def need_single(names: tuple[str, ...], addresses: tuple[str, ...], mac: str | None = None) -> None:
    """Raise UsageError if several are to get the same addresses."""
    if mac is not None and len(names) > 1:
        raise click.UsageError("--mac is for a single interface only")
    if addresses and len(names) > 1:
        raise click.UsageError("--address is for a single one only, not for each of several")


@cli.command()
@click.argument(
    "names", metavar="IFACE...", nargs=-1, required=True, type=Name("interface", _new_ifaces)
)
@click.option("--bridge", metavar="BR", type=BRIDGE, help="Connect it to this bridge.")
@address_options
@click.option("--mac", metavar="M", help="MAC address (default: derived from the name).")
@click.option(
    "--mtu",
    metavar="N",
    type=int,
    help="Maximum packet size in bytes (default: 1500).",
)
@repeated.may_exist(
    "Change an existing one as far as it differs; options not given leave it alone."
)
def create(
    names: tuple[str, ...],
    bridge: str | None,
    addresses: tuple[str, ...],
    mac: str | None,
    mtu: int | None,
    may_exist: bool,
) -> int:
    """Add interfaces to guests.

    In running guests they appear immediately. Without a bridge, the device has no carrier. With
    --may-exist, the --address options of an existing one replace all its addresses.
    """
    from dumm_tools.net import converge, iface

    need_single(names, addresses, mac)

    make = converge.interface if may_exist else iface.create

    def action(name: str) -> None:
        make(entered(), name, bridge=bridge, addresses=addresses, mac=mac, mtu=mtu, warn=warn)

    return each(names, action)


delete_verb(cli, "iface", several, "Delete interfaces, from running guests as well.", warns=True)
list_verb(cli, FIELDS, "interfaces", "List the interfaces.")
show_verb(cli, FIELDS, several, "interface_view", "Show all fields of interfaces.")


@cli.command()
@several
def up(names: tuple[str, ...]) -> int:
    """Bring devices up in their guests, now and at each start."""
    from dumm_tools.net import iface

    return each(names, lambda name: iface.set_up(entered(), name, True))


@cli.command()
@several
def down(names: tuple[str, ...]) -> int:
    """Take devices down in their guests, now and at each start."""
    from dumm_tools.net import iface

    return each(names, lambda name: iface.set_up(entered(), name, False))


@cli.command("set")
@one
@click.option("--mtu", metavar="N", type=int, help="Maximum packet size in bytes.")
@click.option("--mac", metavar="M", help="MAC address.")
def set_(name: str, mtu: int | None, mac: str | None) -> None:
    """Change the settings of an interface.

    In a running guest, a new MAC address, or an MTU above 1500, takes the device down and up
    again; routes set by hand are lost. Neighbours may keep sending to the old MAC address for a
    few seconds, until they resolve it again.
    """
    from dumm_tools.net import iface

    iface.set_(entered(), name, mtu=mtu, mac=mac, warn=warn)


address_group = address_verbs(
    cli,
    "iface",
    one,
    group_help="Manage the addresses of an interface.",
    add_help="Add addresses to an interface.",
    del_help="Remove addresses from an interface.",
)


@address_group.command("list")
@one
@click.option("--live", is_flag=True, help="List those currently set in the running guest.")
@output_options(ADDRESS_FIELDS)
def address_list(name: str, live: bool, shape: output.Shape) -> None:
    """List the addresses configured for an interface."""
    from dumm_tools.net import iface

    output.emit(
        iface.addresses_of(entered(make=False), name, ask_guest=live), ADDRESS_FIELDS, shape
    )


cli.add_command(route_group)
cli.add_command(rule_group)


@cli.command("shape", cls=during.Block)
@one
@during.argument
@click.option(
    "--delay", metavar="MS", help="Delay of each packet, in milliseconds: 20, 20ms, 1.5s, 500us."
)
@click.option(
    "--jitter", metavar="MS", help="Random variation of the delay, up to 2147 ms; as for --delay."
)
@click.option("--loss", metavar="%", help="Percentage of packets to drop: 1, 0.5%.")
@click.option(
    "--rate", metavar="BITS", help="Maximum rate in bits per second: 10mbit, 500kbit, 64000."
)
@click.option("--duplicate", metavar="%", help="Percentage of packets to duplicate.")
@click.option("--corrupt", metavar="%", help="Percentage of packets to corrupt in one bit.")
@click.option("--reorder", metavar="%", help="Percentage of packets to send without the delay.")
@click.option("--clear", is_flag=True, help="Remove all previous settings first.")
def shape_(name: str, clear: bool, **values: str | None) -> int:
    """Impair the traffic that a guest sends on an interface.

    To affect both directions, shape both ends. Settings that are not given are kept; 0 removes a
    setting. With a command, the settings apply while that runs on the host.
    """
    from dumm_tools.net import shape

    wanted = {k: shape.parsed(k, text) for k, text in values.items() if text is not None}

    def change() -> int:
        shape.set_(entered(), name, wanted, clear=clear)
        return 0

    def before() -> Callable[[], None]:
        block = shape.block(labdir(), name, wanted, clear=clear)
        return lambda: shape.put_back(entered(), name, block)

    return during.block(change, before)


@cli.command("capture")
@capture_options("IFACE", known_ifaces, "plugged-in interfaces")
def capture_(first: str | None, words: tuple[str, ...], **options: Any) -> int:
    """Print the traffic on an interface with tcpdump(8), until Ctrl-C.

    FILTER is as in pcap-filter(7). After `--`, options of tcpdump may precede it.

    Several interfaces, IFACE,IFACE... or --all, need -w: their packets are written to one file, in
    the order of their times, as pcapng with the names of the interfaces. Interfaces that are
    plugged in later are not captured.
    """
    from dumm_tools.net import capture_many

    return captured(first, words, sources=capture_many.interfaces, **options)


def main() -> None:
    """Entry point."""
    run(cli, "dumm-iface")
