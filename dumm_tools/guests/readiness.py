"""Waiting for guests: from the process to the answer of its agent, or to its end."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from dumm_tools.agent import protocol
from dumm_tools.agent.protocol import Ready
from dumm_tools.errors import Conflict, DummError, TimedOut
from dumm_tools.guests import disks
from dumm_tools.guests.process import LIMIT, Launchers
from dumm_tools.linux import process
from dumm_tools.running import contact, guest_views, liveness, turn
from dumm_tools.statefile import load

#: Seconds to wait for one guest while others may be ready.
ROUND = 1.0
#: Seconds that the log of a kernel that has ended may take to be complete.
LAST_WORDS = 1.0
#: How lines of the agent start on the console.
AGENT = "dumm-agent: "
#: The keeper of a jail says so when the server of the root file system has ended (jail/keeper.c).
_SERVER_LOST = "[the server of the root file system has ended]"


#: Printed by a kernel before its panic, if the host refuses it a process for a guest's program
#: (start_userspace, arch/um/os-Linux/skas/process.c).
_NO_PROCESS = re.compile(r"start_userspace : clone failed, errno = ([0-9]{1,3})")


#: Hints for the reasons why guests do not start, by a part of their text. The options of the kernel
#: are those that `images.features` looks for, which a kernel may lack all the same.
_HINTS = {
    "clock": "timers count as pending signals: ulimit -i",
    "VFS: Unable to mount root fs": "the kernel may lack CONFIG_BLK_DEV_INITRD",
    "/dev/ttyS0": "the kernel may lack CONFIG_SSL",
    "hostfs": "the kernel may lack CONFIG_HOSTFS",
    os.strerror(errno.EAGAIN): LIMIT,
}


class Booting(NamedTuple):
    """A guest that was started and has not answered yet. `jail` is the launchers of its jails; None
    once they have ended, or if another command started the guest."""

    name: str
    nonce: str
    deadline: float
    jail: Launchers | None = None


def settle(
    labdir: str, booting: Booting, *, wait: bool, grace: float, warn: Callable[[str], None]
) -> Booting | None:
    """Wait until the jail has started the kernel and, with `wait`, until the agent has answered.
    Return None then. If it takes longer than ROUND and there is time left, return what remains to
    be waited for. The first round lasts at least `grace` seconds, even past the deadline."""
    name, begin = booting.name, time.monotonic()
    end = min(begin + ROUND, booting.deadline)
    if booting.jail is not None:
        if text := booting.jail.wait():
            reason = text.rpartition("\n")[2]
            raise DummError(f"cannot start guest '{name}': {reason}", hint=_hint(reason))
        booting = booting._replace(jail=None)
        end = max(end, begin + grace)
    if not wait:
        return None
    try:
        ready = _ready(labdir, booting, end)
    except TimedOut:
        if time.monotonic() < booting.deadline:
            return booting
        raise TimedOut(
            f"guest '{name}' was not ready in time", hint=f"dumm-console log {name}"
        ) from None
    except DummError as e:
        why = last_words(labdir, name) or str(e)
        raise DummError(f"cannot start guest '{name}': {why}", hint=_hint(why)) from None
    if ready.useless:
        reason, hint = _reason(labdir, name, ready)
        raise DummError(f"cannot start guest '{name}': {reason}", hint=hint)
    if ready.trouble:
        warn(f"guest '{name}': {ready.trouble}")
    return None


def _ready(labdir: str, booting: Booting, end: float) -> Ready:
    """Wait for the agent until `end`, when another guest may have its turn."""
    left = max(0.0, end - time.monotonic())
    return contact.wait_ready(labdir, booting.name, booting.nonce, left)


def _reason(labdir: str, name: str, ready: Ready) -> tuple[str, str | None]:
    """Why a boot will never be ready, and a hint; the agent knows NICs by their slots, disks by
    their names."""
    what, _, error = ready.trouble.partition(": ")
    state = load(labdir)
    for iface in state.ifaces_of(name):
        if what == f"NIC {iface.slot}":
            return f"interface '{iface.name}': {error}", None
    boot = guest_views.get(state, name).boot
    for number, text in enumerate(boot.disks if boot else ()):
        if what == f"disk {disks.device(number)}":
            return f"its kernel cannot use disk '{disks.parse(text).path}'", None
    return ready.trouble, _hint(ready.trouble)


def _hint(why: str) -> str | None:
    return next((hint for text, hint in _HINTS.items() if text in why), None)


def last_words(labdir: str, name: str) -> str:
    """The line of the console log that says why a kernel ended, or "". The guest controls this
    text: it may be of any length, and is made safe for terminals."""
    with contextlib.suppress(TimedOut):  # the keeper is still writing
        liveness.await_end(labdir, name, LAST_WORDS)
    run = liveness.run_dir(labdir, name)
    line = _last(os.path.join(run, "console.log"))
    if line == _SERVER_LOST and (why := _last(os.path.join(run, "server.log"))):
        return f"{line.strip('[]')}: {why}"
    return line


def _last(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            text = file.read(65536)
    except OSError:
        return ""
    lines = [" ".join(protocol.printable(line[-500:]).split()) for line in text.splitlines()]
    if lines and lines[-1] == _SERVER_LOST:
        return lines[-1]
    for line in reversed(lines):
        if found := _NO_PROCESS.fullmatch(line):
            return f"its kernel cannot start a process: {os.strerror(int(found[1]))}"
    for sign in ("Kernel panic", AGENT):
        for line in reversed(lines):
            if sign in line:
                return protocol.explained(line.removeprefix(AGENT))
    return lines[-1] if lines else ""


def wait(labdir: str, name: str, what: str, timeout: float | None) -> None:
    """Wait until a guest is ready or stopped; TimedOut. Conflict if it cannot become ready."""
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    (await_ready if what == "ready" else _await_end)(labdir, name, deadline)


def await_ready(labdir: str, name: str, deadline: float) -> None:
    """Wait until a guest is ready; TimedOut. Conflict if it cannot become ready."""
    state = load(labdir)
    guest = guest_views.get(state, name)
    now = liveness.guest_state(labdir, state, guest)
    if now == "stopping" and guest.boot is not None and guest.boot.phase != now:
        now = "starting"  # by itself: it may reboot
    if now in ("stopped", "crashed", "stopping") or guest.boot is None:
        raise Conflict(f"guest '{name}' is {now}")
    if now == "running" and deadline <= time.monotonic():
        return  # no time to ask its agent, which said so before
    try:
        turn.await_launch(labdir, name, deadline)
        left = max(0.0, deadline - time.monotonic())
        ready = contact.wait_ready(labdir, name, guest.boot.nonce, left)
    except TimedOut:
        raise TimedOut(f"guest '{name}' is not ready") from None
    if ready.useless:
        reason, hint = _reason(labdir, name, ready)
        raise DummError(f"guest '{name}' is not ready: {reason}", hint=hint)


def _await_end(labdir: str, name: str, deadline: float) -> None:
    guest_views.get(load(labdir), name)
    pidfd = liveness.pidfd_of(labdir, name)
    try:
        if pidfd is not None and not process.wait_exit(pidfd, deadline - time.monotonic()):
            raise TimedOut("it is still running")
        left = deadline - time.monotonic()
        liveness.await_end(labdir, name, max(0.01, min(left, 1e6)))
    except TimedOut:
        raise TimedOut(f"guest '{name}' is still running") from None
    finally:
        if pidfd is not None:
            os.close(pidfd)
