"""Guests for the time of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from dumm_tools.api import DummError, Guest, Lab


class MakeGuest(Protocol):
    """Makes a guest, and starts it unless `start` is False; the options are those of
    Guest.create."""

    def __call__(self, name: str, *, start: bool = True, **options: Any) -> Guest:
        """The guest. DummError."""


@contextlib.contextmanager
def making(lab: Lab) -> Iterator[MakeGuest]:
    """A function that makes guests, which are deleted at the end."""
    made: list[Guest] = []

    def make(name: str, *, start: bool = True, **options: Any) -> Guest:
        guest = lab.guest(name).create(**options)
        made.append(guest)
        if start:
            guest.start()
        return guest

    try:
        yield make
    finally:
        for guest in reversed(made):
            with contextlib.suppress(DummError):  # the test may have stopped or deleted it
                guest.stop(kill=True, if_running=True)
            guest.delete(if_exists=True)
