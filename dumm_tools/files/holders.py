"""Programs in a guest that did not notice a change of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dumm_tools.agent.client import Control
from dumm_tools.agent.protocol import Holder
from dumm_tools.model import Guest

Warn = Callable[[str], None]

_DROP_CACHES = ("/proc/sys/vm/drop_caches", "3")
#: The most programs that a warning names.
_MOST = 10


def change(control: Control, guest: Guest, warn: Warn) -> None:
    """Show a running guest the layers that are in its jail by now, and report the programs that
    keep the old ones."""
    name = guest.name
    if guest.boot is None or not guest.boot.rootfs:  # the agent of an earlier version
        control.store(*_DROP_CACHES)
        return
    try:
        control.change_layers()
    except OSError as e:
        warn(
            f"guest '{name}' has the new layers, but cannot change its root directory "
            f"({e.strerror}): open files have to be closed before their paths show the new ones"
        )
        control.store(*_DROP_CACHES)
        return
    try:
        found = control.holders()
    except TimeoutError:
        warn(f"guest '{name}' did not say in time which programs have files of the old layers")
        return
    for apart, text in (
        (True, "have mount namespaces of their own, and see the old layers"),
        (False, "have files or directories of the old layers open"),
    ):
        programs = [each for each in found if each.apart == apart]
        if programs:
            warn(f"programs in guest '{name}' {text} until they are restarted: {_named(programs)}")


def _named(programs: Sequence[Holder]) -> str:
    named = [f"{each.command} ({each.pid})" for each in programs[:_MOST]]
    if len(programs) > _MOST:
        named.append(f"{len(programs) - _MOST} more")
    return ", ".join(named)
