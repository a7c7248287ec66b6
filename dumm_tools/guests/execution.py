"""Running programs in guests. Separate from `guest.py`, since a loop over `exec` pays for each
import."""

from __future__ import annotations

import math
import time

from dumm_tools.agent import session
from dumm_tools.agent.program import Program
from dumm_tools.errors import DummError, ExecFailed, TimedOut
from dumm_tools.running import contact, guest_views, liveness
from dumm_tools.statefile import load
from dumm_tools.waiting import Ended


def execute(labdir: str, name: str, program: Program) -> int:
    """Run a program in a guest with our stdin, stdout and stderr; return its exit status.

    ExecFailed (125, 126, 127) if it could not be run, TimedOut after its timeout, even if no line
    was free until then. 128 + n if signal n has ended us rather than the program.
    """
    patience = math.inf if program.timeout is None else program.timeout
    deadline = time.monotonic() + patience
    try:
        state = load(labdir)
        liveness.need_running(labdir, state, guest_views.get(state, name))
        with contact.program_line(labdir, name, deadline=deadline) as line:
            running = session.Session(line, liveness.run_dir(labdir, name), program, deadline)
            try:
                return running.run()
            finally:
                running.clean()
    except (ExecFailed, BrokenPipeError):
        raise
    except Ended as e:
        return 128 + e.number
    except TimedOut as e:
        if time.monotonic() >= deadline:
            raise
        raise ExecFailed(str(e), hint=e.hint) from None
    except DummError as e:
        raise ExecFailed(str(e), hint=e.hint) from None
