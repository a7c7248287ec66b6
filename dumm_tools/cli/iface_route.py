"""`dumm-iface route` and `rule`: routes of guests, and rules that choose a table of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from dumm_tools import output
from dumm_tools.cli import repeated
from dumm_tools.cli.commands import Group
from dumm_tools.cli.lab import entered
from dumm_tools.cli.operands import guests
from dumm_tools.cli.shapes import output_options
from dumm_tools.cli.words import Name
from dumm_tools.output import Field

if TYPE_CHECKING:
    from dumm_tools.net.route import RouteView
    from dumm_tools.routing import Rule

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

ROUTE_FIELDS: list[Field[RouteView]] = [
    Field("dest", "Destination, A/P or `default`.", lambda v: v.shown),
    Field("via", "Gateway.", lambda v: v.via),
    Field("iface", "Outgoing interface.", lambda v: v.iface),
    Field("guest", "Guest that it belongs to.", lambda v: v.guest, in_table=False),
    Field("device", "Device in the guest.", lambda v: v.device, in_table=False),
    Field("family", "inet or inet6.", lambda v: v.family),
    Field("metric", "Metric; among equal destinations, the lowest is used.", lambda v: v.metric),
    Field("table", "Table: main, default or a number.", lambda v: _table(v.table)),
    Field("kind", "unicast, blackhole, unreachable, prohibit or throw.", lambda v: v.kind),
    Field("src", "Preferred source address.", lambda v: v.src),
    Field(
        "weight",
        "Share of the traffic that this gateway gets, relative to the others of the route.",
        lambda v: v.weight,
        in_table=False,
    ),
    Field("onlink", "Whether the gateway counts as on-link.", lambda v: v.onlink, in_table=False),
]

RULE_FIELDS: list[Field[Rule]] = [
    Field("priority", "Priority; the lowest comes first.", lambda r: r.priority),
    Field("family", "inet or inet6.", lambda r: r.family),
    Field("from", "Network that packets come from.", lambda r: r.source),
    Field("to", "Network that packets go to.", lambda r: r.dest),
    Field("iif", "Device that packets come in through.", lambda r: r.iif),
    Field("oif", "Device that a program has chosen for its packets.", lambda r: r.oif),
    Field("fwmark", "Mark of packets, NUMBER or NUMBER/MASK.", lambda r: _mark(r)),
    Field(
        "table",
        "Table that routes are looked up in.",
        lambda r: _table(r.table) if r.table is not None else None,
    ),
    Field("kind", "lookup, blackhole, unreachable or prohibit.", lambda r: r.kind),
]


def _table(number: int) -> str:
    from dumm_tools import routing

    return routing.table_name(number)


def _mark(rule: Rule) -> str | None:
    if rule.fwmark is None:
        return None
    return f"{rule.fwmark:#x}" + (f"/{rule.fwmask:#x}" if rule.fwmask is not None else "")


def _ifaces(state: Any, _directory: str) -> Iterable[str]:
    return list(state.ifaces)


def _devices(state: Any, _directory: str) -> Iterable[str]:
    return {i.device for i in state.ifaces.values()}


def _tables(state: Any, _directory: str) -> Iterable[str]:
    """Those that routes and rules are recorded for."""
    routes = (r for i in state.ifaces.values() for r in i.routes)
    rules = (r for g in state.guests.values() for r in g.rules)
    return {"main"} | {_table(r["table"]) for r in (*routes, *rules) if "table" in r}


def _options(*options: Decorator) -> Decorator:
    """Several options as one decorator, in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _kind(name: str, help_text: str) -> Decorator:
    return click.option(f"--{name}", "kind", flag_value=name, help=help_text)


_iface = click.argument("name", metavar="IFACE", type=Name("interface", _ifaces))
_guest = click.argument("guest", metavar="GUEST", type=guests())
_destination = click.argument("dest", metavar="DEST")
_table_option = click.option(
    "--table", metavar="T", type=Name("table", _tables), help="Table: a number, main or default."
)
_metric = click.option(
    "--metric", metavar="N", type=click.IntRange(0, 4294967295), help="Metric; the lowest is used."
)
_kinds = _options(
    _kind("blackhole", "Drop packets silently."),
    _kind("unreachable", "Drop packets; the sender is told that the host is unreachable."),
    _kind("prohibit", "Drop packets; the sender is told that this is prohibited."),
)
_throw = _kind("throw", "End the lookup in this table; the rules continue.")

