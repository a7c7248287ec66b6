"""Routes as users write them: what they mean, and which are refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dumm_tools import address, routing
from dumm_tools.errors import Conflict, Usage
from dumm_tools.model import Iface, State
from dumm_tools.net import route_requests
from dumm_tools.net.route_requests import Owned
from dumm_tools.routing import Hop, Key, Route

#: The user's name for a route to everywhere.
DEFAULT = "default"
EVERYWHERE = {False: "0.0.0.0/0", True: "::/0"}
#: Destinations that no route can lead to, and the reason.
_NOWHERE = {
    "0.0.0.0/32": "is not a destination",
    "::/128": "is not a destination",
    "127.0.0.0/8": "is a loopback address, which never leaves a guest",
    "::1/128": "is the loopback address, which never leaves a guest",
    "255.255.255.255/32": "is the broadcast address, which is never routed",
}


def wanted(
    dest: str,
    vias: Sequence[str] = (),
    *,
    kind: str = routing.UNICAST,
    metric: int | None = None,
    table: str | None = None,
    src: str | None = None,
    onlink: bool = False,
) -> Route:
    """The route that a user means; Usage."""
    hops = tuple(map(hop, vias))
    if len({(h.via, h.device) for h in hops}) < len(hops):
        raise Usage("a gateway is given twice", hint="its weight is ',weight=N'")
    if len(hops) == 1 and hops[0].weight > 1:
        raise Usage("a weight is a share: it needs several gateways")
    if kind != routing.UNICAST and (hops or onlink or src):
        raise Usage(f"a route of the kind {kind} has no gateway and no source address")
    if onlink and not hops:
        raise Usage("--onlink is for a gateway", hint="--via GW")
    network = _network(dest, hops, kind)
    found = Route(
        network,
        hops or ((Hop(None),) if kind == routing.UNICAST else ()),
        kind,
        metric or None,
        routing.table(table) if table is not None else routing.MAIN,
        _source(src, network) if src is not None else None,
        onlink,
    )
    _check_dest(found)
    return found


def hop(text: str) -> Hop:
    """A gateway as users write it, GW[,dev=DEVICE][,weight=N]; Usage."""
    gateway, *options = text.split(",")
    values: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in ("dev", "weight") or not equals or key in values:
            raise Usage(f"bad gateway {text!r}", hint="GW[,dev=DEVICE][,weight=N]")
        values[key] = value
    return Hop(
        address.host(gateway),
        routing.device(values["dev"]) if "dev" in values else None,
        routing.number(values.get("weight", "1"), "weight", 1, routing.WEIGHT_MAX),
    )


def _network(dest: str, hops: Sequence[Hop], kind: str) -> str:
    v6 = [address.is_v6(h.via) for h in hops if h.via is not None]
    if dest != DEFAULT:
        network = address.network(dest)
        for each in hops:
            if address.is_v6(network) and each.via and not address.is_v6(each.via):
                raise Usage(
                    f"'{network}' and its gateway '{each.via}' are of different address families"
                )
        return network
    if kind != routing.UNICAST:
        raise Usage(
            "'default' could be either address family", hint=" or ".join(EVERYWHERE.values())
        )
    if not hops:
        raise Usage("a default route needs a gateway", hint="--via GW")
    return EVERYWHERE[all(v6)]


def _source(text: str, network: str) -> str:
    try:
        found = address.host(text)
    except Usage:
        raise Usage(f"bad source address {text!r}", hint="an address of the guest") from None
    if address.is_v6(found) != address.is_v6(network):
        raise Usage(f"'{network}' and the source address '{found}' are of different families")
    return found


def _check_dest(route: Route) -> None:
    dest = route.dest
    host = dest.removesuffix("/128" if route.is_v6 else "/32")
    for network, reason in _NOWHERE.items():
        if address.is_inside(dest, network):
            raise Usage(f"'{host}' {reason}")
    if route.gateways:
        for network, what in (
            ("224.0.0.0/4", "multicast"),
            ("ff00::/8", "multicast"),
            ("fe80::/10", "link-local"),
        ):
            if address.is_inside(dest, network):
                raise Usage(
                    f"'{host}' is {what}, which goes out on a segment, not to a gateway",
                    hint="without --via",
                )
    multicast = address.is_inside(dest, "ff00::/8")
    if multicast and route.table != routing.LOCAL:
        raise Usage(
            f"'{host}' is multicast, which IPv6 looks up in the table 'local' first",
            hint="--table local",
        )
    if route.table == routing.LOCAL and not multicast:
        raise Usage("the table 'local' is the kernel's own")


def text(route: Route) -> str:
    """A route in a message."""
    words = [DEFAULT if route.dest in EVERYWHERE.values() else route.dest]
    if route.kind != routing.UNICAST:
        words.insert(0, route.kind)
    for via in route.gateways:
        words += ["via", via]
    if route.metric is not None:
        words += ["metric", str(route.metric)]
    if route.table != routing.MAIN:
        words += ["table", routing.table_name(route.table)]
    return " ".join(words)


def check_hops(state: State, record: Iface, route: Route) -> None:
    """Raise Usage unless the gateways, and the source address, suit the guest's interfaces."""
    ifaces = state.ifaces_of(record.guest)
    own = {a.partition("/")[0]: i.name for i in ifaces for a in i.addresses}
    if route.src is not None and route.src not in own:
        raise Usage(f"'{record.guest}' has no address '{route.src}'")
    there = [(each, _behind(ifaces, record, each)) for each in route.hops]
    if there and record.name not in [iface.name for _, iface in there]:
        raise Usage(
            f"no gateway is behind '{record.name}'", hint=f"add the route to '{there[0][1].name}'"
        )
    for each, iface in there:
        if each.via is not None:
            _check_gateway(iface, each.via, own, route)


