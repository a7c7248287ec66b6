"""A request to a session that is under way."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from dumm_tools.api import answers
from dumm_tools.api.answers import Answer
from dumm_tools.api.process import Message, Process, Unread
from dumm_tools.api.streams import FORKED
from dumm_tools.errors import DummError, SessionEnded

#: Bytes of input that may be on the way to a program.
AHEAD = 1 << 20
#: Takes the pieces of a stream as they come, and b"" at its end.
Sink = Callable[[bytes], None]


class Running:
    """A request that is under way. `future` gets its answer; if it is cancelled, the request is
    ended by `signal_at_end`."""

    def __init__(
        self,
        process: Process,
        sinks: dict[str, Sink],
        signal_at_end: str,
        again: Callable[[Process], Process] | None = None,
    ) -> None:
        """`again` starts another session, for a request that this one does not read any more."""
        self.future: Future[Answer] = Future()
        self._outcome: Answer | Exception | None = None
        self._process, self._sinks, self._signal = process, sinks, signal_at_end
        self._number = 0
        self._again, self._message = again, Message()
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}
        self._error: Exception | None = None  # of a sink
        #: Bytes of input that were sent, and that the program has got.
        self._sent = self._taken = 0
        self._moved = threading.Condition()
        self._feeding = threading.Lock()  # keeps inputs in their order
        _running.add(self)

    def begin(self, message: Message, number: int | None = None) -> None:
        """Send it, perhaps with an id that was reserved. SessionEnded."""
        self._message = message
        if message.get("stdin") == {"stream": True}:
            self._again = None  # what is written meanwhile would be lost
        try:
            self._send(self._process, number)
        except Unread:
            if self._again is None:
                raise
            self._send_again()
        self.future.add_done_callback(self._done)

    def _send(self, process: Process, number: int | None = None) -> None:
        with self._moved:
            self._process = process
        number = process.request(self._message, self._receive, number)
        with self._moved:
            if self._process is process:  # otherwise, it has ended already
                self._number = number

    def _send_again(self) -> None:
        """Once. SessionEnded."""
        assert self._again is not None
        again, self._again = self._again, None
        self._send(again(self._process))

    def wait(self) -> Answer:
        """Its answer. If this is interrupted (Ctrl-C), the request is ended."""
        try:
            return self.future.result()
        except DummError:
            raise
        except BaseException:
            with contextlib.suppress(SessionEnded):
                self.signal(self._signal)
            raise

    def signal(self, name: str) -> None:
        """Send a signal: INT, TERM... SessionEnded."""
        if not self.future.done() or self.future.cancelled():
            self._process.send({"id": self._number, "signal": name})

    def write(self, data: bytes) -> None:
        """Send input, as soon as the program has read enough of what was sent before; nothing if it
        has ended. SessionEnded."""
        import base64

        with self._feeding:
            with self._moved:
                while self._sent - self._taken > AHEAD and not self.future.done():
                    self._moved.wait()
                if self.future.done():
                    return
                self._sent += len(data)
                self._again = None  # it would not have this input
            coded = base64.b64encode(data).decode()
            self._process.send({"id": self._number, "input_base64": coded})

    def end_input(self) -> None:
        """End the input. SessionEnded."""
        self._again = None
        if not self.future.done():
            self._process.send({"id": self._number, "input_end": True})

    def _receive(self, message: Message | None) -> bool:
        if message is None or "unread" in message:
            if message is not None and self._again is not None:
                with contextlib.suppress(DummError):
                    self._send_again()
                    return False
            self._settle(self._process.end())
            return False
        if (taken := message.get("taken")) is not None:
            with self._moved:
                self._taken = taken
                self._moved.notify_all()
            return True
        if "status" not in message:
            self._take(message)
            return True
        out, err = (bytes(self._kept[stream]) for stream in ("stdout", "stderr"))
        self._settle(self._error or answers.answer(message, out, err))
        return False

    def _take(self, message: Message) -> None:
        """Pass on what a program has printed, unless that has failed: the program is killed."""
        if self._error is not None:
            return
        try:
            for stream, kept in self._kept.items():
                data = answers.piece(message, stream)
                if data and stream in self._sinks:
                    self._sinks[stream](data)
                elif data:
                    kept += data
        except (DummError, MemoryError) as e:
            self._error = e
            # In another thread: this one takes the answers, and must not wait for the session.
            threading.Thread(target=self._kill, name="dumm-kill", daemon=True).start()

    def _kill(self) -> None:
        with contextlib.suppress(SessionEnded):
            self.signal("KILL")

    def _settle(self, outcome: Answer | Exception) -> None:
        self._outcome = outcome
        self._message = {}
        for sink in self._sinks.values():
            sink(b"")
        with contextlib.suppress(InvalidStateError):  # cancelled
            _settle(self.future, outcome)
        with self._moved:
            self._moved.notify_all()

    def abandon(self) -> None:
        """In a child process that was forked: it has ended, or is the parent's. No lock can be
        used, since a thread that is not there may hold it."""
        self._moved, self._feeding = threading.Condition(), threading.Lock()
        self.future = Future()
        _settle(self.future, self._outcome or SessionEnded(FORKED))

    def _done(self, future: Future[Answer]) -> None:
        if future.cancelled():
            with contextlib.suppress(SessionEnded):
                self.signal(self._signal)


def _settle(future: Future[Answer], outcome: Answer | Exception) -> None:
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


_running: weakref.WeakSet[Running] = weakref.WeakSet()


def _forked() -> None:
    for running in list(_running):
        running.abandon()


os.register_at_fork(after_in_child=_forked)
