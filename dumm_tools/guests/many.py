"""Running a program in several guests at once: one loop, in which no guest waits for another."""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dumm_tools.agent import steps
from dumm_tools.agent.exchange import GRACE, Exchange
from dumm_tools.agent.program import Program
from dumm_tools.agent.session import FORWARDED, Signals, signals
from dumm_tools.agent.sink import Streams
from dumm_tools.agent.steps import Steps, Wait, Wants
from dumm_tools.errors import DummError, ExecFailed, TimedOut
from dumm_tools.guests.gathering import Kept, Lines, TooMuch
from dumm_tools.linux import limit
from dumm_tools.running import contact, guest_views, liveness
from dumm_tools.statefile import load
from dumm_tools.waiting import Ended

#: Seconds for which what was read of the working set's state is believed.
_FRESH = 1.0
#: Open files for each guest: two of the line, its process, its input, and a margin for a busy one.
_FILES = 8
_OWN_FILES = 64


class Outcome(NamedTuple):
    """How a program has ended in one of the guests; `error` says why it could not be run there, or
    did not end by itself. Its output is kept if that was asked for."""

    name: str
    status: int
    seconds: float
    error: DummError | None
    out: bytes
    err: bytes


def execute(
    labdir: str,
    names: Sequence[str],
    program: Program,
    *,
    at_once: int = 0,
    stdin: int | None = None,
    keep: bool = False,
) -> list[Outcome]:
    """Run a program in each of the guests, in at most `at_once` at a time (0: in all). Its
    output is passed on line by line, with the guest's name, or kept.

    Each program is given a copy of the file `stdin`. ExecFailed if a guest does not exist, before
    anything is run, or if our output cannot be written; BrokenPipeError if nobody reads it any
    more; TimedOut and Ended if nobody does until the time is up, or a signal has arrived.
    """
    state = load(labdir)
    for name in names:
        try:
            guest_views.get(state, name)
        except DummError as e:
            raise ExecFailed(str(e), hint=e.hint) from None
    crowd = _Crowd(labdir, program, stdin, keep)
    files = limit.use_files(_FILES * len(names) + _OWN_FILES)
    at_once = max(1, min(at_once or len(names), (files - _OWN_FILES) // _FILES))
    with contextlib.closing(crowd), signals(FORWARDED) as arrived:
        return crowd.run(names, at_once, arrived)


class _Job:
    """A program in one of the guests, from the line that it needs to its exit status."""

    def __init__(self, name: str, patience: float, streams: Streams, keep: bool) -> None:
        self.name = name
        self.begun = time.monotonic()
        self.deadline = self.begun + patience
        self.out: Lines | Kept = Kept() if keep else Lines(f"{name}: ", streams.out)
        self.err: Lines | Kept = Kept() if keep else Lines(f"{name}: ", streams.err)
        self.exchange: Exchange | None = None
        self.steps: Steps[int] | None = None
        self.wait = Wait({}, 0.0)
        self.outcome: Outcome | None = None

    def go_on(self, events: Wants | None) -> None:
        """Take the next step, if not the first; an end sets the outcome."""
        assert self.steps
        try:
            self.wait = next(self.steps) if events is None else self.steps.send(events)
        except StopIteration as e:
            self.end(e.value)
        except Exception as e:
            self.fail(e)

    def signal(self, number: int) -> None:
        """Pass a signal on to the program, or end if there is none yet."""
        try:
            if self.exchange is None:
                raise Ended(number)
            self.exchange.pass_on(number)
            self.refresh()
        except Ended as e:
            self.fail(e)

    def refresh(self) -> None:
        """Find out anew what is waited for, since something else has changed that."""
        if self.exchange is not None:
            self.wait = Wait(self.exchange.wants(), self.exchange.until())

    def fail(self, error: Exception) -> None:
        """End with an error."""
        if isinstance(error, Ended):
            self.end(128 + error.number)
        elif isinstance(error, ExecFailed) or (
            isinstance(error, TimedOut) and time.monotonic() >= self.deadline
        ):
            self.end(error.exit_code, error)
        elif isinstance(error, DummError):
            self.end(125, error)
        else:
            raise error

    def end(self, status: int, error: DummError | None = None) -> None:
        """End with a status; what has arrived of a last line is passed on."""
        if self.steps is not None:
            self.steps.close()
        for output in (self.out, self.err):
            output.end()
        out, err = (bytes(o.data) if isinstance(o, Kept) else b"" for o in (self.out, self.err))
        seconds = time.monotonic() - self.begun
        self.outcome = Outcome(self.name, status, seconds, error, out, err)


class _Crowd:
    """The loop: the jobs that are under way, and what they wait for."""

    def __init__(self, labdir: str, program: Program, stdin: int | None, keep: bool) -> None:
        self._labdir, self._program, self._stdin, self._keep = labdir, program, stdin, keep
        self._patience = math.inf if program.timeout is None else program.timeout
        self._streams = Streams()
        self._poll = select.poll()
        self._jobs: dict[str, _Job] = {}
        self._owners: dict[int, _Job] = {}
        self._registered: dict[str, Wants] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._state, self._loaded = load(labdir), time.monotonic()
        self._signalled = 0
        self._latest = 0.0  # the last deadline of all
        self._turn = 0

    def run(self, names: Sequence[str], at_once: int, arrived: Signals) -> list[Outcome]:
        """Run the program everywhere, and return when all output has been written."""
        queue = list(reversed(names))
        self._poll.register(arrived.fd, select.POLLIN)
        while queue or self._jobs or self._streams.waiting:
            while queue and len(self._jobs) < at_once:
                self._begin(queue.pop())
            if self._jobs or self._streams.waiting:  # some may have ended at once
                self._step(arrived)
        return [self._outcomes[name] for name in names]

    def _begin(self, name: str) -> None:
        job = _Job(name, self._patience, self._streams, self._keep)
        self._jobs[name] = job
        self._latest = max(self._latest, job.deadline)
        if self._signalled:
            job.end(128 + self._signalled)
        else:
            job.steps = self._program_in(job)
            job.go_on(None)
        self._settle(job)

    def _program_in(self, job: _Job) -> Steps[int]:
        name = job.name
        if time.monotonic() - self._loaded > _FRESH:
            self._state, self._loaded = load(self._labdir), time.monotonic()
        liveness.need_running(self._labdir, self._state, guest_views.get(self._state, name))
        with contextlib.ExitStack() as stack:
            pidfd = stack.enter_context(contact.conversation(self._labdir, name))
            line = yield from contact.opening(self._labdir, name, pidfd, deadline=job.deadline)
            stack.callback(line.close)
            directory = liveness.run_dir(self._labdir, name)
            stdin = stack.enter_context(_copy_of(self._stdin))
            exchange = Exchange(
                *(line, directory, self._program, job.deadline, self._streams, job.out, job.err),
                stdin,
            )
            stack.callback(exchange.clean)
            exchange.begin()
            job.exchange = exchange
            while not exchange.is_over:
                events = yield Wait(exchange.wants(), exchange.until())
                try:
                    exchange.step(events)
                except TooMuch:
                    exchange.hang_up()
                    raise
            return exchange.status()

    def _settle(self, job: _Job) -> None:
        """Poll for what the job now waits for, or take its outcome."""
        ended = job.outcome is not None
        wants = {} if ended else job.wait.wants
        before = self._registered.get(job.name, {})
        for fd in before.keys() - wants.keys():
            self._poll.unregister(fd)
            del self._owners[fd]
        for fd, events in wants.items():
            if before.get(fd) != events:
                self._poll.register(fd, events)
                self._owners[fd] = job
        self._registered[job.name] = wants
        if job.outcome is not None:
            self._outcomes[job.name] = job.outcome
            del self._jobs[job.name]

    def _step(self, arrived: Signals) -> None:
        were_full, outputs = self._streams.are_full, self._streams.wants()
        for fd, events in outputs.items():
            self._poll.register(fd, events)
        until = min((job.wait.until for job in self._jobs.values()), default=math.inf)
        if not self._jobs and (self._signalled or self._program.timeout is not None):
            until = time.monotonic() + GRACE
        found = self._poll.poll(steps.left_ms(until))
        for fd in outputs:
            self._poll.unregister(fd)
        events_of = dict(found)
        for number in arrived.take(events_of):
            self._pass_on(number)
        self._write(events_of)
        self._serve(found)
        if self._streams.are_full != were_full:
            for job in self._jobs.values():
                job.refresh()
                self._settle(job)

    def _serve(self, found: list[tuple[int, int]]) -> None:
        events_of: dict[_Job, Wants] = {}
        for fd, events in found:
            if fd in self._owners:
                events_of.setdefault(self._owners[fd], {})[fd] = events
        now = time.monotonic()
        for job in self._jobs.values():
            if now >= job.wait.until:
                events_of.setdefault(job, {})
        ready = list(events_of)
        self._turn += 1  # begin with another one each time, for those that may not get to it
        at = self._turn % len(ready) if ready else 0
        for job in ready[at:] + ready[:at]:
            if self._streams.are_full and events_of[job] and now < job.wait.until:
                continue
            if job.outcome is None:
                job.go_on(events_of[job])
                self._settle(job)

    def _pass_on(self, number: int) -> None:
        if not self._jobs:  # all that is missing is a reader of our output
            raise Ended(number)
        self._signalled = number
        for job in list(self._jobs.values()):
            job.signal(number)
            self._settle(job)

    def _write(self, events: Wants) -> None:
        try:
            self._streams.write(events)
        except OSError as e:
            for job in self._jobs.values():
                if job.exchange is not None:
                    job.exchange.hang_up()
            if isinstance(e, BrokenPipeError):
                raise
            raise ExecFailed(f"cannot write output: {e.strerror}") from None
        if not self._jobs and self._streams.waiting:
            self._check_reader()

    def _check_reader(self) -> None:
        """Give up if there is nobody to read the rest of the output."""
        now = time.monotonic()
        if self._signalled and now >= self._streams.moved_at + GRACE:
            raise Ended(self._signalled)
        if now >= max(self._latest, self._streams.moved_at) + GRACE:
            raise TimedOut("nobody reads the output")

    def close(self) -> None:
        """End everything that is under way."""
        for job in self._jobs.values():
            if job.steps is not None:
                job.steps.close()
        self._streams.close()


@contextlib.contextmanager
def kept_input() -> Iterator[int]:
    """All of our stdin as a file without a name."""
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as file, open(0, "rb", closefd=False) as stdin:
        shutil.copyfileobj(stdin, file)
        file.flush()
        yield file.fileno()


@contextlib.contextmanager
def _copy_of(file: int | None) -> Iterator[int | None]:
    """A descriptor of the same file, with a position of its own."""
    if file is None:
        yield None
        return
    fd = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