def _behind(ifaces: Sequence[Iface], record: Iface, hop_: Hop) -> Iface:
    found = route_requests.behind(ifaces, record.name, hop_)
    if found is None:
        raise Usage(f"'{record.guest}' has no interface '{record.guest}-{hop_.device}'")
    return found


def _check_gateway(iface: Iface, via: str, own: dict[str, str], route: Route) -> None:
    if via in own:
        raise Usage(f"the gateway '{via}' is an address of '{own[via]}' itself")
    if any(address.is_reserved(via, a) for a in iface.addresses):
        raise Usage(f"the gateway '{via}' is not a host address on '{iface.name}'")
    if (
        not route.onlink
        and not address.is_near(via, iface.addresses)  # nearly always, and much quicker
        and not address.is_near(via, route_requests.near(iface, route.table))
    ):
        raise Usage(
            f"the gateway '{via}' is not in any network that '{iface.name}' has an address in",
            hint=f"dumm-iface address add {iface.name} A/P, or --onlink",
        )


def by_key(ifaces: Iterable[Iface]) -> dict[Key, Owned]:
    """The routes of a guest's interfaces by what its kernel has only one route for."""
    return {each.route.key: each for each in route_requests.owned(ifaces)}


def check_free(
    state: State, record: Iface, route: Route, known: Mapping[Key, Owned] | None = None
) -> None:
    """Raise Conflict if the guest already has such a route: its kernel would replace it. `known`
    are all its routes, if the caller has them."""
    ifaces = state.ifaces_of(record.guest)
    if known is None:
        known = by_key(ifaces)
    if (there := known.get(route.key)) is not None:
        raise Conflict(
            f"'{record.guest}' already has a route to this destination: '{text(there.route)}'"
            f" through '{there.owner}'",
            hint="a second one needs another metric or table",
        )
    # The kernel would replace its own route with this one (fib_table_insert, NLM_F_REPLACE).
    if route.table != routing.MAIN or route.metric not in (None, 256 if route.is_v6 else None):
        return
    for iface in ifaces:
        if any(address.network(a, strict=False) == route.dest for a in iface.addresses):
            raise Conflict(f"'{route.dest}' is already on '{iface.name}' because of its address")


def meant(
    record: Iface,
    dest: str,
    vias: Sequence[str],
    *,
    kind: str | None,
    metric: int | None,
    table: str | None,
) -> list[Owned]:
    """The route of an interface that a user means, or none; Usage if it could be several."""
    network = None if dest == DEFAULT else address.network(dest)
    hops = {(h.via, h.device) for h in map(hop, vias)}
    number = routing.table(table) if table is not None else None

    def matches(route: Route) -> bool:
        # The device may be given or not.
        known = {(h.via, d) for h in route.hops for d in (h.device or record.device, None)}
        return (
            (route.dest == network if network else route.dest in EVERYWHERE.values())
            and hops <= known
            and kind in (None, route.kind)
            and (metric is None or route._replace(metric=metric).key == route.key)
            and number in (None, route.table)
        )

    found = [each for each in route_requests.owned([record]) if matches(each.route)]
    if len({each.route.is_v6 for each in found}) > 1:
        raise Usage(
            f"'{record.name}' has default routes of both address families",
            hint=" or ".join(EVERYWHERE.values()),
        )
    if len(found) > 1:
        raise Usage(
            f"'{record.name}' has several routes to '{dest}'", hint="--metric, --table or --via"
        )
    return found
