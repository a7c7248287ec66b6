"""Waiting: locks with a time limit, and blocks that Ctrl-C does not break."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from contextvars import ContextVar

from dumm_tools.errors import TimedOut

#: Whether this is inside a transaction, under the lab's lock.
locked: ContextVar[bool] = ContextVar("locked", default=False)


class Ended(Exception):
    """A signal ends this command: one that the guest did not accept, or that came before all output
    was written."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise Ended for SIGTERM and SIGHUP, instead of dying at once."""

    def end(number: int, _frame: object) -> None:
        raise Ended(number)

    previous = {n: signal.signal(n, end) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Deferral:
    """A Ctrl-C that is put off: how many came, and whether anything has been begun that must be
    completed or undone."""

    def __init__(self, begun: bool) -> None:
        self.caught, self.begun, self.waiting = 0, begun, False

    def take(self, *_: object) -> None:
        self.caught += 1
        if self.caught > 1 or self.waiting:
            raise KeyboardInterrupt


_deferral: ContextVar[_Deferral | None] = ContextVar("deferral", default=None)


def must_not_wait(whom: str) -> None:
    """Raise RuntimeError inside a transaction: nothing that may delay us is waited for under the
    lab's lock, least of all a guest's answer. Callers are about to act on a guest: `begin`."""
    if locked.get():
        raise RuntimeError(f"{whom} would be waited for under the lab's lock")
    begin()


@contextlib.contextmanager
def unbroken(*, begun: bool = True) -> Iterator[None]:
    """Ctrl-C inside the block waits for its end; a second one does not. If nothing has been `begun`
    yet, one that arrives while the lab's lock is awaited does not either."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, or ours
        if begun:
            begin()
        yield
        return
    deferral = _Deferral(begun)
    reset = _deferral.set(deferral)
    signal.signal(signal.SIGINT, deferral.take)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _deferral.reset(reset)
        if deferral.caught == 1:
            raise KeyboardInterrupt


def begin() -> None:
    """From now on, an enclosing `unbroken` block must run to its end."""
    if (deferral := _deferral.get()) is not None:
        deferral.begun = True


@contextlib.contextmanager
def first() -> Iterator[None]:
    """Within `unbroken`, obey Ctrl-C immediately as long as nothing has been begun."""
    deferral = _deferral.get()
    if deferral is None or deferral.begun:
        yield
        return
    deferral.waiting = True
    try:
        if deferral.caught:
            raise KeyboardInterrupt
        yield
    finally:
        deferral.waiting = False


def lock(fd: int, timeout: float, what: str) -> None:
    """Take an exclusive flock within `timeout` seconds; TimedOut names the holder's pid."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass

    def expired(*_: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except TimeoutError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        by = f" by process {holder}" if holder.isdigit() else ""
        raise TimedOut(f"{what} is locked{by}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
