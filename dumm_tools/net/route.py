"""Routes of guests: recorded with their outgoing interface, and active while it is up."""

from __future__ import annotations

from typing import NamedTuple

from dumm_tools import address, names, statefile
from dumm_tools.errors import Conflict, NotFound, Usage
from dumm_tools.model import Iface, State
from dumm_tools.net import cable, guest_links, link_requests, link_views
from dumm_tools.running import guest_views, liveness

#: The user's name for a route to everywhere.
DEFAULT = "default"
_EVERYWHERE = {False: "0.0.0.0/0", True: "::/0"}


class RouteView(NamedTuple):
    """A route as shown by `route list`; `iface` is None for a device that we did not create."""

    guest: str
    iface: str | None
    device: str
    dest: str
    via: str | None

    @property
    def family(self) -> str:
        """inet or inet6."""
        return "inet6" if address.is_v6(self.dest) else "inet"

    @property
    def shown(self) -> str:
        """The destination as the user writes it."""
        return DEFAULT if self.dest in _EVERYWHERE.values() else self.dest


def _wanted(dest: str, via: str | None) -> dict[str, str]:
    """The record of a route; Usage."""
    gateway = address.host(via) if via is not None else None
    if dest == DEFAULT:
        if gateway is None:
            raise Usage("a default route needs a gateway", hint="--via GW")
        network_ = _EVERYWHERE[address.is_v6(gateway)]
    else:
        network_ = address.network(dest)
    if gateway is None:
        return {"dest": network_}
    if address.is_v6(network_) != address.is_v6(gateway):
        raise Usage(f"'{network_}' and its gateway '{gateway}' are of different address families")
    return {"dest": network_, "via": gateway}


def _text(route: dict[str, str]) -> str:
    shown = DEFAULT if route["dest"] in _EVERYWHERE.values() else route["dest"]
    return f"{shown} via {route['via']}" if "via" in route else shown


def add(
    labdir: str, name: str, dest: str, *, via: str | None = None, may_exist: bool = False
) -> None:
    """Add a route through an interface to its guest. Usage, NotFound, Conflict."""
    wanted = _wanted(dest, via)
    guest, _ = names.interface(name)
    with cable.turn_of(labdir, guest):
        with statefile.transaction(labdir) as change:
            state = change.state
            record = link_views.interface(state, name)
            _check_gateway(record, wanted)
            running = cable.reachable(labdir, state, guest)
            before = record.but()
            there = wanted in record.routes
            if there and not may_exist:
                raise Conflict(f"'{name}' already has the route '{_text(wanted)}'")
            if not there:
                _check_free(state, record, wanted)
                record.routes = [*record.routes, wanted]
                change.save()
                if running:
                    cable.refresh_boot(labdir, state, guest)
        if running:
            # Finish what a killed command left undone; and other routes may depend on this one.
            waiting = [
                r
                for r in record.routes
                if "via" not in wanted
                and "via" in r
                and address.is_near(r["via"], [wanted["dest"]])
            ]
            with cable.taking_back(labdir, before, record):
                guest_links.add_routes(labdir, record, [wanted, *waiting])


def _check_gateway(record: Iface, wanted: dict[str, str]) -> None:
    via = wanted.get("via")
    if via is None:
        return
    if any(a.partition("/")[0] == via for a in record.addresses):
        raise Usage(f"the gateway '{via}' is an address of '{record.name}' itself")
    if any(address.is_reserved(via, a) for a in record.addresses):
        raise Usage(f"the gateway '{via}' is not a host address on '{record.name}'")
    if not address.is_near(via, link_requests.near(record)):
        raise Usage(
            f"the gateway '{via}' is not in any network that '{record.name}' has an address in",
            hint=f"dumm-iface address add {record.name} A/P",
        )


def _check_free(state: State, record: Iface, wanted: dict[str, str]) -> None:
    """Raise Conflict if the guest already has a route to this destination: its kernel would replace
    it."""
    for other in state.ifaces_of(record.guest):
        for route in other.routes:
            if route["dest"] == wanted["dest"]:
                raise Conflict(
                    f"'{record.guest}' already has a route to this destination: '{_text(route)}'"
                    f" through '{other.name}'"
                )
        # The kernel would replace its own route with this one (fib_table_insert, NLM_F_REPLACE).
        if any(address.network(a, strict=False) == wanted["dest"] for a in other.addresses):
            raise Conflict(
                f"'{wanted['dest']}' is already on '{other.name}' because of its address"
            )


def delete(
    labdir: str, name: str, dest: str, *, via: str | None = None, if_exists: bool = False
) -> None:
    """Remove a route from a guest. Usage, NotFound, Conflict."""
    gateway = address.host(via) if via is not None else None
    network_ = None if dest == DEFAULT else address.network(dest)
    guest, _ = names.interface(name)

    def planned(state: State) -> tuple[Iface, list[dict[str, str]]]:
        """The record, and which of its routes are meant."""
        record = link_views.interface(state, name)
        meant = [
            r
            for r in record.routes
            if gateway in (None, r.get("via"))
            and (r["dest"] == network_ if network_ else r["dest"] in _EVERYWHERE.values())
        ]
        if len(meant) > 1:
            raise Usage(
                f"'{name}' has default routes of both address families",
                hint=" or ".join(_EVERYWHERE.values()),
            )
        if not meant and not if_exists:
            text = f"{network_ or dest} via {gateway}" if gateway else network_ or dest
            raise NotFound(f"'{name}' has no route '{text}'")
        return record, meant

    with cable.turn_of(labdir, guest):
        if liveness.alive(labdir, guest):
            state = statefile.load(labdir)
            record, meant = planned(state)
            if cable.reachable(labdir, state, guest) and meant:
                after = record.but(routes=[r for r in record.routes if r not in meant])
                lost = [r for r in after.routes if not link_requests.is_usable(after, r)]
                guest_links.del_routes(labdir, record, lost + meant)
        with statefile.transaction(labdir) as change:
            record, meant = planned(change.state)
            record.routes = [r for r in record.routes if r not in meant]
            if liveness.is_running(labdir, change.state, guest):
                cable.refresh_boot(labdir, change.state, guest)


def list_(labdir: str, guest: str, *, ask_guest: bool = False) -> list[RouteView]:
    """The routes recorded for a guest, or those that its kernel has. NotFound, Conflict."""
    state = statefile.load(labdir)
    guest_views.get(state, names.guest(guest))
    if ask_guest:
        liveness.need_running(labdir, state, state.guests[guest])
        by_device = {i.device: i.name for i in state.ifaces_of(guest)}
        views = [
            RouteView(guest, by_device.get(device), device, route.dest, route.via)
            for device, route in guest_links.live_routes(labdir, guest)
        ]
    else:
        views = [
            RouteView(guest, record.name, record.device, route["dest"], route.get("via"))
            for record in state.ifaces_of(guest)
            for route in record.routes
        ]
    return sorted(views, key=lambda v: (v.family, v.shown, v.device))
