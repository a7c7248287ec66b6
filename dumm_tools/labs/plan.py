"""The commands that lead from one description of a lab to another, in the order that disturbs
running guests least. They are the verbs that a user would type, and follow from the records alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from dumm_tools.labs import commands, dump, plan_ifaces
from dumm_tools.labs.commands import Command, Words, absolute
from dumm_tools.labs.description import SETTINGS, Description
from dumm_tools.labs.edits import edits, same
from dumm_tools.labs.wanted import Start
from dumm_tools.model import Bridge, Guest, GuestState, Iface, State
from dumm_tools.net import route_requests

#: Tells the present state of a guest.
Look = Callable[[str], GuestState]


def plan(
    now: Description, wanted: Description, look: Look, starts: Iterable[Start] = ()
) -> Iterator[Command]:
    """The commands, none if nothing differs. Guests are stopped before they are deleted, and those
    in `starts` that do not run are started."""
    yield from _changes(now, wanted, look)
    for start in starts:
        names = [
            name
            for name in start.names
            if name not in now.state.guests or look(name) not in ("running", "paused")
        ]
        if names:
            wait = () if start.wait == "ready" else ("--wait", start.wait)
            yield Command(("guest", "start", *names, *wait))


def _changes(now: Description, wanted: Description, look: Look) -> Iterator[Command]:
    before, after = now.state, wanted.state
    yield from _init(now, wanted)
    gone = sorted(before.guests.keys() - after.guests.keys())
    if running := [name for name in gone if look(name) not in ("stopped", "crashed")]:
        yield Command(("guest", "stop", *running))
    for name in gone:
        yield Command(("guest", "delete", name))
    lost = {
        name
        for name in before.ifaces.keys() - after.ifaces.keys()
        if before.ifaces[name].guest in after.guests
    }
    for name in sorted(lost):
        yield Command(("iface", "delete", name), guest=before.ifaces[name].guest)
    left = _left(before, lost)
    superfluous = sorted(before.bridges.keys() - after.bridges.keys())
    # Bridges go last: their members move to others without a moment between the two.
    early = superfluous and {iface.tap for iface in after.ifaces.values()}.intersection(superfluous)
    for name in sorted(early):
        yield Command(("bridge", "delete", name))
        left |= {i.name: i.but(bridge=None) for i in left.values() if i.bridge == name}
    moving = plan_ifaces.moving(left, before, after)
    for name in sorted(left):
        if name in after.ifaces and after.ifaces[name].addresses != left[name].addresses:
            yield from plan_ifaces.vacated(left[name], after.ifaces[name], moving)
    for name in sorted(after.bridges):
        yield from _bridge(before.bridges.get(name), after.bridges[name], moving)
    of_guest = after.ifaces_by_guest()
    for name in sorted(after.guests):
        new = name if name not in before.guests else None
        for command in (
            *_guest(before.guests.get(name), after.guests[name]),
            *_script(name, now, wanted),
            *plan_ifaces.ifaces(before, left, of_guest.get(name, []), moving),
            *_rules(before.guests.get(name), after.guests[name]),
        ):
            yield command._replace(new=new) if new is not None else command
    for name in sorted(after.guests):
        yield from _overlays(before.guests.get(name), after.guests[name], wanted.creatable)
    fresh = after.fresh is not None
    if (after.template, fresh) != (before.template, before.fresh is not None):
        yield _template(after.template, wanted.creates_template, fresh)
    for name in superfluous:
        if name not in early:
            yield Command(("bridge", "delete", name))


def _template(name: str | None, create: bool, fresh: bool) -> Command:
    if name is None:
        return Command(("fs", "template", "unload"))
    return Command(commands.template(name, create=create, fresh=fresh))


def _init(now: Description, wanted: Description) -> Iterator[Command]:
    kernel = wanted.kernel if wanted.kernel != now.kernel else None
    master = wanted.master if wanted.master != now.master else None
    words = commands.init(kernel, master, absolute)
    if not now.exists:
        isolated = {None: (), True: ("--isolated",), False: ("--host-net",)}[wanted.isolated]
        yield Command((*words, *isolated))
    elif kernel is not None or master is not None:
        yield Command((*words, "--may-exist"))


def _left(before: State, lost: set[str]) -> dict[str, Iface]:
    """The interfaces, and their routes, once superfluous ones are deleted."""
    left = {name: iface for name, iface in before.ifaces.items() if name not in lost}
    of_guest = before.ifaces_by_guest() if lost else {}
    for guest in {before.ifaces[name].guest for name in lost}:
        ifaces = of_guest[guest]
        for name in sorted(lost):
            ifaces = route_requests.without(ifaces, name)
        left |= {iface.name: iface for iface in ifaces}
    return left


def _bridge(now: Bridge | None, wanted: Bridge, moving: set[str]) -> Iterator[Command]:
    name = wanted.name
    if now is not None and same(now, wanted):
        return
    if now is None:
        yield Command(commands.bridge(wanted))
        now = wanted.but(uplink=None, host_access=False, up=True)
    if now.kind != wanted.kind:
        yield Command(("bridge", "set", name, f"--{wanted.kind}"))
    uplink = (now.uplink, now.host_access)
    if now.uplink is not None and now.uplink != wanted.uplink:
        yield Command(("bridge", "uplink", name, "--none"))
        uplink = (None, False)
    found = plan_ifaces.addresses(now.addresses, wanted.addresses, moving)
    for verb, texts in (("del", found.first), ("add", found.add), ("del", found.last)):
        if texts:
            yield Command(("bridge", "address", verb, name, *texts))
    if wanted.uplink is not None and uplink != (wanted.uplink, wanted.host_access):
        yield Command(commands.uplink(wanted))
    if now.up != wanted.up:
        yield Command(("bridge", "up" if wanted.up else "down", name))


def _guest(now: Guest | None, wanted: Guest) -> Iterator[Command]:
    if now is None:
        yield Command(commands.guest(wanted, absolute))
        return
    if same(now, wanted):
        return
    before, after = commands.settings(now, absolute), commands.settings(wanted, absolute)
    words: Words = ()
    for setting in SETTINGS:
        if before.get(setting) != after.get(setting):
            words += after.get(setting, setting.reset)
    if words:
        yield Command(("guest", "set", wanted.name, *words))


def _script(name: str, now: Description, wanted: Description) -> Iterator[Command]:
    # Without its guest, a script is left from one whose deletion was interrupted.
    known = now.scripts.get(name) if name in now.state.guests else None
    script = wanted.scripts.get(name)
    if script is not None and script != known:
        yield commands.startup(name, script)
    elif script is None and known is not None:
        yield Command(("guest", "startup", name, "--clear"))


def _rules(now: Guest | None, wanted: Guest) -> Iterator[Command]:
    if now is wanted or (now.rules if now is not None else []) == wanted.rules:
        return
    before, after = (dump.rules(g.rules) if g is not None else [] for g in (now, wanted))
    for key in sorted({(rule.family, rule.priority) for rule in (*before, *after)}):
        # The order of equal priorities is the order in which they were added.
        old, new = (
            [rule for rule in each if (rule.family, rule.priority) == key]
            for each in (before, after)
        )
        found = edits(old, new)
        for verb, some in (("del", found.first), ("add", found.add), ("del", found.last)):
            for rule in some:
                yield Command(commands.rule(verb, wanted.name, rule), guest=wanted.name)


def _overlays(now: Guest | None, wanted: Guest, creatable: frozenset[str]) -> Iterator[Command]:
    before = now.overlays if now is not None else []
    if before == wanted.overlays:
        return
    found = edits(before[::-1], wanted.overlays[::-1])
    # Nothing has to go `first`: a layer that is added again moves to the top.
    for layer in found.add:  # one that is already there moves to the top
        words = commands.overlay(wanted.name, layer, absolute, create=layer in creatable)
        yield Command(words, guest=wanted.name)
    for layer in found.last:
        yield Command(("fs", "overlay", "del", wanted.name, layer))
