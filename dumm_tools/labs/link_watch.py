"""The links of a lab as they are now, for `dumm-guest monitor`; an isolated lab has some only while
its holder lives."""

from __future__ import annotations

import os

from dumm_tools import holder
from dumm_tools.errors import DummError
from dumm_tools.labs.sources import Sources
from dumm_tools.linux import process
from dumm_tools.linux.link_events import Links
from dumm_tools.model import State
from dumm_tools.running import lab_links


class WatchedLinks:
    """The links, and the descriptors that report changes of them to `sources`."""

    def __init__(self, labdir: str, sources: Sources) -> None:
        self._labdir, self._sources = labdir, sources
        self._links: Links | None = None
        self._holder: int | None = None

    def seek(self, state: State) -> bool:
        """Find the links, unless they are known; whether there is something new."""
        if self._links is not None:
            return False
        state.epoch = None
        if state.isolated:
            known = holder.find(self._labdir)
            self._holder = process.open_pidfd(*known) if known else None
            if self._holder is None:
                return False
            self._sources.watch(self._holder)
        try:
            self._links = lab_links.opened(self._labdir, state)
        except DummError:
            if not state.isolated or holder.lives(self._labdir):
                raise
        if self._links is None:
            self.close()
            return False
        self._sources.watch(self._links.fileno())
        return True

    def close(self) -> None:
        """Let go of the lab's network namespace."""
        if self._links is not None:
            self._sources.unwatch(self._links.fileno())
            self._links.close()
            self._links = None
        if self._holder is not None:
            self._sources.unwatch(self._holder)
            os.close(self._holder)
            self._holder = None

    def has_ended(self, fd: int) -> bool:
        """Whether it is the descriptor of the holder, which has ended; if so, there are no links
        any more."""
        if fd != self._holder:
            return False
        self.close()
        return True

    def changed(self, fd: int) -> set[str]:
        """The names of the links that changed, if it is their descriptor."""
        if self._links is None or fd != self._links.fileno():
            return set()
        return self._links.read()

    def has_carrier(self, name: str) -> bool:
        """Whether a link is the lab's, and has a carrier."""
        facts = self._links.get(name) if self._links is not None else None
        return facts is not None and facts.carrier

    def is_up(self, name: str) -> bool:
        """Whether a link is the lab's, and is up."""
        facts = self._links.get(name) if self._links is not None else None
        return facts is not None and facts.up
