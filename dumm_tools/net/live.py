"""Fields whose values only a running guest knows: its devices' MAC addresses, MTUs and shaping.

For reading verbs, which must not hang: a guest that does not answer is asked once, and all waiting
ends after two seconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from dumm_tools import statefile
from dumm_tools.errors import TimedOut
from dumm_tools.linux.rtnl import Link
from dumm_tools.model import Iface
from dumm_tools.net import guest_links
from dumm_tools.running import liveness

T = TypeVar("T")
#: Seconds for each guest when all others have used up the time.
LEAST = 0.05


class Questions:
    """The questions of one command. Answers are None if the guest is not running, has no such
    device or does not say."""

    def __init__(self, labdir: str) -> None:
        self._labdir = labdir
        self._state = statefile.load(labdir)
        self._deadline = time.monotonic() + guest_links.ASK_TIMEOUT
        self._running: dict[str, bool] = {}
        self._links: dict[str, Link | None] = {}

    def link(self, iface: Iface) -> Link | None:
        """The interface's device."""
        if iface.name not in self._links:
            self._links[iface.name] = self._ask(iface, guest_links.live_link)
        return self._links[iface.name]

    def shape(self, iface: Iface) -> dict[str, float] | None:
        """The device's shaping."""
        return self._ask(iface, guest_links.live_shape)

    def _ask(self, iface: Iface, question: Callable[[str, Iface, float], T]) -> T | None:
        guest = iface.guest
        if guest not in self._running:
            record = self._state.guests.get(guest)
            self._running[guest] = record is not None and (
                liveness.guest_state(self._labdir, self._state, record) == "running"
            )
        if not self._running[guest]:
            return None
        # Half of what is left: a silent guest must leave time for the others' answers.
        seconds = max(LEAST, (self._deadline - time.monotonic()) / 2)
        with contextlib.suppress(*guest_links.UNDO_FAILURES):
            try:
                return question(self._labdir, iface, seconds)
            except TimedOut:
                self._running[guest] = False
                raise
        return None
