"""Requests to a lab's session, which is started for the first one, and again if it has ended.

A process that was forked has a session of its own: the parent's answers only the parent.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from dumm_tools.api import answers
from dumm_tools.api.answers import Answer
from dumm_tools.api.process import Message, Process
from dumm_tools.api.running import Running, Sink
from dumm_tools.errors import SessionEnded
from dumm_tools.model import Record

#: Seconds for a command that makes something to undo that after Ctrl-C.
_UNDOING = 10.0
#: Outputs come in pieces, since an answer has room for 16 MiB.
_STREAMS: dict[str, Any] = {"stdout": {"stream": True}, "stderr": {"stream": True}}


class _Last(Record):
    """The request for the end of a session: its id, 0 for none, and its answer."""

    number: int = 0
    answer: Answer | None = None


class Channel:
    """The session of the lab in a directory, if there is one."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._process: Process | None = None
        #: The command that the session runs at its end.
        self._last_words: list[str] | None = None
        self._last = _Last()
        self._finalizer: weakref.finalize[..., Channel] | None = None
        _channels.add(self)

    def __reduce__(self) -> tuple[type[Channel], tuple[str]]:
        return type(self), (self.directory,)

    def begin(
        self,
        words: Sequence[str],
        *,
        sinks: dict[str, Sink] | None = None,
        signal_at_end: str = "INT",
        **more: Any,
    ) -> Running:
        """Start a command, beside others. `more` is part of the request. SessionEnded."""
        running = Running(self._started(), sinks or {}, signal_at_end, _again(self))
        running.begin({"run": list(words), "parallel": True, **_STREAMS, **more})
        return running

    def call(self, words: Sequence[str], *, ok: Sequence[int] = (0,), **more: Any) -> Answer:
        """Run a command to its end. Its error, unless its status is one of `ok`."""
        answer = self.begin(words, **more).wait()
        error = answers.failure(answer)
        if error is not None and (answer.status not in ok or answer.faults):
            raise error
        return answer

    def make(self, words: Sequence[str], undo: list[str]) -> None:
        """Run a command to its end and, if it succeeds, have the session run `undo` at its own end,
        however that comes: also if this process does not live to see the answer. Its error."""
        process = self._started()
        number = process.reserve()
        self._keep(process, undo, after=number)
        running = Running(process, {}, "INT")
        running.begin({"run": list(words), "parallel": True, **_STREAMS}, number)
        try:
            answer = running.wait()
        except BaseException:
            with contextlib.suppress(TimeoutError):
                running.future.exception(_UNDOING)
            raise
        if (error := answers.failure(answer)) is not None:
            raise error
        self._last_words = undo

    def forget(self) -> None:
        """Have the session run nothing at its end."""
        with self._lock:
            self._last_words = None
            process, number, self._last.number = self._process, self._last.number, 0
        if process is not None and number:
            with contextlib.suppress(SessionEnded):
                process.send({"id": number, "forget": True})

    def close(self) -> None:
        """End the session, with everything that is under way in it. The error of what it had to do
        at its end; if it has not lived to do that, another one does."""
        answer, words = self._end()
        if words is not None and answer is None:
            answer = self.begin(words).wait()
            self._end()
        if words is not None and answer is not None:
            error = answers.failure(answer)
            if error is not None:
                raise error

    def _end(self) -> tuple[Answer | None, list[str] | None]:
        with self._lock:
            process, self._process = self._process, None
            last, self._last = self._last, _Last()
            words, self._last_words = self._last_words, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if process is not None:
            process.close(last.number)
        return last.answer, words

    def abandon(self) -> None:
        """In a child process that was forked: forget the parent's session."""
        self._lock = threading.Lock()
        self._process, self._last_words, self._last = None, None, _Last()
        if self._finalizer is not None:
            self._finalizer.detach()

    def again(self, dead: Process) -> Process:
        """Another session, unless this channel was closed. SessionEnded."""
        dead.join()
        if self._process is None:
            raise dead.end()
        return self._started()

    def _started(self) -> Process:
        with self._lock:
            dead = self._process
            if dead is not None and not dead.is_over:
                return dead
            if self._finalizer is not None:
                self._finalizer.detach()
            process = self._process = Process(self.directory)
            self._last = _Last()
            # Also when this process exits.
            self._finalizer = weakref.finalize(self, _finish, process, self._last)
        if dead is not None:
            # Without the lock: this waits for the thread that reads its answers, which may be about
            # to start a session for a request that it has not read.
            dead.close()
        if self._last_words is not None:
            self._keep(process, self._last_words)
        return process

    def _keep(self, process: Process, words: list[str], **more: Any) -> None:
        kept: Future[None] = Future()
        last = self._last

        def receive(message: Message | None) -> bool:
            if message is not None and "status" in message:
                last.answer = answers.answer(message, b"", b"")
            if not kept.done():
                if message is not None and message.get("kept"):
                    kept.set_result(None)
                else:
                    kept.set_exception(process.end())
            return message is not None and "status" not in message and message.get("kept") is True

        last.number = process.request({"run": words, "at_end": True, **more}, receive)
        kept.result()


def _again(channel: Channel) -> Callable[[Process], Process]:
    """A function that starts another session for a request, which must not keep the channel."""
    reference = weakref.ref(channel)

    def again(dead: Process) -> Process:
        if (found := reference()) is None:
            raise dead.end()
        return found.again(dead)

    return again


def _finish(process: Process, last: _Last) -> None:
    process.close(last.number)
    error = answers.failure(last.answer) if last.answer is not None else None
    if error is not None:
        raise error  # for sys.unraisablehook


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _forked() -> None:
    for channel in list(_channels):
        channel.abandon()


os.register_at_fork(after_in_child=_forked)
