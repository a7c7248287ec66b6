"""Controlling a guest's kernel through its mconsole: pausing, resuming, and any other command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from dumm_tools.agent.client import ANSWER_TIMEOUT
from dumm_tools.errors import Conflict, DummError, Usage
from dumm_tools.linux import mconsole as mc
from dumm_tools.linux import rtnl
from dumm_tools.model import Phase
from dumm_tools.net import carrier
from dumm_tools.running import contact, guest_views, liveness, turn
from dumm_tools.statefile import load, transaction


def pause(labdir: str, name: str) -> None:
    """Suspend the guest's kernel."""
    with turn.taken(labdir, name):
        with transaction(labdir) as change:
            guest = guest_views.get(change.state, name)
            liveness.need_running(labdir, change.state, guest)
            if guest.boot is None:
                raise Conflict(
                    f"guest '{name}' is running, but there is no record of its start",
                    hint=f"dumm-guest stop {name}",
                )
            guest.boot.phase = "paused"
        try:
            contact.halt(labdir, name)
        except BaseException:
            with contextlib.suppress(DummError):
                wake(labdir, name, turn.LEAST)
            with contextlib.suppress(DummError):
                _set_phase(labdir, name, guest.boot.nonce, "paused", "running")
            raise


def resume(labdir: str, name: str, warn: Callable[[str], None] = lambda _: None) -> None:
    """Resume a paused guest. If it cannot be told which of its cables were plugged in or pulled
    meanwhile, that is reported to `warn`."""
    with turn.taken(labdir, name):
        state = load(labdir)
        guest = guest_views.get(state, name)
        now = liveness.guest_state(labdir, state, guest)
        if now != "paused" or guest.boot is None:
            raise Conflict(f"guest '{name}' is {now}, not paused")
        wake(labdir, name)
        _set_phase(labdir, name, guest.boot.nonce, "paused", "running")
        ifaces = state.ifaces_of(name)
        if ifaces:
            rtnl.load()
            try:
                carrier.tell(labdir, name)
            except (DummError, OSError) as e:
                carrier.warn_of({name: e}, ifaces, warn)


def _set_phase(labdir: str, name: str, nonce: str, before: Phase, phase: Phase) -> None:
    """Change the recorded phase of a boot, if it still is `before`."""
    with transaction(labdir) as change:
        guest = change.state.guests.get(name)
        if guest is not None and guest.boot is not None and guest.boot.nonce == nonce:
            guest.boot.phase = phase if guest.boot.phase == before else guest.boot.phase


def wake(labdir: str, name: str, seconds: float = ANSWER_TIMEOUT) -> None:
    """Resume the guest's kernel. It may be running already, if a command was killed before it could
    record that."""
    try:
        contact.mconsole(labdir, name, "go", seconds)
    except DummError as e:
        if "Not stopped" not in str(e):  # mconsole_go, arch/um/drivers/mconsole_kern.c
            raise


def mconsole(labdir: str, name: str, words: Sequence[str]) -> str:
    """Send one command to the guest's kernel; return the reply."""
    command = " ".join(words)
    if not command.strip():
        raise Usage("no command given", hint="'help' lists the commands")
    if len(os.fsencode(command)) > mc.COMMAND_MAX:
        raise Usage(f"an mconsole command is limited to {mc.COMMAND_MAX} bytes")
    state = load(labdir)
    guest = guest_views.get(state, name)
    now = liveness.guest_state(labdir, state, guest)
    if now in ("stopped", "crashed"):
        raise Conflict(f"guest '{name}' is {now}")
    return contact.mconsole(labdir, name, command)
