"""The loop of a framed session: reads requests, and has many of them under way at a time."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections import OrderedDict
from collections.abc import Callable

from dumm_tools.agent import steps
from dumm_tools.agent.program import Program
from dumm_tools.agent.session import FORWARDED, Signals, signals
from dumm_tools.errors import DummError
from dumm_tools.linux import limit
from dumm_tools.session import requests, streams
from dumm_tools.session.answers import Answers, Failure, Output
from dumm_tools.session.child_job import Act, ChildJob
from dumm_tools.session.guest_job import GuestJob
from dumm_tools.session.job import Job, ended
from dumm_tools.session.lines import Guests
from dumm_tools.session.requests import Id, Input, Refused, Run, Signal

_PIECE = 1 << 18
#: Requests that wait for others: no more are read while they have more than this (bytes).
_QUEUE_MAX = 64 << 20
#: Requests to begin before looking at others.
_AT_ONCE = 100
#: Seconds for a reader to take something of the last answers.
_LAST = 2.0
#: Seconds after a signal until what is under way gets SIGKILL.
_GRACE = 10.0

#: The program in a guest that the words of a request mean, and its name; None if they mean
#: something else, which is for a child.
Find = Callable[[list[str]], tuple[str, Program] | None]


class Session:
    """Requests from our standard input, answered on standard output."""

    def __init__(self, directory: str, find: Find, act: Act) -> None:
        self._guests, self._find, self._act = Guests(directory), find, act
        self._answers = Answers()
        self._jobs: dict[Id, Job] = {}
        self._current: Id | None = None  # the one that others wait for
        self._queue: OrderedDict[Id, tuple[Run, int]] = OrderedDict()
        self._queued = 0  # bytes
        self._error: OSError | None = None  # of our output
        self._at_end: dict[Id, Run] = {}
        self._succeeded: dict[Id, bool] = {}  # requests that others for the end depend on
        self._text = bytearray()
        self._skips = False  # within a line that is too long
        self._eof = False
        self._is_ending = False
        self._ended_by = 0
        self._kill_at = math.inf

    def run(self) -> int:
        """Serve until there are no requests any more; return the signal that has ended us, or 0."""
        limit.use_files(4096)
        with signals(FORWARDED) as arrived:
            try:
                while self._goes_on():
                    self._round(arrived)
                self._is_ending = True
                for run in reversed(list(self._at_end.values())):
                    if run.after is not None and not self._succeeded[run.after]:
                        self._answers.put({"id": run.id, "kept": False})
                        continue
                    self._begin(run)
                    while self._jobs or (self._answers.waiting and not self._ended_by):
                        self._round(arrived)
                self._flush()
            finally:
                self._close()
        if self._error is not None:
            raise DummError(f"cannot write output: {self._error.strerror}")
        return self._ended_by

    def _flush(self) -> None:
        """Write the last answers, as long as somebody takes them."""
        while self._answers.waiting and not self._answers.is_deaf:
            poll = select.poll()
            for fd, wanted in self._answers.wants().items():
                poll.register(fd, wanted)
            events = dict(poll.poll(_LAST * 1000))
            if not events:
                return
            self._write(events)

    def _goes_on(self) -> bool:
        over = self._eof or self._ended_by
        unwritten = self._answers.waiting and not self._ended_by
        return not over or bool(self._jobs or self._queue or unwritten)

    def _close(self) -> None:
        for job in self._jobs.values():
            job.close()
        self._guests.close()
        self._answers.close()

    # ---- a round ----

    def _round(self, arrived: Signals) -> None:
        poll = select.poll()
        poll.register(arrived.fd, select.POLLIN)
        if not self._answers.is_deaf:
            poll.register(1, 0)  # says if there is no reader any more
        if self._may_read():
            poll.register(0, select.POLLIN)
        until = min(self._guests.until, self._kill_at)
        owners: dict[int, Job] = {}
        for job in self._jobs.values():
            until = min(until, job.until())
            for fd, wanted in job.wants().items():
                owners[fd] = job
                poll.register(fd, wanted)
        for fd, wanted in self._answers.wants().items():
            poll.register(fd, wanted)
        if self._current is None and self._queue:
            until = 0.0
        events = dict(poll.poll(None if until == math.inf else steps.left_ms(until)))
        self._write(events)
        for number in arrived.take(events):
            self._end(number)
        if events.get(0, 0) and self._may_read():
            self._read()
        self._serve(events, owners)
        self._advance()
        self._write(None)
        self._guests.expire()

    def _may_read(self) -> bool:
        if self._eof or self._ended_by or self._is_ending:
            return False
        return self._queued <= _QUEUE_MAX and not self._answers.are_full

    def _serve(self, events: dict[int, int], owners: dict[int, Job]) -> None:
        events_of: dict[Job, dict[int, int]] = {}
        for fd in events.keys() & owners.keys():
            events_of.setdefault(owners[fd], {})[fd] = events[fd]
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job in events_of or now >= job.until():
                job.step(events_of.get(job, {}))
            if now >= self._kill_at:
                self._interrupt(job, signal.SIGKILL)
            self._settle(job)
        if now >= self._kill_at:
            self._kill_at = now + 1.0

    def _write(self, events: dict[int, int] | None) -> None:
        lost = select.POLLERR | select.POLLHUP | select.POLLNVAL
        gone = bool(events and events.get(1, 0) & lost)
        try:
            self._answers.write(events)
        except OSError as e:
            gone = True
            self._error = None if isinstance(e, BrokenPipeError) else e
        if gone and not self._answers.is_deaf:
            self._answers.silence()
            self._end(signal.SIGPIPE)

    def _end(self, number: int) -> None:
        """A signal ends us: what is under way is ended, and what waits is not begun."""
        if self._ended_by:
            for job in self._jobs.values():  # again: it takes too long for somebody
                if self._is_ending or job.run.id in self._succeeded:
                    job.signal(signal.SIGTERM)
            return
        self._ended_by = number
        for run, _ in self._queue.values():
            self._answers.put(ended(run, 128 + number, 0.0, [], []))
        self._queue.clear()
        if not self._is_ending:
            self._kill_at = time.monotonic() + _GRACE
            for job in list(self._jobs.values()):
                self._interrupt(job, signal.SIGTERM)
                self._settle(job)

    def _interrupt(self, job: Job, number: int) -> None:
        """End a request, unless it makes what another one undoes at the end: half of that could not
        be undone."""
        if job.run.id not in self._succeeded:
            job.signal(number)

    # ---- requests ----

    def _read(self) -> None:
        piece = os.read(0, _PIECE)
        if not piece:
            self._eof = True
            if self._text:
                self._take(bytes(self._text))
            for job in self._jobs.values():
                if job.inlet is not None:
                    with contextlib.suppress(DummError):
                        job.put(None)
            return
        self._text += piece
        if b"\n" not in piece:
            if len(self._text) > requests.LINE_MAX:
                self._skips = True
                self._text.clear()
            return
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            self._take(bytes(line))

    def _take(self, line: bytes) -> None:
        if self._skips or len(line) > requests.LINE_MAX:
            self._skips = False
            self._refuse(None, f"a line has more than {requests.LINE_MAX >> 20} MiB")
            return
        if not line.strip():
            return
        try:
            self._handle(requests.parse(line), len(line))
        except Refused as e:
            self._refuse(e.id, str(e))

    def _refuse(self, request_id: Id | None, text: str) -> None:
        self._answers.put({"id": request_id, "status": 2, "error": text})

    def _handle(self, request: requests.Request, size: int) -> None:
        if isinstance(request, Run):
            self._handle_run(request, size)
        elif isinstance(request, Input):
            self._handle_input(request)
        elif isinstance(request, Signal):
            self._handle_signal(request)
        elif self._at_end.pop(request.id, None) is None:
            raise Refused(request.id, "nothing with this id is kept for the end")
        else:
            self._answers.put({"id": request.id, "kept": False})

    def _handle_run(self, run: Run, size: int) -> None:
        if run.id in self._jobs or run.id in self._at_end or run.id in self._queue:
            raise Refused(run.id, "this id is in use")
        if run.at_end:
            self._at_end[run.id] = run
            if run.after is not None:
                self._succeeded.setdefault(run.after, False)
            self._answers.put({"id": run.id, "kept": True})
        elif run.parallel or (self._current is None and not self._queue):
            if not run.parallel:
                self._current = run.id
            self._begin(run)
        else:
            self._queue[run.id] = run, size
            self._queued += size

    def _handle_input(self, request: Input) -> None:
        job = self._jobs.get(request.id)
        if job is None:
            why = "has not begun" if request.id in self._queue else "is not under way"
            raise Refused(request.id, f"this request {why}")
        try:
            job.put(request.data)
        except DummError as e:
            raise Refused(request.id, str(e)) from None

    def _handle_signal(self, request: Signal) -> None:
        if job := self._jobs.get(request.id):
            job.signal(request.number)
            self._settle(job)
            return
        if request.id not in self._queue:
            raise Refused(request.id, "this request is not under way")
        run, size = self._queue.pop(request.id)
        self._queued -= size
        self._answers.put(ended(run, 128 + request.number, 0.0, [], []))

    # ---- jobs ----

    def _begin(self, run: Run) -> None:
        """Begin a request, or answer why that cannot be done."""
        began = time.monotonic()
        outputs: list[Output] = []
        stdin, inlet = None, None
        try:
            for key, target in (("stdout", run.stdout), ("stderr", run.stderr)):
                outputs.append(streams.output(target, self._answers, run.id, key))
            stdin, inlet = streams.source(run.stdin)
            if inlet is not None and self._eof:
                inlet.put(None)
        except (DummError, OSError) as e:
            error = e if isinstance(e, DummError) else DummError(f"cannot begin: {e.strerror}")
            failures = [Failure(None, str(error), error.hint)]
            seconds = time.monotonic() - began
            self._answers.put(ended(run, error.exit_code, seconds, failures, outputs))
            self._over(run.id)
            return
        self._jobs[run.id] = job = self._job(run, inlet, outputs, stdin)
        self._settle(job)

    def _job(
        self, run: Run, inlet: streams.Inlet | None, outputs: list[Output], stdin: int | None
    ) -> Job:
        out, err = outputs
        found = self._find(run.words)
        if found is None:
            return ChildJob(run, self._answers, inlet, out, err, stdin, self._act)
        name, program = found
        return GuestJob(run, self._answers, inlet, out, err, self._guests, name, program, stdin)

    def _settle(self, job: Job) -> None:
        """Answer, if it has ended."""
        if job.status is None or self._jobs.get(job.run.id) is not job:
            return
        del self._jobs[job.run.id]
        if job.run.id in self._succeeded and job.status == 0:
            self._succeeded[job.run.id] = True
        job.close()
        self._answers.put(job.answer())
        self._over(job.run.id)

    def _over(self, request_id: Id) -> None:
        """A request has been answered: the next one may begin."""
        if self._current == request_id:
            self._current = None

    def _advance(self) -> None:
        """Begin the next requests; some end at once."""
        for _ in range(_AT_ONCE):
            if self._current is not None or not self._queue or self._answers.are_full:
                return
            _, (run, size) = self._queue.popitem(last=False)
            self._queued -= size
            self._current = run.id
            self._begin(run)
