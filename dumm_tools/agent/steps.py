"""Conversations with agents as generators, which yield what they wait for: a loop can then have
many of them at a time."""

from __future__ import annotations

import select
import time
from collections.abc import Generator
from typing import NamedTuple, TypeVar

T = TypeVar("T")

#: Descriptors, with the events to poll for or those that poll reported.
Wants = dict[int, int]


class Wait(NamedTuple):
    """The events that a conversation waits for, and until when (time.monotonic)."""

    wants: Wants
    until: float


#: A conversation: is sent the events, none of them if its time is up, and returns a T.
Steps = Generator[Wait, Wants, T]


def left_ms(until: float) -> int:
    """The time until then, for poll."""
    return max(0, int(min((until - time.monotonic()) * 1000, 1 << 30)) + 1)


def run(steps: Steps[T]) -> T:
    """Have a single conversation."""
    try:
        wait = next(steps)
        while True:
            poll = select.poll()
            for fd, events in wait.wants.items():
                poll.register(fd, events)
            wait = steps.send(dict(poll.poll(left_ms(wait.until))))
    except StopIteration as e:
        result: T = e.value
        return result
    finally:
        steps.close()
