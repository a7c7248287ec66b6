"""Rules of guests, by which their kernels choose a table of routes. They depend on no interface."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from dumm_tools import address, names, routing, statefile
from dumm_tools.errors import Conflict, NotFound, Usage
from dumm_tools.linux import rule
from dumm_tools.model import Guest, State
from dumm_tools.net import cable, guest_links, rule_requests
from dumm_tools.net.host_links import explained
from dumm_tools.routing import LOOKUP, Rule
from dumm_tools.running import contact, guest_views, liveness

#: The kernel's own rule for the table main: a rule without a priority comes before it.
_MAIN_PRIORITY = 32766


def given(
    *,
    source: str | None = None,
    dest: str | None = None,
    iif: str | None = None,
    oif: str | None = None,
    fwmark: str | None = None,
    table: str | None = None,
    kind: str | None = None,
    priority: int | None = None,
    family: str | None = None,
) -> dict[str, Any]:
    """The parts of a rule that a user gives; Usage."""
    found: dict[str, Any] = {
        "source": _network(source),
        "dest": _network(dest),
        "iif": routing.device(iif) if iif is not None else None,
        "oif": routing.device(oif) if oif is not None else None,
        "table": routing.table(table) if table is not None else None,
        "kind": kind or (LOOKUP if table is not None else None),
        "priority": priority,
        "family": family,
    }
    if fwmark is not None:
        mark, slash, mask = fwmark.partition("/")
        found["fwmark"] = routing.number(mark, "mark")
        found["fwmask"] = routing.number(mask, "mask") if slash else None
    if table is not None and kind is not None:
        raise Usage(f"a rule of the kind {kind} has no table")
    networks = [text for text in (found["source"], found["dest"]) if text]
    families = {"inet6" if address.is_v6(text) else "inet" for text in networks}
    if len(families | ({family} if family else set())) > 1:
        raise Usage("the addresses of a rule are of different families")
    if families:
        found["family"] = families.pop()
    return {key: value for key, value in found.items() if value is not None}


def _network(text: str | None) -> str | None:
    if text in (None, "all"):
        return None
    found = address.network(str(text))
    return None if found.endswith("/0") else found


def add(labdir: str, guest: str, wanted: dict[str, Any], *, may_exist: bool = False) -> None:
    """Add a rule to a guest. Usage, NotFound, Conflict."""
    names.guest(guest)
    with cable.turn_of(labdir, guest):
        with statefile.transaction(labdir) as change:
            record = guest_views.get(change.state, guest)
            running = cable.reachable(labdir, change.state, guest)
            new, there = planned(record, wanted)
            if there and not may_exist:
                raise Conflict(f"'{guest}' already has the rule '{text(new)}'")
            if not there:
                record.rules = [*record.rules, routing.rule_record(new)]
                change.save()
                if running:
                    cable.refresh_boot(labdir, change.state, guest)
        if running:
            with _taking_back(labdir, guest, None if there else new):
                _tell(labdir, guest, new)


def planned(record: Guest, wanted: dict[str, Any]) -> tuple[Rule, bool]:
    """The rule that would be added to a guest, and whether it has it already. Usage."""
    if "kind" not in wanted:
        raise Usage("a rule needs a table", hint="--table T, or --unreachable")
    wanted = {"family": "inet", **wanted}
    alike = _matching(record, wanted, exact=True)
    if alike:
        return alike[0], True
    return Rule(**{"priority": _next(record, wanted), **wanted}), False


def _next(record: Guest, wanted: dict[str, Any]) -> int:
    """The priority of a rule that is given none: before all others, as by ip-rule(8)."""
    taken = [r.priority for r in rule_requests.of(record) if r.family == wanted["family"]]
    number = min([_MAIN_PRIORITY, *taken]) - 1
    if number < 1:
        raise Usage("there is no priority left before those of other rules", hint="--priority N")
    return number


def _matching(record: Guest, wanted: dict[str, Any], *, exact: bool = False) -> list[Rule]:
    """The rules that have the given parts; with `exact`, and no others but a priority."""
    usual = Rule._field_defaults
    full = {**usual, **wanted}

    def matches(found: Rule) -> bool:
        parts = found._asdict()
        return all(parts[key] == value for key, value in (full if exact else wanted).items())

    return [each for each in rule_requests.of(record) if matches(each)]


def text(found: Rule) -> str:
    """A rule in a message, as ip-rule(8) writes it."""
    words = [f"{found.priority}:", "from", found.source or "all"]
    for name, value in (("to", found.dest), ("iif", found.iif), ("oif", found.oif)):
        words += [name, value] if value else []
    if found.fwmark is not None:
        mask = f"/{found.fwmask:#x}" if found.fwmask is not None else ""
        words += ["fwmark", f"{found.fwmark:#x}{mask}"]
    words.append(found.kind)
    words += [routing.table_name(found.table)] if found.table is not None else []
    return " ".join(words)


@contextlib.contextmanager
def _taking_back(labdir: str, guest: str, new: Rule | None) -> Iterator[None]:
    """Tell the guest inside this block; if that fails, forget the new rule."""
    try:
        yield
    except BaseException:
        if new is not None:
            with contextlib.suppress(*guest_links.UNDO_FAILURES):
                _forget(labdir, guest, new)
        raise


def _forget(labdir: str, guest: str, old: Rule) -> None:
    with statefile.transaction(labdir) as change:
        record = guest_views.get(change.state, guest)
        record.rules = [r for r in record.rules if routing.rule(r) != old]
        cable.refresh_boots(labdir, change.state, {guest})


def _tell(labdir: str, guest: str, wanted: Rule) -> None:
    with contact.control(labdir, guest) as control, explained(f"add a rule to '{guest}'"):
        if rule_requests.needs_ipv6(wanted):
            with contextlib.suppress(OSError):
                control.load_module("ipv6")
        guest_links.tolerant(control, rule_requests.new(wanted), errno.EEXIST)


def delete(labdir: str, guest: str, wanted: dict[str, Any], *, if_exists: bool = False) -> None:
    """Remove a rule from a guest. Usage, NotFound, Conflict."""
    if not wanted:
        raise Usage("which rule?", hint="--priority N")
    names.guest(guest)
    with cable.turn_of(labdir, guest):
        state = statefile.load(labdir)
        if if_exists and guest not in state.guests:
            return
        record = guest_views.get(state, guest)
        found = _matching(record, wanted)
        if len(found) > 1:
            exact = _matching(record, {"family": "inet", **wanted}, exact=True)
            found = exact if len(exact) == 1 else found
        if len(found) > 1:
            raise Usage(f"'{guest}' has several such rules", hint="--priority N or --family F")
        if not found:
            if if_exists:
                return
            raise NotFound(f"'{guest}' has no such rule")
        _remove(labdir, state, guest, rule_requests.of(record), found[0])


def clear(labdir: str, guest: str) -> None:
    """Remove all rules from a guest. NotFound, Conflict."""
    with cable.turn_of(labdir, guest):
        state = statefile.load(labdir)
        left = rule_requests.of(guest_views.get(state, guest))
        while left:
            _remove(labdir, state, guest, left, left[0])
            left = left[1:]


def _remove(labdir: str, state: State, guest: str, rules: list[Rule], old: Rule) -> None:
    """Remove one of the rules of a guest, in whose turn we are."""
    if cable.reachable(labdir, state, guest):
        with (
            contact.control(labdir, guest) as control,
            explained(f"remove a rule from '{guest}'"),
        ):
            for request in rule_requests.replacing(rules, old):
                guest_links.tolerant(
                    control, request, errno.ENOENT, errno.EEXIST, errno.EAFNOSUPPORT
                )
    _forget(labdir, guest, old)


def list_(labdir: str, guest: str, *, ask_guest: bool = False) -> list[Rule]:
    """The rules recorded for a guest, or those that its kernel has. NotFound, Conflict."""
    state = statefile.load(labdir)
    record = guest_views.get(state, names.guest(guest))
    if ask_guest:
        liveness.need_running(labdir, state, record)
        with contact.control(labdir, guest) as control, explained(f"list the rules of '{guest}'"):
            found = [Rule(*each) for each in rule.rules(control)]
    else:
        found = rule_requests.of(record)
    return sorted(found, key=lambda r: (r.family, r.priority, text(r)))
