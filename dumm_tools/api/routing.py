"""Routes and rules of a guest."""

from __future__ import annotations

import json
from typing import Any, Literal

from dumm_tools.api import views, words
from dumm_tools.api.part import Part
from dumm_tools.api.views import RouteView

Kind = Literal["unicast", "blackhole", "unreachable", "prohibit", "throw"]


class Routing(Part):
    """The part of a guest that routes. Routes are added to interfaces (`Iface.route_add`)."""

    def routes(self, *, live: bool = False) -> list[RouteView]:
        """The routes that are configured, or with `live` those currently in its kernel."""
        options = words.options(live=live)
        call = ["iface", "route", "list", *options, self.name, "--format", "json"]
        return views.of(RouteView, self._channel.call(call).stdout)

    def rule_add(self, *, may_exist: bool = False, **selectors: Any) -> None:
        """Add a rule: packets that match all selectors are routed by a table, or dropped.

        The selectors are those of `dumm-iface rule add`: `source` (its --from) and `to`, networks;
        `iif`, `oif`, devices; `fwmark`; `family`, inet or inet6; `priority`; then `table`, or
        `blackhole`, `unreachable` or `prohibit` set to True. Usage, Conflict.
        """
        options = _selectors(selectors) + words.options(may_exist=may_exist)
        self._channel.call(["iface", "rule", "add", *options, self.name])

    def rule_del(self, *, if_exists: bool = False, **selectors: Any) -> None:
        """Remove the rule that has all of these selectors. NotFound, unless `if_exists`."""
        options = _selectors(selectors) + words.options(if_exists=if_exists)
        self._channel.call(["iface", "rule", "del", *options, self.name])

    def rules(self, *, live: bool = False) -> list[dict[str, Any]]:
        """The rules that are configured, or with `live` those currently in its kernel; each has the
        fields of `dumm-iface rule list`, among them `from`."""
        options = words.options(live=live)
        call = ["iface", "rule", "list", *options, self.name, "--format", "json"]
        found: list[dict[str, Any]] = json.loads(self._channel.call(call).stdout)
        return found


def _selectors(given: dict[str, Any]) -> list[str]:
    named = {"from" if key == "source" else key: value for key, value in given.items()}
    return words.options(**named)
