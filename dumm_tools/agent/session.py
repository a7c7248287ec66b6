"""A program in the guest that uses our stdin, stdout, stderr and signals as its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator, Sequence

from dumm_tools.agent.client import Line
from dumm_tools.agent.exchange import Exchange
from dumm_tools.agent.program import Program
from dumm_tools.agent.sink import Streams
from dumm_tools.agent.steps import Wants, left_ms
from dumm_tools.errors import ExecFailed
from dumm_tools.linux import tty

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Signals:
    """The signals that have arrived, and a descriptor that is readable when there are some."""

    def __init__(self, fd: int, caught: list[int]) -> None:
        self.fd = fd
        self._caught = caught

    def take(self, events: Wants) -> Iterator[int]:
        """Those that have arrived, except for SIGPIPE."""
        if self.fd in events:
            os.read(self.fd, 512)
        while self._caught:
            number = self._caught.pop(0)
            if number != signal.SIGPIPE:
                yield number


@contextlib.contextmanager
def signals(numbers: Sequence[int]) -> Iterator[Signals]:
    """Collect these signals inside the block, and SIGPIPE."""
    caught: list[int] = []
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    wanted = [*numbers, signal.SIGPIPE]
    previous = {n: signal.signal(n, lambda n, _: caught.append(n)) for n in wanted}
    old = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield Signals(read, caught)
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


class Session:
    """Runs one program on one line until it ends."""

    def __init__(self, line: Line, directory: str, program: Program, deadline: float) -> None:
        self._program = program
        self._streams = streams = Streams()
        out, err = streams.out.backlog.extend, streams.err.backlog.extend
        self._exchange = Exchange(line, directory, program, deadline, streams, out, err)

    def run(self) -> int:
        """The program's exit status: 0-255, or 128 + n if a signal killed it. ExecFailed if it
        could not be started, TimedOut, Ended, BrokenPipeError if our own reader went away."""
        resize = [signal.SIGWINCH] if self._program.terminal else []
        with signals([*FORWARDED, *resize]) as arrived, tty.raw(0, self._program.terminal):
            self._exchange.begin()
            while not self._exchange.is_over or self._streams.waiting:
                self._step(arrived)
        return self._exchange.status()

    def _step(self, arrived: Signals) -> None:
        exchange, streams = self._exchange, self._streams
        poll = select.poll()
        poll.register(arrived.fd, select.POLLIN)
        for fd, wanted in {**exchange.wants(), **streams.wants()}.items():
            poll.register(fd, wanted)
        events = dict(poll.poll(left_ms(exchange.until())))
        for number in arrived.take(events):
            if number == signal.SIGWINCH:
                exchange.resize()
            else:
                exchange.pass_on(number)
        try:
            streams.write(events)
        except OSError as e:
            exchange.hang_up()
            if isinstance(e, BrokenPipeError):
                raise
            raise ExecFailed(f"cannot write output: {e.strerror}") from None
        exchange.step(events)

    def clean(self) -> None:
        """Remove the files of this session and close its descriptors."""
        self._streams.close()
        self._exchange.clean()
