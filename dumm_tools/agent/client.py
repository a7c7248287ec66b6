"""A client's end of a line to the agent; src/protocol.h describes the protocol.

A line is two FIFOs. Whoever holds the flock on the inward one talks; HELLO with a nonce of the
client's own throws away whatever an earlier client left in either direction.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import select
import time
from collections.abc import Iterator

from dumm_tools.agent import protocol
from dumm_tools.agent.protocol import Frame, Ready
from dumm_tools.agent.protocol import LineLost as LineLost
from dumm_tools.linux import fifo

#: Serial lines of a guest; line 0 is for control, the others for programs. An open terminal
#: takes two of UML's 64 interrupts (NR_IRQS), of which 44 are free: for these, and four consoles.
LINES = 18
#: Seconds for a conversation with an agent that is up: all its answers together.
ANSWER_TIMEOUT = 10.0
#: Seconds beyond a deadline in which what is there is still read: we may have been kept waiting.
LATE = 1.0
#: Bytes in all the answers to one request on the control line: a hundred thousand routes.
ANSWER_MAX = 8 << 20
#: Bytes that are read at once.
_PIECE = 1 << 20


class Line:
    """One line, taken: `send` and `frames` speak to the agent, `close` gives it back."""

    def __init__(self, directory: str, number: int, pidfd: int) -> None:
        """Open line `number`; BlockingIOError when another client has it."""
        self.number = number
        self.pidfd = pidfd
        self._in = fifo.open_nonblocking(os.path.join(directory, f"line{number}.in"))
        try:
            fcntl.flock(self._in, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._out = fifo.open_nonblocking(os.path.join(directory, f"line{number}.out"))
        except BaseException:
            os.close(self._in)
            raise
        fifo.enlarge(self._out, 1 << 20)
        with contextlib.suppress(BlockingIOError):
            # What earlier clients said and nobody took; not more, for the guest can write there.
            os.read(self._in, _PIECE)
        self.sent = self.taken = 0  # bytes, since the agent knows us
        self.outbox = bytearray()
        self._inbox = bytearray()

    def close(self) -> None:
        """Give the line back."""
        os.close(self._in)
        os.close(self._out)

    def hello(self, timeout: float) -> Ready:
        """Resynchronise; TimeoutError when the agent does not answer, LineLost when it is gone."""
        nonce = os.urandom(protocol.NONCE)
        self.send(protocol.HELLO, nonce)
        deadline = time.monotonic() + timeout
        while (at := protocol.find_ready(self._inbox, nonce)) < 0:
            up = self._inbox.rfind(protocol.OPENED)
            del self._inbox[: -64 if up < 0 else up + len(protocol.OPENED)]
            if up >= 0:
                # The agent has just opened the line: what we said before may be lost.
                self.outbox.clear()
                self.send(protocol.HELLO, nonce)
            else:
                self.pump(deadline)
        del self._inbox[:at]
        while True:
            for frame in protocol.frames(self._inbox):
                self.outbox.clear()
                self.sent = self.taken = 0
                return protocol.ready(frame.data, LINES)
            self.pump(deadline)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Queue a frame and write what goes at once; OSError(E2BIG) when it is too large."""
        if len(payload) > protocol.FRAME_MAX:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        self.outbox += protocol.frame(kind, payload)
        self.write()

    def write(self) -> None:
        """Write as much of the queue as the line takes."""
        while self.outbox and self._room():
            try:
                written = os.write(self._in, self.outbox[: self._room()])
            except BlockingIOError:
                return
            del self.outbox[:written]
            self.sent += written

    def _room(self) -> int:
        return protocol.LINE_WINDOW - (self.sent - self.taken)

    def read(self) -> None:
        """Take what the line has to give."""
        with contextlib.suppress(BlockingIOError):
            self._inbox += os.read(self._out, _PIECE)

    def frames(self) -> Iterator[Frame]:
        """The whole frames that have come; BadFrame."""
        for frame in protocol.frames(self._inbox):
            if frame.kind == protocol.TAKEN_LINE:
                way = self.sent - self.taken
                self.taken += protocol.advanced(frame.number, self.taken, way)
                self.write()
            else:
                yield frame

    def wait_frame(self, timeout: float, wanted: tuple[bytes, ...]) -> Frame:
        """The next frame of a wanted kind; others are dropped. TimeoutError, LineLost, BadFrame."""
        deadline = time.monotonic() + timeout
        while True:
            for frame in self.frames():
                if frame.kind in wanted:
                    return frame
            self.pump(deadline)

    def register(self, poll: select.poll, *, read: bool = True) -> None:
        """Put the line's descriptors into a poll object."""
        if read:
            poll.register(self._out, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        if self.outbox and self._room():
            poll.register(self._in, select.POLLOUT)

    def readable(self, events: dict[int, int]) -> bool:
        """Did a poll with `register` say that there is something to read?"""
        return self._out in events

    def pump(self, deadline: float) -> None:
        """Wait for something to come, writing what is queued; TimeoutError, LineLost."""
        poll = select.poll()
        self.register(poll)
        left = deadline - time.monotonic()
        events = dict(poll.poll(max(0, int(min(left * 1000, 1 << 30)) + 1)))
        # Whoever never stops talking has not answered either.
        if left <= 0 and (not events or left < -LATE):
            raise TimeoutError
        self.write()
        if self._out in events:
            self.read()
        elif self.pidfd in events:
            raise LineLost


class Control:
    """The guest's kernel by its control line: netlink, modules, sysctls and power.

    `send` and `receive` make it a netlink channel. All that is waited for in its whole life ends
    at the `deadline`: TimeoutError.
    """

    def __init__(self, line: Line, deadline: float = math.inf) -> None:
        self._line = line
        self._deadline = deadline
        self._budget = ANSWER_MAX

    def left(self) -> float:
        """The seconds that are left of the conversation; TimeoutError when none are."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def send(self, data: bytes) -> None:
        """Send route netlink messages to the guest's kernel."""
        self._budget = ANSWER_MAX
        self._line.send(protocol.NETLINK, data)

    def receive(self, timeout: float) -> bytes:
        """The next datagram from the guest's netlink; TimeoutError, BadFrame when there is no end
        of them."""
        data = self._line.wait_frame(min(timeout, self.left()), (protocol.ANSWER,)).data
        self._budget = protocol.within(self._budget - protocol.HEAD - len(data), 0, ANSWER_MAX)
        return data

    def load_module(self, name: str) -> None:
        """Load a kernel module in the guest, with what it needs; OSError."""
        self._line.send(protocol.MODULE, name.encode() + b"\0")
        self._done(name)

    def store(self, path: str, value: str) -> None:
        """Write `value` to a file in the guest, such as a sysctl; OSError."""
        self._line.send(protocol.STORE, path.encode() + b"\0" + value.encode())
        self._done(path)

    def power(self, how: bytes) -> None:
        """POWER_OFF or POWER_REBOOT; returns at once."""
        self._line.send(protocol.POWER, how)

    def _done(self, subject: str) -> None:
        error = self._line.wait_frame(min(ANSWER_TIMEOUT, self.left()), (protocol.DONE,)).number
        if error:
            raise protocol.failure(error, subject)
