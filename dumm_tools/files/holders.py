"""Programs in a guest that did not notice a change of its layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from dumm_tools.agent.client import Control
from dumm_tools.agent.protocol import Holder
from dumm_tools.errors import DummError, TimedOut
from dumm_tools.model import Guest
from dumm_tools.running import contact, turn

Warn = Callable[[str], None]

_DROP_CACHES = ("/proc/sys/vm/drop_caches", "3")
#: The most programs that a warning names.
_MOST = 10
#: Seconds for a guest to look for them, and for all guests.
_EACH, _PATIENCE = 3.0, 10.0


class Refused(DummError):
    """A guest could not change its root directory, and has the old one."""


def change(
    control: Control, guest: Guest, warn: Warn, served: tuple[str, str] | None = None
) -> None:
    """Have a running guest make new layers its root directory, those that are in its jail by now
    or, with virtiofs, in a directory of its server (`served`: tag, directory). TimeoutError;
    Refused, with virtiofs."""
    name = guest.name
    if not _can_change(guest):
        control.store(*_DROP_CACHES)
        return
    try:
        control.change_layers(*(served or ()))
    except TimeoutError:
        raise
    except OSError as e:
        if served:
            text = f"guest '{name}' cannot change its root directory: {e.strerror}"
            raise Refused(text) from None
        warn(
            f"guest '{name}' has the new layers, but cannot change its root directory "
            f"({e.strerror}): open files have to be closed before their paths show the new ones"
        )
        control.store(*_DROP_CACHES)


def _can_change(guest: Guest) -> bool:
    """Whether its agent knows how: that of an earlier version does not."""
    return guest.boot is not None and guest.boot.rootfs != ""


def report(labdir: str, guests: Iterable[Guest], warn: Warn) -> None:
    """Name the programs in guests whose layers have just changed that keep the old ones."""
    deadline = time.monotonic() + _PATIENCE
    for guest in filter(_can_change, guests):
        seconds = max(turn.LEAST, min(_EACH, deadline - time.monotonic()))
        try:
            with (
                turn.taken(labdir, guest.name, seconds),
                contact.control(labdir, guest.name, seconds) as control,
            ):
                _name(guest.name, control.holders(), warn)
        except TimedOut:
            warn(f"guest '{guest.name}' does not say which programs have files of the old layers")
        except DummError:
            continue  # it has ended


def _name(guest: str, found: Sequence[Holder], warn: Warn) -> None:
    for apart, text in (
        (True, "have mount namespaces of their own, and see the old layers"),
        (False, "have files or directories of the old layers open"),
    ):
        programs = [f"{each.command} ({each.pid})" for each in found if each.apart == apart]
        if len(programs) > _MOST:
            programs[_MOST:] = [f"{len(programs) - _MOST} more"]
        if programs:
            names = ", ".join(programs)
            warn(f"programs in guest '{guest}' {text} until they are restarted: {names}")
