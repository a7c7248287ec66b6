"""Lines to guests that are kept for a while after a program, since another one often follows."""

from __future__ import annotations

import math
import os
import select
import time
from typing import NamedTuple

from dumm_tools import trust
from dumm_tools.agent.client import Line
from dumm_tools.agent.exchange import boot_mark
from dumm_tools.model import State
from dumm_tools.running import guest_views, liveness
from dumm_tools.statefile import load

#: How long a line is kept (seconds): others may be waiting for one.
_KEPT = 2.0
#: Lines kept for each guest, of the 17 that it has for programs.
_MOST = 8


class Held(NamedTuple):
    """A line in our possession, the pidfd that it uses, and a mark of the guest's boot."""

    line: Line
    pidfd: int
    boot: int
    since: float = 0.0

    def close(self) -> None:
        """Release the line."""
        self.line.close()
        os.close(self.pidfd)


class Guests:
    """The guests of a working directory: whether they run, and the lines to them that are kept."""

    def __init__(self, directory: str) -> None:
        self._named = directory
        self.labdir = directory
        self._seen: object = None
        self._state: State | None = None
        self._held: dict[str, list[Held]] = {}
        self._checked: set[str] = set()  # with the state that was read last

    def _look(self) -> State:
        """The state, which is read again when its file has changed: it is replaced each time."""
        try:
            found = os.stat(os.path.join(self.labdir, "state.json"))
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            seen = None
        if self._state is None or seen is None or seen != self._seen:
            self._checked.clear()
            self.labdir = trust.resolve(self._named)
            self._state, self._seen = load(self.labdir), seen
        return self._state

    def boot(self, name: str) -> int:
        """A value that changes when the guest boots."""
        return boot_mark(liveness.run_dir(self.labdir, name))

    def take(self, name: str) -> Held | None:
        """A line to a running guest that was kept, if there is one. NotFound, Conflict unless the
        guest is running: a line that is still good, and a record that has not changed, say so."""
        state = self._look()
        held = self._still_good(name)
        if held is None or name not in self._checked or liveness.is_ending(self.labdir, name):
            try:
                state.epoch = None  # an isolated lab's holder may be another one
                liveness.need_running(self.labdir, state, guest_views.get(state, name))
            except BaseException:
                if held is not None:
                    held.close()
                raise
            self._checked.add(name)
        return held

    def _still_good(self, name: str) -> Held | None:
        kept = self._held.get(name, [])
        while kept:
            held = kept.pop()
            if held.boot == self.boot(name) and not _has_events(held):
                return held
            held.close()
        return None

    def give(self, name: str, held: Held) -> None:
        """Keep a line whose program has ended, and that nothing is left in."""
        kept = self._held.setdefault(name, [])
        if len(kept) < _MOST:
            kept.append(held._replace(since=time.monotonic()))
        else:
            held.close()

    @property
    def until(self) -> float:
        """When to call `expire`."""
        oldest = (kept[0].since for kept in self._held.values() if kept)
        return min(oldest, default=math.inf) + _KEPT

    def expire(self) -> None:
        """Release lines that were not needed for a while."""
        now = time.monotonic()
        for kept in self._held.values():
            while kept and now >= kept[0].since + _KEPT:
                kept.pop(0).close()

    def close(self) -> None:
        """Release all lines."""
        for kept in self._held.values():
            while kept:
                kept.pop().close()


def _has_events(held: Held) -> bool:
    """Whether the guest has ended, or has sent something that nobody has asked for."""
    poll = select.poll()
    for fd, events in held.line.wants().items():
        poll.register(fd, events & select.POLLIN)
    return bool(poll.poll(0))
