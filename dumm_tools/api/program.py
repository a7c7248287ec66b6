"""A program in a guest that runs while the caller does other things."""

from __future__ import annotations

import contextlib
import signal as signals
from concurrent.futures import TimeoutError as NotYet
from types import TracebackType
from typing import AnyStr, Generic, NoReturn, Self

from dumm_tools.api import answers
from dumm_tools.api.answers import Completed
from dumm_tools.api.part import Part
from dumm_tools.api.running import Running
from dumm_tools.api.streams import Output
from dumm_tools.errors import Conflict, DummError, SessionEnded, TimedOut

#: Seconds for a program to end after SIGTERM.
GRACE = 5.0
#: The largest piece of input in one message.
_PIECE = 1 << 18


class Input(Generic[AnyStr]):
    """The standard input of a program."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._closed = False

    def write(self, data: AnyStr) -> None:
        """Send data. Conflict if the input is closed, or the program has ended."""
        raw = data.encode() if isinstance(data, str) else bytes(data)
        if self._closed or self._running.future.done():
            raise Conflict("the program has ended" if not self._closed else "the input is closed")
        for at in range(0, len(raw), _PIECE):
            self._running.write(raw[at : at + _PIECE])

    def close(self) -> None:
        """End the input: the program reads to its end."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(SessionEnded):
                self._running.end_input()


class Program(Generic[AnyStr]):
    """A program that was started by `Guest.popen`: a context manager that ends it, if it still
    runs, by SIGTERM and after 5 seconds by SIGKILL. It ends with the lab, too.

    `stdin` has `write` and `close`. `stdout` and `stderr` are iterated by lines, or read.

    >>> with alice.popen(["cat"]) as cat:
    ...     cat.stdin.write("over\\n")
    ...     cat.stdout.readline()
    'over\\n'
    """

    def __init__(
        self,
        running: Running,
        guest: Part,
        command: list[str],
        stdout: Output[AnyStr],
        stderr: Output[AnyStr],
    ) -> None:
        # The guest's session lasts as long as this object, at least.
        self._running, self._guest, self._command = running, guest, command
        self.stdin: Input[AnyStr] = Input(running)
        self.stdout: Output[AnyStr] = stdout
        self.stderr: Output[AnyStr] = stderr

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Program cannot be sent to another process")

    def poll(self) -> int | None:
        """Its exit status if it has ended, otherwise None. ExecFailed, TimedOut as `wait`."""
        return self.wait() if self._running.future.done() else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for it to end, at most `timeout` seconds; return its exit status, 128 + n if signal
        n has killed it. TimedOut if it still runs, or has run into its own timeout; ExecFailed if
        it could not be run."""
        try:
            answer = self._running.future.result(timeout)
        except NotYet:
            raise TimedOut(f"guest '{self._guest.name}': '{self._command[0]}' still runs") from None
        return answers.outcome(answer, text=False).returncode

    def completed(self) -> Completed[AnyStr]:
        """Wait for it to end; its exit status with the rest of its outputs. Errors as `wait`."""
        status = self.wait()
        seconds = self._running.future.result().seconds
        return Completed(status, self.stdout.read(), self.stderr.read(), seconds)

    def send_signal(self, number: int) -> None:
        """Send it a signal, such as `signal.SIGHUP`; nothing if it has ended."""
        if not self._running.future.done():
            with contextlib.suppress(SessionEnded):
                self._running.signal(signals.Signals(number).name.removeprefix("SIG"))

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signals.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signals.SIGKILL)

    def end(self) -> None:
        """End it by SIGTERM and after 5 seconds by SIGKILL, and wait for that. Its status is in
        `wait`."""
        for number in (signals.SIGTERM, signals.SIGKILL):
            self.send_signal(number)
            try:
                self._running.future.exception(GRACE)
                break
            except NotYet:
                continue
        self.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(DummError):
            self.end()
