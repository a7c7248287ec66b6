"""Programs run in a guest for what they say: output and status are kept, not passed on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

from dumm_tools.agent import protocol
from dumm_tools.agent.client import Line, LineLost, Rebooted
from dumm_tools.agent.program import Program, refusal, request
from dumm_tools.errors import ExecFailed, TimedOut
from dumm_tools.running import contact, liveness
from dumm_tools.waiting import Ended

#: How much of the end of the output is kept, unless more is needed (bytes).
KEPT = 4096
#: Interval of checks whether the guest has rebooted while nothing happens (seconds).
LOOK = 1.0
#: Seconds that a program may take to end after SIGTERM or SIGINT; then it gets SIGKILL.
GRACE = 1.0


class Outcome(NamedTuple):
    """How a program has ended: its exit status, and the end of its output. `refusal` says why it
    could not be started; the status is then 125, 126 or 127."""

    status: int
    output: bytes
    refusal: str = ""


def run(
    labdir: str, name: str, argv: Sequence[str], deadline: float, *, kept: int = KEPT
) -> Outcome | None:
    """Run a program with nothing on its standard input, and keep the last `kept` bytes of its
    output. None if the guest has rebooted or did not answer, TimedOut if the program has not ended
    by the deadline: it then gets SIGTERM, and after Ctrl-C, SIGINT."""
    program = Program(argv)
    answered = False
    try:
        with contact.program_line(labdir, name, deadline=deadline) as line:
            answered = True
            line.send(protocol.RUN, request(program, 24, 80))
            line.send(protocol.INPUT_END)
            try:
                return _follow(line, labdir, name, program, deadline, kept)
            except Rebooted:
                return None
            except TimeoutError:
                _end(line, signal.SIGTERM)
                raise TimedOut("it is still running") from None
            except KeyboardInterrupt:
                _end(line, signal.SIGINT)
                raise
            except Ended as e:
                _end(line, e.number)
                raise
    except TimedOut:
        if answered:
            raise
        return None


def _follow(
    line: Line, labdir: str, name: str, program: Program, deadline: float, kept: int
) -> Outcome | None:
    output = bytearray()
    boot = _mark(labdir, name)
    wanted = (protocol.OUTPUT, protocol.ERRORS, protocol.STATUS, protocol.FAILED)
    while True:
        left = deadline - time.monotonic()
        try:
            kind, number, data = line.wait_frame(max(0.0, min(LOOK, left)), wanted)
        except TimeoutError:
            if left <= 0:
                raise
            if _mark(labdir, name) != boot:
                return None
            continue
        if kind == protocol.FAILED:
            error = refusal(program, number, data)
            assert isinstance(error, ExecFailed)
            return Outcome(error.exit_code, bytes(output), str(error))
        if kind == protocol.STATUS:
            return Outcome(protocol.exit_status(number), bytes(output))
        output += data
        del output[:-kept]


def _mark(labdir: str, name: str) -> int:
    """A value that changes when the guest boots: its agent writes this file anew."""
    try:
        return os.lstat(os.path.join(liveness.run_dir(labdir, name), "uml", "ready")).st_mtime_ns
    except OSError:
        return 0


def _end(line: Line, number: int) -> None:
    """End the program of a line, whose status nobody waits for any more."""
    with contextlib.suppress(LineLost, TimeoutError):
        for each in (number, signal.SIGKILL):
            line.send(protocol.SIGNAL, bytes([each]))
            with contextlib.suppress(TimeoutError):
                line.wait_frame(GRACE, (protocol.STATUS, protocol.FAILED))
                return
