"""Whether guests have booted, without waiting for each of them.

Without an init, the guest's startup file says it. With one, its agent is asked, which answers when
it is so: by a child of ours for each guest, since the question takes a line of the guest.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable

from dumm_tools import errors
from dumm_tools.linux import child, process
from dumm_tools.linux.child import Child
from dumm_tools.model import Guest, GuestState

#: Guests that are asked at the same time; the others come after them.
MOST = 64


class Boots:
    """Facts about the boots of guests. `watch` and `unwatch` get descriptors that end with a
    question; pass them to `ended`."""

    def __init__(
        self, labdir: str, watch: Callable[[int], object], unwatch: Callable[[int], object]
    ) -> None:
        self._labdir, self._watch, self._unwatch = labdir, watch, unwatch
        self._done: set[str] = set()
        self._asked: dict[str, Child] = {}
        self._waiting: dict[str, None] = {}

    def has_booted(self, guest: Guest, state: GuestState, startup: str | None) -> bool:
        """Whether a guest has booted, as far as is known."""
        name = guest.name
        if state == "paused":
            return name in self._done
        if state != "running":
            self.forget(name)
            return False
        if guest.current_init is None:
            if startup is None or startup.startswith(("done", "failed")):
                self._done.add(name)
            return name in self._done
        if name not in self._done:
            self._ask(name)
        return name in self._done

    def forget(self, name: str) -> None:
        """The guest's boot has ended."""
        self._done.discard(name)
        self._waiting.pop(name, None)
        if asked := self._asked.pop(name, None):
            self._unwatch(asked.errors)
            os.kill(asked.pid, signal.SIGKILL)
            asked.wait()
            self._next()

    def ended(self, fd: int) -> str | None:
        """A descriptor has ended; the guest that has booted, if it was its question's."""
        name = next((n for n, asked in self._asked.items() if asked.errors == fd), None)
        if name is None:
            return None
        self._unwatch(fd)
        failed = self._asked.pop(name).wait()
        self._next()
        if failed:  # it has ended, or cannot tell
            return None
        self._done.add(name)
        return name

    def close(self) -> None:
        """Withdraw all questions."""
        self._waiting.clear()
        for name in list(self._asked):
            self.forget(name)

    def _ask(self, name: str) -> None:
        if name in self._asked:
            return
        if len(self._asked) >= MOST:
            self._waiting[name] = None
            return
        self._waiting.pop(name, None)

        def work() -> None:
            process.end_with_parent()
            from dumm_tools.guests import booted

            with contextlib.suppress(OSError):  # our reader must not wait for us
                null = os.open(os.devnull, os.O_RDWR)
                for standard in (0, 1):
                    os.dup2(null, standard)
            booted.wait(self._labdir, name, math.inf, lambda _: None)

        asked = self._asked[name] = child.fork(work, errors.explain)
        self._watch(asked.errors)

    def _next(self) -> None:
        if self._waiting:
            self._ask(next(iter(self._waiting)))
