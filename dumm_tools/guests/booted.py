"""Waiting for guests that have booted, and for a command in a guest to succeed."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence

from dumm_tools import proc
from dumm_tools.agent.protocol import Booted, printable
from dumm_tools.errors import Conflict, DummError, TimedOut, Usage
from dumm_tools.guests import readiness, trial
from dumm_tools.running import contact, guest_views, liveness, startup_file
from dumm_tools.statefile import load

#: Seconds to wait for an answer before looking whether the guest has rebooted or ended.
LOOK = 1.0
#: Seconds for a guest whose time is up.
LEAST = 0.5
#: Seconds that a program of the guest's init may take to answer.
ANSWER = 10.0
#: Seconds between two tries: at first, and at most.
FIRST, MOST = 0.1, 1.0

#: How much of the end of an output an expression is searched in (bytes).
SEARCHED = 1 << 20

Warn = Callable[[str], object]


def wait(labdir: str, name: str, deadline: float, warn: Warn) -> None:
    """Wait until a guest has booted: its init has come up, and its startup script has ended.
    Failures of these are reported to `warn`. TimedOut; Conflict if the guest does not run, and
    DummError if it ends meanwhile."""
    begun = False
    while True:
        _need_ready(labdir, name, deadline, begun)
        begun = True
        left = deadline - time.monotonic()
        try:
            found = contact.wait_booted(labdir, name, max(LEAST, min(LOOK, left)))
        except Conflict:  # it has ended, or reboots: see which
            time.sleep(FIRST)
            found = None
        if found is not None and (found.init != "systemd" or _systemd(labdir, name, warn)):
            _report(labdir, name, found, warn)
            return
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"guest '{name}' has not booted in time", hint=f"dumm-console log {name}"
            )
        if found is not None:
            time.sleep(FIRST)


def _need_ready(labdir: str, name: str, deadline: float, begun: bool) -> None:
    """Wait for a guest to be ready, as it is again after a reboot of its own."""
    try:
        readiness.await_ready(labdir, name, deadline)
    except Conflict as e:
        if not begun:
            raise
        raise DummError(str(e), hint=f"dumm-console log {name}") from None


def _report(labdir: str, name: str, found: Booted, warn: Warn) -> None:
    if found.startup.startswith("failed"):
        warn(startup_file.failure(labdir, name, found.startup))


def _systemd(labdir: str, name: str, warn: Warn) -> bool:
    """Ask systemd itself, which may be about to end the guest, and knows which units failed; False
    if it has not come up, or goes down."""

    def ask(*argv: str) -> list[str]:
        try:
            outcome = trial.run(labdir, name, ["systemctl", *argv], time.monotonic() + ANSWER)
        except TimedOut:
            return []
        lines = outcome.output.splitlines() if outcome else []
        return [printable(line, 200).partition(" ")[0] for line in lines]

    state = (ask("is-system-running") or [""])[0]
    if state in ("degraded", "maintenance"):
        units = ask("list-units", "--failed", "--plain", "--no-legend", "--full")
        failed = ", ".join(units) or "nothing any more"
        warn(f"guest '{name}': systemd is {state}: failed: {failed}")
    return state in ("running", "degraded", "maintenance")


def until(
    labdir: str,
    name: str,
    command: Sequence[str],
    deadline: float,
    warn: Warn,
    *,
    match: str | None = None,
) -> None:
    """Run a command in a guest again and again until it succeeds and, with `match`, this regular
    expression is found in its output. TimedOut; Conflict if the guest does not run, and DummError
    if it ends meanwhile; Usage for a bad expression."""
    wanted = None if match is None else _compiled(match)
    pause, begun, told = FIRST, False, False
    words = shlex.join(command)
    last = "it was not run"
    while True:
        state = load(labdir)
        now = liveness.guest_state(labdir, state, guest_views.get(state, name))
        if now == "paused":
            raise Conflict(f"guest '{name}' is paused")
        if now != "running":
            _need_ready(labdir, name, deadline, begun)
        begun = True
        try:
            limit = max(deadline, time.monotonic() + LEAST)
            kept = trial.KEPT if wanted is None else SEARCHED
            outcome = trial.run(labdir, name, command, limit, kept=kept)
        except TimedOut as e:
            raise TimedOut(f"guest '{name}': '{words}' did not succeed: {e}") from None
        except Conflict:  # it has ended, or reboots: see which
            outcome = None
        if outcome is not None:
            for line in outcome.output.splitlines():
                proc.log(f"{name}: {printable(line)}")
            is_found = wanted is None or wanted.search(outcome.output.decode(errors="replace"))
            if outcome.status == 0 and is_found:
                return
            what = f"status {outcome.status}" if outcome.status else f"'{match}' is not found"
            last = outcome.refusal or what + _last_line(outcome.output)
            if outcome.refusal and not told:
                warn(f"guest '{name}': {outcome.refusal}; trying again")
                told = True
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"guest '{name}': '{words}' did not succeed: {last}")
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, MOST)


def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.MULTILINE)
    except re.error as e:
        raise Usage(f"bad regular expression '{expression}': {e}") from None


def _last_line(output: bytes) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return f": {printable(lines[-1][-500:])}" if lines else ""
