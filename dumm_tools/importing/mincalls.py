"""Calls of Mininet's methods in a script: what becomes of their arguments."""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Any

from dumm_tools.importing.mininodes import Network
from dumm_tools.importing.pysource import Source
from dumm_tools.importing.pyvalues import UNKNOWN, Class, Function

#: Options that are carried over, or reported elsewhere, or make no difference here.
_HOST = {"name", "cls", "ip", "mac", "defaultRoute", "isSwitch", "isHost"}
_SWITCH = {
    *("name", "cls", "dpid", "protocols", "stp", "prio", "failMode", "datapath", "listenPort"),
    *("inNamespace", "batch", "opts", "dpopts", "reconnectms", "verbose", "isSwitch"),
}
_SHAPE = {"bw", "delay", "jitter", "loss", "max_queue_size"}
_SHAPE |= {"use_htb", "use_hfsc", "use_tbf", "fast"}
_ENDS = {
    f"{key}{n}" for key in ("node", "port", "intfName", "addr", "params", "cls") for n in (1, 2)
}
_LINK = {"cls", *_SHAPE, *_ENDS}
#: The parameters of a network, in their order.
_NETWORK = (
    *("topo", "switch", "host", "controller", "link", "intf", "build", "xterms", "cleanup"),
    *("ipBase", "inNamespace", "autoSetMacs", "autoStaticArp", "autoPinCpus", "listenPort"),
    "waitConnected",
)
#: The types of options that have to be of one.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("ip", "mac", "defaultRoute", "ipBase"), (str,)),
    **{f"{key}{n}": (str,) for key in ("intfName", "addr") for n in (1, 2)},
    **{f"port{n}": (int,) for n in (1, 2)},
    **{f"params{n}": (dict,) for n in (1, 2)},
}


class Calls:
    """Adds to a network what calls of a script say, and reports the rest."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def network(self, node: ast.Call, values: list[Any], named: dict[str, Any]) -> dict[str, Any]:
        """The options of a new network."""
        options = dict(zip(_NETWORK, values, strict=False)) | named
        self._report(node, options, _NETWORK, "the network", ("ipBase", "autoSetMacs"))
        written = {word.arg: word.value for word in node.keywords}
        written |= dict(zip(_NETWORK, node.args, strict=False))
        for key in ("host", "link", "intf"):
            # A class of Mininet is what it is without options; those of its nodes are seen there.
            is_own = isinstance(options.get(key), Class | Function)
            if is_own or isinstance(written.get(key), ast.Call | ast.Lambda):
                self._source.note(node, f"'{key}' of the network is not carried over")
        return options

    def node(
        self, node: ast.Call, network: Network, how: str, values: list[Any], named: dict[str, Any]
    ) -> str | None:
        """Add a host or a switch; its name, None if that is not known."""
        name = values[0] if values else named.get("name")
        if not isinstance(name, str):
            self._source.not_understood(node)
            return None
        options = {**dict(zip(("cls",), values[1:], strict=False)), **named}
        if len(values) > 2:
            self._source.not_understood(node)
        made = options.get("cls")
        where = self._source.where(node)
        routes = isinstance(made, Class) and self._source.mentions(made.node, b"ip_forward")
        if how == "addSwitch" or named.get("isSwitch") is True:
            if routes:
                self._source.note(node, f"the class of '{name}' is not carried over")
            self._report(node, options, _SWITCH, f"'{name}'", ())
            network.switch(name, where)
            return name
        if "cls" in options and not routes and made is not None:
            said = [self._source.shown(k.value) for k in node.keywords if k.arg == "cls"]
            shown = f"class '{said[0]}'" if said else "the class"
            self._source.note(node, f"{shown} of '{name}' is not carried over")
        self._report(node, options, _HOST, f"'{name}'", _HOST - {"cls"})
        network.host(name, where, {**options, "routes": routes})
        return name

    def link(
        self, node: ast.Call, network: Network, values: list[Any], named: dict[str, Any]
    ) -> None:
        """Add a link."""
        ends = [getattr(each, "name", each) for each in values[:2]]
        ends += [getattr(named.get(f"node{n}"), "name", named.get(f"node{n}")) for n in (1, 2)][
            len(ends) :
        ]
        options = dict(zip(("port1", "port2", "cls"), values[2:], strict=False)) | named
        if not all(isinstance(end, str) for end in ends) or len(values) > 5:
            self._source.not_understood(node)
            return
        self._report(node, options, _LINK, "a link", _LINK - {"cls", "cls1", "cls2"})
        for key in ("params1", "params2"):
            if isinstance(params := options.get(key), dict):
                self._report(node, params, ("ip", "mac"), f"{key} of a link", ("ip", "mac"))
        known = {key: value for key, value in options.items() if value is not UNKNOWN}
        network.link((ends[0], ends[1]), self._source.where(node), known)

    def _report(
        self,
        node: ast.AST,
        options: dict[str, Any],
        known: Collection[str],
        owner: str,
        carried: Collection[str],
    ) -> None:
        """Say which options are lost: those that are not known, and those that should be carried
        over but have no value that could be."""
        for key, value in options.items():
            if key not in known:
                if value is not None:
                    self._source.note(node, f"'{key}' of {owner} is not carried over")
            elif key in carried and value is not None:
                types = _TYPES.get(key)
                if value is UNKNOWN or (types is not None and not isinstance(value, types)):
                    self._source.note(node, f"not understood: '{key}' of {owner}")
