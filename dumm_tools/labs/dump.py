"""A lab as a lab file: the commands that make it."""

from __future__ import annotations

from collections.abc import Iterator

from dumm_tools import routing
from dumm_tools.labs import commands
from dumm_tools.labs.commands import Command
from dumm_tools.labs.description import Description
from dumm_tools.model import Iface
from dumm_tools.routing import Route, Rule


def text(lab: Description) -> bytes:
    """The whole file."""
    return b"".join(command.text for command in of(lab))


def of(lab: Description) -> Iterator[Command]:
    """The commands, each kind sorted by name. Nothing depends on when, or in what order, the lab
    was made, except for what the order means something for: addresses, overlays, rules."""
    state, paths = lab.state, commands.relative_to(lab.labdir)
    bridges = [state.bridges[name] for name in sorted(state.bridges)]
    guests = [state.guests[name] for name in sorted(state.guests)]
    ifaces = [state.ifaces[name] for name in sorted(state.ifaces)]
    yield Command(commands.init(lab.kernel, lab.master, paths))
    for bridge in bridges:
        yield Command(commands.bridge(bridge))
    for bridge in bridges:
        if bridge.uplink is not None:
            yield Command(commands.uplink(bridge))
    for bridge in bridges:
        if not bridge.up:
            yield Command(("bridge", "down", bridge.name))
    for guest in guests:
        yield Command(commands.guest(guest, paths))
    for guest in guests:
        if guest.name in lab.scripts:
            yield commands.startup(guest.name, lab.scripts[guest.name])
    for iface in ifaces:
        yield Command(commands.iface(iface))
    for iface in ifaces:
        if not iface.up:
            yield Command(("iface", "down", iface.name))
    for iface in ifaces:
        if iface.shape:
            yield Command(commands.shaped(iface))
    for owner, route in routes(ifaces):
        yield Command(commands.route(owner, route))
    for guest in guests:
        for rule in rules(guest.rules):
            yield Command(commands.rule("add", guest.name, rule))
    for guest in guests:
        for layer in reversed(guest.overlays):
            inside = layer.startswith(f"{lab.labdir}/")  # a new working set need not have it
            yield Command(commands.overlay(guest.name, layer, paths, create=inside))
    if state.template is not None:
        yield Command(commands.template(state.template, fresh=state.fresh is not None))


def routes(ifaces: list[Iface]) -> list[tuple[str, Route]]:
    """The routes of interfaces, in an order in which they can be added: a gateway may be on the
    segment because of another route."""
    found = [(i.name, routing.route(row)) for i in ifaces for row in i.routes]
    return sorted(found, key=lambda each: (bool(each[1].gateways), each[0], _order(each[1])))


def _order(route: Route) -> tuple[object, ...]:
    return route.table != routing.MAIN, route.table, route.is_v6, route.dest, route.metric or 0


def rules(rows: list[dict[str, object]]) -> list[Rule]:
    """Rules by family and priority; the order of those with equal ones is kept."""
    return sorted(map(routing.rule, rows), key=lambda rule: (rule.family, rule.priority))
