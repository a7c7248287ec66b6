"""Changes of a lab as they happen: of guests, interfaces, bridges and layers.

An event only says where to look. The values found there are compared with those that were reported
last, so many events at once are one change, and no change is reported twice. Nothing is asked of a
guest, except whether its init has come up (`boot_watch`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Self

from dumm_tools.errors import DummError, NotFound
from dumm_tools.following import Following, Key
from dumm_tools.labs import observed
from dumm_tools.labs.boot_watch import Boots
from dumm_tools.labs.link_watch import WatchedLinks
from dumm_tools.labs.observed import Board, Change, Members, Values
from dumm_tools.labs.sources import News, Sources
from dumm_tools.model import State
from dumm_tools.running import guest_views, liveness, startup_file

#: A file is reported as closed before its lock is free (__fput, fs/file_table.c): seconds after
#: which a guest that seems to run without a process is looked at again.
_AGAIN = (0.002, 0.02, 0.2)


class Monitor:
    """The changes of a lab, or of some of its guests and their interfaces only.

    NotFound for a guest that does not exist, DummError if the host does not allow the watches.
    """

    def __init__(self, labdir: str, names: Iterable[str] = ()) -> None:
        self._labdir, self._only = labdir, set(names)
        self._stack = contextlib.ExitStack()
        self._board = Board()
        self._taps: dict[str, str] = {}
        self._members = Members()
        self._reader: int | None = None
        self._later: dict[str, tuple[float, int]] = {}  # when to look again, and how often it was
        self._over: DummError | None = None
        self._seen: dict[str, str] = {}  # the nonces of boots
        with contextlib.ExitStack() as failed:
            failed.callback(self._stack.close)
            self._sources = Sources(labdir)
            self._stack.callback(self._sources.close)
            self._links = WatchedLinks(labdir, self._sources)
            self._stack.callback(self._links.close)
            self._boots = Boots(labdir, self._sources.watch, self._sources.unwatch)
            self._stack.callback(self._boots.close)
            self._following = Following(labdir)
            for name in self._only:
                guest_views.get(self._state, name)
            failed.pop_all()

    @property
    def _state(self) -> State:
        return self._following.state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def end_with(self, fd: int) -> None:
        """Raise BrokenPipeError when nobody reads from a descriptor any more."""
        if self._sources.watch(fd, 0):
            self._reader = fd

    def first(self) -> list[Change]:
        """The present values, as changes; call this once, before `wait`."""
        state = self._state
        self._links.seek(state)
        keys: set[Key] = {("guests", name) for name in state.guests}
        keys |= {("ifaces", name) for name in state.ifaces}
        keys |= {("bridges", name) for name in state.bridges}
        return self._changes(keys, set(), set())

    def wait(self, deadline: float) -> list[Change] | None:
        """Wait for changes; None if there are none until the deadline. NotFound if the working set
        was destroyed, and BrokenPipeError."""
        while True:
            if self._over is not None:
                raise self._over
            now = time.monotonic()
            ends = [deadline, *(due for due, _ in self._later.values())]
            left = max(0.0, min(ends) - now)
            news = self._sources.wait(None if left == float("inf") else min(left, 1e6))
            if found := self._digest(news):
                return found
            if time.monotonic() >= deadline:
                return None

    # ---- from events to objects ----

    def _digest(self, news: News) -> list[Change]:
        guests, keys, devices = news.guests, set[Key](), set[str]()
        now = time.monotonic()
        guests |= {name for name, (due, _) in self._later.items() if due <= now}
        for name in news.guests:
            if name in self._later and self._later[name][0] > now:
                del self._later[name]  # a new event, a new chance
        if news.state:
            try:
                keys = self._following.refresh()
            except NotFound as e:
                self._over = e
                return self._all_gone()
            if self._links.seek(self._state):
                news = news._replace(all_guests=True)
                keys |= self._everything()
        for fd in news.others:
            devices |= self._links.changed(fd)
            if self._links.has_ended(fd):  # and with it all guests
                self._state.epoch = None
                news = news._replace(all_guests=True)
                keys |= self._everything()
            elif fd == self._reader:
                raise BrokenPipeError
            elif booted := self._boots.ended(fd):
                guests.add(booted)
        if news.all_guests:
            guests |= self._state.guests.keys()
        return self._changes(
            keys | {("guests", name) for name in guests if name in self._state.guests},
            devices,
            news.rebooted,
        )

    def _everything(self) -> set[Key]:
        state = self._state
        return {("ifaces", n) for n in state.ifaces} | {("bridges", n) for n in state.bridges}

    # ---- from objects to changes ----

    def _changes(self, keys: set[Key], devices: set[str], rebooted: set[str]) -> list[Change]:
        guests = {name for table, name in keys if table == "guests"}
        ifaces = {name for table, name in keys if table == "ifaces"}
        bridges = {name for table, name in keys if table == "bridges"}
        ifaces |= {self._taps[d] for d in devices if d in self._taps}
        for name in bridges:
            ifaces |= self._members.of(name)
        bridges |= {d for d in devices if d in self._state.bridges}
        for name in ifaces:
            record = self._state.ifaces.get(name)
            bridges |= self._members.moved(name, record.bridge if record is not None else None)
            if record is not None:
                self._taps[record.tap] = name
        found: list[Change] = []
        for name in sorted(guests):
            if self._is_wanted(name):
                found += self._guest(name, name in rebooted)
        for name in sorted(ifaces):
            if self._is_wanted(name.rpartition("-")[0]):
                found += self._board.put("iface", name, self._iface(name))
        if not self._only:
            for name in sorted(bridges):
                found += self._board.put("bridge", name, self._bridge(name))
            found += self._board.put("lab", "", observed.lab(self._state))
        return found

    def _is_wanted(self, guest: str) -> bool:
        return not self._only or guest in self._only

    def _iface(self, name: str) -> Values | None:
        record = self._state.ifaces.get(name)
        if record is None:
            return None
        return observed.iface(self._state, record, self._links.has_carrier)

    def _bridge(self, name: str) -> Values | None:
        record = self._state.bridges.get(name)
        if record is None:
            return None
        return observed.bridge(record, self._members.of(name), self._links.is_up)

    def _guest(self, name: str, rebooted: bool) -> list[Change]:
        guest = self._state.guests.get(name)
        if guest is None:
            self._sources.drop_guest(name)
            self._boots.forget(name)
            self._later.pop(name, None)
            return self._board.put("guest", name, None)
        self._sources.add_guest(name)
        watched = self._sources.watch_end(name)
        state = liveness.guest_state(self._labdir, self._state, guest)
        alive = state not in ("stopped", "crashed")
        self._look_again(name, alive and not watched)
        startup = startup_file.state(self._labdir, name, alive)
        if startup is None and state == "starting" and startup_file.exists(self._labdir, name):
            startup = "waiting"  # its instructions are being written
        before = self._board.get("guest", name)
        found: list[Change] = []
        nonce = guest.boot.nonce if guest.boot is not None else ""
        if state == "running" == before.get("state") and (
            rebooted or self._seen.get(name, nonce) != nonce
        ):
            # It was quicker than we are.
            self._boots.forget(name)
            found = self._board.put("guest", name, {**before, "state": "starting", "booted": False})
        self._seen[name] = nonce
        values: Values = {
            "state": state,
            "startup": startup,
            "booted": self._boots.has_booted(guest, state, startup),
            "overlays": list(guest.overlays),
        }
        return found + self._board.put("guest", name, values)

    def _look_again(self, name: str, uncertain: bool) -> None:
        """Arrange for another look at a guest whose end nobody would report."""
        _, tries = self._later.pop(name, (0.0, 0))
        if uncertain and tries < len(_AGAIN):
            self._later[name] = (time.monotonic() + _AGAIN[tries], tries + 1)

    def _all_gone(self) -> list[Change]:
        """The working set was destroyed; the lab itself comes last."""
        known = sorted(self._board.known(), key=lambda each: each[0] == "lab")
        return [change for kind, name in known for change in self._board.put(kind, name, None)]