route_group = Group(name="route", help="Manage the routes of guests.")
rule_group = Group(name="rule", help="Manage the rules by which guests choose a table of routes.")


@route_group.command("add")
@_iface
@_destination
@click.option(
    "--via",
    metavar="GW[,dev=DEVICE][,weight=N]",
    multiple=True,
    help="Gateway; without it, DEST is on the segment itself. May be repeated: the traffic is"
    " shared.",
)
@_metric
@_table_option
@click.option("--src", metavar="A", help="Preferred source address; the guest must have it.")
@click.option(
    "--onlink", is_flag=True, help="The gateway is on the segment, whatever the addresses say."
)
@_kinds
@_throw
@repeated.may_exist("Replace another route with this destination, metric and table.")
def route_add(name: str, dest: str, kind: str | None, **options: Any) -> None:
    """Add a route through an interface to its guest.

    DEST is a network (A/P), an address, or `default`. A gateway must be in a network that the
    interface has an address in, or that a route without a gateway leads to. The route is active
    while the interface is up. With several gateways, each may be behind another interface of the
    guest (dev), and get a larger share (weight, 1 to 256).
    """
    from dumm_tools.net import route

    route.add(entered(), name, dest, kind=kind or "unicast", **options)


@route_group.command("del")
@_iface
@_destination
@click.option("--via", metavar="GW", multiple=True, help="Only a route via this gateway.")
@_metric
@_table_option
@_kinds
@_throw
@repeated.if_exists()
def route_del(name: str, dest: str, **options: Any) -> None:
    """Remove a route from a guest.

    The options must distinguish it from others to the same destination.
    """
    from dumm_tools.net import route

    route.delete(entered(), name, dest, **options)


_live = click.option(
    "--live", is_flag=True, help="List those currently in its kernel, including the kernel's own."
)


@route_group.command("list")
@_guest
@_live
@output_options(ROUTE_FIELDS)
def route_list(guest: str, live: bool, shape: output.Shape) -> None:
    """List the routes configured for a guest.

    A route with several gateways is listed once for each.
    """
    from dumm_tools.net import route

    output.emit(route.list_(entered(make=False), guest, ask_guest=live), ROUTE_FIELDS, shape)


_rule_options = _options(
    click.option("--from", "source", metavar="A/P", help="Packets from this network."),
    click.option("--to", "dest", metavar="A/P", help="Packets to this network."),
    click.option(
        "--iif",
        metavar="DEVICE",
        type=Name("device", _devices),
        help="Packets that come in through this device.",
    ),
    click.option(
        "--oif",
        metavar="DEVICE",
        type=Name("device", _devices),
        help="Packets of programs that have chosen this device.",
    ),
    click.option("--fwmark", metavar="N[/MASK]", help="Packets with this mark."),
    click.option(
        "--family",
        type=click.Choice(["inet", "inet6"]),
        help="Address family (default: that of the addresses, else inet).",
    ),
    click.option(
        "--priority",
        metavar="N",
        type=click.IntRange(1, 4294967295),
        help="Priority; the lowest comes first.",
    ),
    _table_option,
    _kinds,
)


@rule_group.command("add")
@_guest
@_rule_options
@repeated.may_exist()
def rule_add(guest: str, **options: Any) -> None:
    """Add a rule to a guest: packets that match everything given are routed by a table, or dropped.

    Without a priority, it comes before the rules that were added earlier.
    """
    from dumm_tools.net import rule

    again = options.pop("may_exist")
    rule.add(entered(), guest, rule.given(**options), may_exist=again)


@rule_group.command("del")
@_guest
@_rule_options
@repeated.if_exists()
def rule_del(guest: str, **options: Any) -> None:
    """Remove the rule that has everything given from a guest."""
    from dumm_tools.net import rule

    lenient = options.pop("if_exists")
    rule.delete(entered(), guest, rule.given(**options), if_exists=lenient)


@rule_group.command("list")
@_guest
@_live
@output_options(RULE_FIELDS)
def rule_list(guest: str, live: bool, shape: output.Shape) -> None:
    """List the rules configured for a guest."""
    from dumm_tools.net import rule

    output.emit(rule.list_(entered(make=False), guest, ask_guest=live), RULE_FIELDS, shape)
