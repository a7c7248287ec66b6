"""A program on a line: its streams, its time, and signals for it. A loop of the caller's polls."""

from __future__ import annotations

import math
import os
import signal
import struct
import time
from collections.abc import Callable

from dumm_tools.agent import protocol
from dumm_tools.agent.client import Line, LineLost, Rebooted
from dumm_tools.agent.feed import Feed
from dumm_tools.agent.program import Program, refusal, request
from dumm_tools.agent.sink import Backlog
from dumm_tools.agent.steps import Wants
from dumm_tools.errors import ExecFailed, TimedOut
from dumm_tools.linux import tty
from dumm_tools.waiting import Ended

#: Interval of checks whether the guest has rebooted while nothing happens (seconds).
LOOK = 1.0
#: Seconds from SIGTERM after --timeout, or from a signal without effect, to our own exit; after
#: half of it a program that has exceeded its timeout gets SIGKILL.
GRACE = 2.0

Output = Callable[[bytes], object]


def boot_mark(directory: str) -> int:
    """A value that changes when the guest with this directory boots: its agent writes the file
    anew."""
    try:
        return os.lstat(os.path.join(directory, "uml", "ready")).st_mtime_ns
    except OSError:
        return 0


class Exchange:
    """Runs one program on one line until it ends. Its output is passed to `out` and `err`,
    which may put it into `streams`; its input is the descriptor `stdin`, or empty."""

    def __init__(
        self,
        line: Line,
        directory: str,
        program: Program,
        deadline: float,
        streams: Backlog,
        out: Output,
        err: Output,
        stdin: int | None = 0,
    ) -> None:
        self._line = line
        self._directory = directory
        self._program = program
        self._in = Feed(line, directory, program.terminal, stdin)
        self._streams, self._out, self._err = streams, out, err
        self._status: int | None = None
        self._deadline = deadline
        self._overdue = 0
        # A signal that ends us unless the guest accepts it: its position in the data, deadline.
        self._signalled, self._signal_at, self._signal_until = 0, 0, math.inf
        self._boot, self._rebooted = boot_mark(self._directory), False
        self._asked_at, self._has_output = 0, False

    def begin(self) -> None:
        """Have the program started; ExecFailed if that cannot even be asked for."""
        rows, cols = tty.size()
        try:
            self._line.queue(protocol.RUN, request(self._program, rows, cols))
        except OSError as e:
            what = self._program.argv[0]
            raise ExecFailed(f"cannot run '{what}': {e.strerror}", 126) from None
        self._in.begin()
        self._line.write()

    @property
    def is_over(self) -> bool:
        """Whether the program, or its guest, has ended."""
        return self._status is not None or self._rebooted

    def ask(self) -> None:
        """Have the guest answer, whatever the program does: signal 0 is none."""
        self._line.send(protocol.SIGNAL, bytes([0]))
        self._asked_at = self._line.sent + len(self._line.outbox)

    @property
    def is_asked(self) -> bool:
        """Whether that was done."""
        return self._asked_at > 0

    @property
    def is_answered(self) -> bool:
        """Whether the guest has answered, or the program has printed something."""
        return self._has_output or 0 < self._asked_at <= self._line.taken

    @property
    def is_deaf(self) -> bool:
        """Whether the program reads no more input."""
        return self._in.is_ended

    @property
    def is_clean(self) -> bool:
        """Whether the program has ended, and nothing is left on the line for another one."""
        return self._status is not None and not self._line.outbox and self._in.is_taken

    def status(self) -> int:
        """The program's exit status: 0-255, or 128 + n if a signal killed it. TimedOut,
        Rebooted."""
        if self._status is None:
            raise Rebooted
        if self._overdue:
            raise self._too_long()
        return protocol.exit_status(self._status)

    def wants(self) -> Wants:
        """The events to poll for."""
        if self.is_over:
            return {}
        return {**self._line.wants(read=not self._streams.are_full), **self._in.wants()}

    def until(self) -> float:
        """When to call `step` if there are no events."""
        return min(self._deadline, self._signal_until, time.monotonic() + LOOK)

    def step(self, events: Wants) -> None:
        """Go on after a poll. ExecFailed if the program could not be started, TimedOut, Ended,
        LineLost, BadFrame."""
        if not events and boot_mark(self._directory) != self._boot:
            self._rebooted = True  # in the same process
        self._check_time()
        if self.is_over:
            return
        self._line.write()
        if self._line.readable(events):
            self._line.read()
            try:
                self._take_frames()
            except Rebooted:
                self._rebooted = True
        elif self._line.pidfd in events:
            raise LineLost
        self._in.read(events)
        if self._status is None:
            self._in.send()

    # ---- time and signals ----

    def _check_time(self) -> None:
        now = time.monotonic()
        if now >= self._signal_until:
            self._signal_until = math.inf
            # Once the agent has delivered it, the program may handle it, as long as we can be told.
            if self._status is None and self._line.taken < self._signal_at:
                raise Ended(self._signalled)
            if self._streams.are_full or self._status is not None:
                self._signal_until = self._streams.moved_at + GRACE
                if now >= self._signal_until:
                    raise Ended(self._signalled)
        if now >= self._deadline:
            if self._status is not None or self._overdue > 1:
                raise self._too_long()  # no reader for our output, or no answer from the guest
            number = signal.SIGKILL if self._overdue else signal.SIGTERM
            self._line.send(protocol.SIGNAL, bytes([number]))
            self._overdue += 1
            self._deadline = now + GRACE / 2

    def _too_long(self) -> TimedOut:
        return TimedOut(f"'{self._program.argv[0]}' ran longer than {self._program.timeout:g} s")

    def pass_on(self, number: int) -> None:
        """Send the program a signal, which ends us if it cannot be delivered."""
        if self._status is not None:
            raise Ended(number)
        self._line.send(protocol.SIGNAL, bytes([number]))
        if self._signal_until == math.inf:
            self._signalled = number
            self._signal_at = self._line.sent + len(self._line.outbox)
            self._signal_until = time.monotonic() + GRACE

    def resize(self) -> None:
        """Tell the program the size of our terminal."""
        self._line.send(protocol.RESIZE, struct.pack("<HH", *tty.size()))

    def hang_up(self) -> None:
        """Tell the program that nobody reads its output, as in a local pipeline."""
        for number in (signal.SIGPIPE, signal.SIGHUP):
            self._line.send(protocol.SIGNAL, bytes([number]))

    # ---- output ----

    def _take_frames(self) -> None:
        for kind, number, data in self._line.frames():
            if kind in (protocol.OUTPUT, protocol.ERRORS):
                self._has_output = True
                (self._out if kind == protocol.OUTPUT else self._err)(data)
            elif kind == protocol.TAKEN:
                self._in.taken(number)
            elif kind == protocol.BULK_TAKEN:
                self._in.bulk_taken(number)
            elif kind == protocol.DEAF:
                self._in.end()
            elif kind == protocol.STATUS:
                self._status = number
                return  # nothing follows
            elif kind == protocol.FAILED:
                raise refusal(self._program, number, data)

    def clean(self) -> None:
        """Remove the files of this session."""
        self._in.clean()
