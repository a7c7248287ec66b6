"""Any other command of the suite, in a child process of the session."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from dumm_tools.agent.session import FORWARDED
from dumm_tools.agent.steps import Wants
from dumm_tools.errors import DummError, TimedOut
from dumm_tools.session.answers import Answers, Failure, InFile, InPieces, Output
from dumm_tools.session.job import Job
from dumm_tools.session.requests import Run
from dumm_tools.session.streams import Inlet

#: Seconds from SIGTERM after a timeout to SIGKILL.
_GRACE = 1.0
_PIECE = 1 << 16
#: Most that is read of an output before other jobs have their turn (bytes).
_TURN = 1 << 20
#: Most of what a child tells of its errors (bytes).
_TOLD_MAX = 1 << 20


class Begun(NamedTuple):
    """The request of a child, and its descriptors."""

    run: Run
    stdin: int
    stdout: int
    stderr: int
    told: int  # takes failures, as JSON on a line each
    mask: set[int]  # of signals, for when it is ready for them


#: Become the command; called in the child.
Act = Callable[[Begun], NoReturn]


class ChildJob(Job):
    """Runs a command in a child."""

    def __init__(
        self,
        run: Run,
        answers: Answers,
        inlet: Inlet | None,
        out: Output,
        err: Output,
        stdin: int | None,
        act: Act,
    ) -> None:
        super().__init__(run, answers, inlet, out, err)
        self._sinks: dict[int, Output] = {}
        self._told = -1
        self._text = bytearray()
        self._killed = False
        self._code: int | None = None
        self._error: DummError | None = None
        self._pid = self._pidfd = -1
        self._start(stdin, act)

    def _start(self, stdin: int | None, act: Act) -> None:
        theirs: list[int] = []
        try:
            if stdin is None:
                stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            theirs.append(stdin)
            theirs += [self._pipe(sink) for sink in (self.out, self.err)]
            self._told, told = os.pipe2(os.O_CLOEXEC)
            theirs.append(told)
            os.set_blocking(self._told, False)
            # One that arrives before the child has its own handlers waits for these.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
            try:
                self._pid = os.fork()
                if self._pid == 0:
                    os.setpgid(0, 0)
                    act(Begun(self.run, theirs[0], theirs[1], theirs[2], theirs[3], mask))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            with contextlib.suppress(OSError):  # it has done so itself, and perhaps ended
                os.setpgid(self._pid, 0)
            self._pidfd = os.pidfd_open(self._pid)
        except OSError as e:
            limit = {errno.EAGAIN: "processes is too low: ulimit -u"}
            limit[errno.EMFILE] = "open files is too low: ulimit -n"
            hint = f"the limit of {limit[e.errno]}" if e.errno in limit else None
            self._fail(DummError(f"cannot start a process: {e.strerror}", hint=hint))
        finally:
            for fd in theirs:
                if fd != getattr(self.out, "fd", -1) and fd != getattr(self.err, "fd", -1):
                    os.close(fd)

    def _pipe(self, sink: Output) -> int:
        """The descriptor that a child writes an output to."""
        if isinstance(sink, InFile):
            return sink.fd
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        self._sinks[read] = sink
        return write

    # ---- the loop's ----

    def _wants(self) -> Wants:
        wants = {} if self._code is not None or self._pidfd < 0 else {self._pidfd: select.POLLIN}
        full = self.answers.are_full
        for fd, sink in self._sinks.items():
            if not (full and isinstance(sink, InPieces)):
                wants[fd] = select.POLLIN
        return {**wants, self._told: select.POLLIN} if self._told >= 0 else wants

    def until(self) -> float:
        if self._code is None:
            return self.deadline
        # The rest may not be an event, if others have the other end of a pipe.
        return math.inf if self.answers.are_full else 0.0

    def _step(self, events: Wants) -> None:
        if self._told in events:
            self._hear()
        for fd in [fd for fd in self._sinks if fd in events]:
            self._read(fd)
        if self._pidfd in events and self._code is None:
            _, status = os.waitpid(self._pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        if self._code is not None:
            self._finish()
        elif time.monotonic() >= self.deadline:
            self._end_late()

    def _read(self, fd: int) -> bool:
        """Pass on what has come; whether it was all of it."""
        for _ in range(_TURN // _PIECE):
            try:
                piece = os.read(fd, _PIECE)
            except BlockingIOError:
                return True
            if not piece:
                os.close(fd)
                del self._sinks[fd]
                return True
            if self._error is None:
                try:
                    self._sinks[fd](piece)
                except DummError as e:
                    self._error = e
                    self._end()
            if self.answers.are_full and isinstance(self._sinks[fd], InPieces):
                return False
        return False

    def _hear(self) -> None:
        """Take what the child tells of its errors."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._told, _PIECE):
                if len(self._text) < _TOLD_MAX:
                    self._text += piece
            os.close(self._told)
            self._told = -1

    def _finish(self) -> None:
        """After its end: take what it has left, without waiting for what its own children may
        still print."""
        if self._told >= 0:
            self._hear()
        if not all([self._read(fd) for fd in list(self._sinks)]):
            return
        for line in self._text.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                self.failures.append(Failure(*json.loads(line)))
        self._text.clear()
        if self._error is not None:
            self._fail(self._error)
        elif self._killed:
            assert self.run.timeout is not None
            words = " ".join(self.run.words[:2])
            self._fail(TimedOut(f"'{words}' ran longer than {self.run.timeout:g} s"))
        else:
            code = self._code or 0
            self.status = code if code >= 0 else 128 - code

    def _end_late(self) -> None:
        self._send(signal.SIGKILL if self._killed else signal.SIGTERM)
        self._killed = True
        self.deadline = time.monotonic() + _GRACE

    def _end(self) -> None:
        self._send(signal.SIGTERM)
        self.deadline = min(self.deadline, time.monotonic() + _GRACE)

    def _send(self, number: int) -> None:
        """Send a signal to the child and to what it runs, as a terminal does."""
        if self._pid > 0 and self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def signal(self, number: int) -> None:
        """Pass a signal on to the child."""
        self._send(number)

    def _fail(self, error: DummError) -> None:
        self.status = error.exit_code
        self.failures.append(Failure(None, str(error), error.hint))
        with contextlib.suppress(DummError):
            self.err(f"dumm-console: {error}\n".encode(errors="surrogateescape"))

    def close(self) -> None:
        super().close()
        if self._code is None and self._pid > 0:
            self._send(signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._code = -signal.SIGKILL
        for fd in (*self._sinks, self._told, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._sinks, self._told, self._pidfd = {}, -1, -1
