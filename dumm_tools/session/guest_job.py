"""A program in a guest, by `guest exec`: without a process of its own on the host."""

from __future__ import annotations

import contextlib
import math
import os
import time

from dumm_tools.agent.client import ANSWER_TIMEOUT
from dumm_tools.agent.exchange import Exchange
from dumm_tools.agent.program import Program
from dumm_tools.agent.sink import Backlog
from dumm_tools.agent.steps import Steps, Wait, Wants
from dumm_tools.errors import DummError, ExecFailed, TimedOut, os_reason
from dumm_tools.running import contact, liveness
from dumm_tools.session.answers import Answers, Failure, Output
from dumm_tools.session.job import Job
from dumm_tools.session.lines import Guests, Held
from dumm_tools.session.requests import Run
from dumm_tools.session.streams import Inlet
from dumm_tools.waiting import Ended

_TOOL = "dumm-guest"
#: Seconds after which a guest on a line that was kept is asked whether it is there.
_DOUBT = 2.0


def _checked(exchange: Exchange, doubt: float) -> float:
    """Ask a guest that was not asked for this program whether it answers at all; return when to
    look again. TimeoutError."""
    if exchange.is_answered:
        return math.inf
    if exchange.is_asked:
        raise TimeoutError
    exchange.ask()
    return doubt + ANSWER_TIMEOUT - _DOUBT


class _Taken:
    """The backlog of output that nobody has to read."""

    are_full = False

    @property
    def moved_at(self) -> float:
        """Now."""
        return time.monotonic()


class GuestJob(Job):
    """Runs a program on a line of its guest."""

    def __init__(
        self,
        run: Run,
        answers: Answers,
        inlet: Inlet | None,
        out: Output,
        err: Output,
        guests: Guests,
        name: str,
        program: Program,
        stdin: int | None,
    ) -> None:
        super().__init__(run, answers, inlet, out, err)
        self._guests, self._name, self._program, self._stdin = guests, name, program, stdin
        if program.timeout is not None:
            self.deadline = min(self.deadline, self.begun + program.timeout)
        if self.deadline < math.inf:
            program.timeout = self.deadline - self.begun
        self._exchange: Exchange | None = None
        self._steps = self._program_in()
        self._wait = Wait({}, 0.0)
        self._go_on(None)

    def _wants(self) -> Wants:
        if self._exchange is not None and not self._exchange.is_over:
            return self._exchange.wants()  # a full output has changed it, perhaps
        return self._wait.wants

    def until(self) -> float:
        return self._wait.until

    def _step(self, events: Wants) -> None:
        if self.inlet is not None and self._exchange is not None and self._exchange.is_deaf:
            self.inlet.drop()
            self.feed_on()
        if events or time.monotonic() >= self._wait.until:
            self._go_on(events)

    def _go_on(self, events: Wants | None) -> None:
        if self.status is not None:
            return
        try:
            self._wait = next(self._steps) if events is None else self._steps.send(events)
        except StopIteration as e:
            self.status = e.value
        except Ended as e:
            self.status = 128 + e.number
        except DummError as e:
            self._fail(e)
        except OSError as e:  # too many open files, for example
            self._fail(DummError(os_reason(e)))

    def signal(self, number: int) -> None:
        """Pass a signal on to the program, or end if there is none yet."""
        try:
            if self._exchange is None or self.status is not None:
                raise Ended(number)
            self._exchange.pass_on(number)
            self._wait = Wait(self._exchange.wants(), self._exchange.until())
        except Ended as e:
            self.status = 128 + e.number if self.status is None else self.status

    def _fail(self, error: DummError) -> None:
        late = isinstance(error, TimedOut) and time.monotonic() >= self.deadline
        self.status = error.exit_code if late or isinstance(error, ExecFailed) else 125
        self.failures.append(Failure(self._name, str(error), error.hint))
        text = f"{_TOOL}: {error}\n" + (f"{_TOOL}: hint: {error.hint}\n" if error.hint else "")
        with contextlib.suppress(DummError):
            self.err(text.encode(errors="surrogateescape"))

    def close(self) -> None:
        super().close()
        self._steps.close()

    # ---- the conversation ----

    def _program_in(self) -> Steps[int]:
        guests, name = self._guests, self._name
        with contextlib.ExitStack() as stack:
            if self._stdin is not None:
                stack.callback(os.close, self._stdin)
            stack.enter_context(contact.explained(name))
            kept = guests.take(name)
            held = kept or (yield from self._opening())
            keep = stack.enter_context(contextlib.ExitStack())
            keep.callback(held.close)
            directory = liveness.run_dir(guests.labdir, name)
            exchange = Exchange(
                *(held.line, directory, self._program, self.deadline, self._backlog()),
                *(self.out, self.err, self._stdin),
            )
            stack.callback(exchange.clean)
            exchange.begin()
            self._exchange = exchange
            doubt = time.monotonic() + (_DOUBT if kept else math.inf)
            while not exchange.is_over:
                events = yield Wait(exchange.wants(), min(exchange.until(), doubt))
                try:
                    exchange.step(events)
                    if time.monotonic() >= doubt:
                        doubt = _checked(exchange, doubt)
                except DummError:  # an output is too long, perhaps, or cannot be written
                    exchange.hang_up()
                    raise
            status = exchange.status()
            if exchange.is_clean:
                keep.pop_all()
                guests.give(name, held)
            return status

    def _backlog(self) -> Backlog:
        """It tells whether our reader takes the output."""
        streams = "stream" in (self.run.stdout.kind, self.run.stderr.kind)
        return self.answers if streams else _Taken()

    def _opening(self) -> Steps[Held]:
        guests, name = self._guests, self._name
        boot = guests.boot(name)
        pidfd = liveness.pidfd_of(guests.labdir, name)
        if pidfd is None:
            raise ExecFailed(f"guest '{name}' is not running")
        try:
            line = yield from contact.opening(guests.labdir, name, pidfd, deadline=self.deadline)
        except BaseException:
            os.close(pidfd)
            raise
        return Held(line, pidfd, boot)
