"""Our outputs, whose readers may be slow."""

from __future__ import annotations

import os
import select
import time
from typing import Protocol

from dumm_tools.agent.steps import Wants
from dumm_tools.linux import stream

#: Stop accepting output from guests while this much is waiting for our own reader (bytes).
BACKLOG_MAX = 4 << 20


class Sink:
    """One of our outputs, to which we write only as much as it accepts without blocking."""

    def __init__(self, fd: int) -> None:
        self._given, self._fd = fd, -1
        self.backlog = bytearray()

    def wants(self) -> Wants:
        """The events to poll for: that it accepts pending data."""
        if not self.backlog:
            return {}
        if self._fd < 0:
            try:
                self._fd = stream.writer(self._given)
            except OSError:  # it is closed: the write will fail
                self._fd = self._given
        return {self._fd: select.POLLOUT}

    def write(self, events: Wants | None) -> bool:
        """Write if poll reported it as ready or, without events, if that cannot block; return
        whether something was accepted."""
        if events is None:
            may = bool(self.wants()) and not os.get_blocking(self._fd)
        else:
            may = self._fd in events
        if not (may and self.backlog):
            return False
        taken = stream.write(self._fd, self.backlog)
        del self.backlog[:taken]
        return taken > 0

    def close(self) -> None:
        """Close our descriptors."""
        if self._fd not in (-1, self._given):
            os.close(self._fd)


class Backlog(Protocol):
    """Output that waits for our reader."""

    @property
    def moved_at(self) -> float:
        """When our reader last accepted something (time.monotonic)."""

    @property
    def are_full(self) -> bool:
        """Whether no more should be accepted from guests."""


class Streams:
    """Our stdout and stderr, for what programs in guests print."""

    def __init__(self) -> None:
        self.out, self.err = Sink(1), Sink(2)
        self.moved_at = 0.0  # when our reader last accepted something

    @property
    def waiting(self) -> int:
        """Bytes that our reader has not accepted yet."""
        return len(self.out.backlog) + len(self.err.backlog)

    @property
    def are_full(self) -> bool:
        """Whether no more should be accepted from guests."""
        return self.waiting >= BACKLOG_MAX

    def wants(self) -> Wants:
        """The events to poll for."""
        return {**self.out.wants(), **self.err.wants()}

    def write(self, events: Wants) -> None:
        """Write what our reader accepts; OSError."""
        for sink in (self.out, self.err):
            if sink.write(events):
                self.moved_at = time.monotonic()

    def close(self) -> None:
        """Close our descriptors."""
        self.out.close()
        self.err.close()
