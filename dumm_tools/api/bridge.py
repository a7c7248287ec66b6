"""A bridge: a segment of the lab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from dumm_tools import names
from dumm_tools.api import views, words
from dumm_tools.api.capture import Capture
from dumm_tools.api.channel import Channel
from dumm_tools.api.part import Part
from dumm_tools.api.views import BridgeView
from dumm_tools.api.words import Named, Path


class Bridge(Part):
    """A bridge of a lab, from `Lab.bridge`; it need not exist. NotFound, from all methods but
    `create`, if it does not."""

    tool = "bridge"

    def __init__(self, channel: Channel, name: str) -> None:
        super().__init__(channel, names.bridge(name))

    def create(
        self,
        *,
        addresses: str | Sequence[str] = (),
        kind: Literal["auto", "hub", "switch"] = "auto",
        may_exist: bool = False,
    ) -> Self:
        """Create the bridge; return this object. `addresses` are the host's own on the segment,
        A/P. Usage, Conflict if it exists, unless `may_exist`.

        >>> lab.bridge("lan7").create(addresses="10.7.0.254/24").show().address
        ['10.7.0.254/24']
        >>> lab.bridge("lan7").delete()
        """
        options = words.options(address=words.several(addresses), may_exist=may_exist)
        self._verb_of("create", options + ([] if kind == "auto" else [f"--{kind}"]))
        return self

    def delete(self, *, if_exists: bool = False) -> None:
        """Disconnect its members, and delete the bridge. NotFound, unless `if_exists`."""
        self._verb_of("delete", words.options(if_exists=if_exists))

    def show(self) -> BridgeView:
        """All fields of the bridge."""
        return views.of(BridgeView, self._verb("show", "--format", "json").stdout)[0]

    def set(self, kind: Literal["auto", "hub", "switch"]) -> None:
        """Change the kind of the segment."""
        self._verb_of("set", [f"--{kind}"])

    def up(self) -> None:
        """Bring the segment up again: its members get their carriers back."""
        self._verb("up")

    def down(self) -> None:
        """Take the segment down: its members lose their carriers."""
        self._verb("down")

    def connect(self, *ifaces: str | Named) -> None:
        """Connect interfaces to the bridge; from another one they move. NotFound."""
        self._verb("connect", *map(words.name_of, ifaces))

    def address_add(self, *addresses: str, may_exist: bool = False) -> None:
        """Add addresses of the host, A/P. Usage, Conflict."""
        self._verb_of("address add", words.options(may_exist=may_exist), *addresses)

    def address_del(self, *addresses: str, if_exists: bool = False) -> None:
        """Remove addresses of the host, A/P. NotFound, unless `if_exists`."""
        self._verb_of("address del", words.options(if_exists=if_exists), *addresses)

    def uplink(
        self,
        to: Literal["nat"] | str | None = "nat",
        *,
        host_access: bool = False,
        may_exist: bool = False,
    ) -> None:
        """Connect the segment to the outside: "nat", a device of the host (root only), or None to
        remove the uplink. With `host_access`, guests reach the host's own services through "nat",
        too. Usage; Conflict for a second one, unless `may_exist`."""
        kind = ["--none"] if to is None else ["--nat"] if to == "nat" else [f"--to={to}"]
        options = words.options(host_access=host_access, may_exist=may_exist)
        self._verb_of("uplink", kind + options)

    def capture(self, *expression: str, path: Path | None = None) -> Capture:
        """Capture the packets on this segment; see `Iface.capture`."""
        return Capture(self._channel, "bridge", [self.name], expression, path)
