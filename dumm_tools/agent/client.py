"""A client's end of a line to the agent; src/protocol.h describes the protocol.

A line is two FIFOs. The process that holds the flock on the inward one may use the line; HELLO with
a nonce of the client's own discards whatever an earlier client left in either direction.
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

from dumm_tools.agent import protocol, steps
from dumm_tools.agent.protocol import Frame, Ready
from dumm_tools.agent.protocol import LineLost as LineLost
from dumm_tools.agent.protocol import Rebooted as Rebooted
from dumm_tools.agent.steps import Steps, Wait, Wants
from dumm_tools.linux import fifo

#: Serial lines of a guest; line 0 is for control, the others for programs. An open terminal
#: takes two of UML's 64 interrupts (NR_IRQS), of which 44 are free: for these and four consoles.
LINES = 18
#: Seconds for a conversation with an agent that is running: all its answers together.
ANSWER_TIMEOUT = 10.0
#: Seconds after a deadline during which available data is still read: we may have been delayed.
LATE = 1.0
#: Maximum size of all answers to a request on the control line: a hundred thousand routes.
ANSWER_MAX = 8 << 20
#: Size of a single read.
_PIECE = 1 << 20


def inward(directory: str, number: int) -> int:
    """Open the FIFO of line `number` that leads into the guest, and whose lock is the line's."""
    return fifo.open_nonblocking(os.path.join(directory, f"line{number}.in"))


class Line:
    """A line in our possession: `send` and `frames` talk to the agent, `close` releases it."""

    def __init__(
        self, directory: str, number: int, pidfd: int, *, opened: int | None = None
    ) -> None:
        """Open line `number`, unless that has been done with `inward`; BlockingIOError if another
        client is using it."""
        self.number = number
        self.pidfd = pidfd
        self._in = inward(directory, number) if opened is None else os.dup(opened)
        try:
            fcntl.flock(self._in, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._out = fifo.open_nonblocking(os.path.join(directory, f"line{number}.out"))
        except BaseException:
            os.close(self._in)
            raise
        fifo.enlarge(self._out, 1 << 20)
        with contextlib.suppress(BlockingIOError):
            # Discard data left by earlier clients, but no more: the guest can write there.
            os.read(self._in, _PIECE)
        self.sent = self.taken = 0  # bytes, since the agent accepted us
        self.outbox = bytearray()
        self._inbox = bytearray()

    def close(self) -> None:
        """Release the line."""
        os.close(self._in)
        os.close(self._out)

    def hello(self, timeout: float) -> Ready:
        """Resynchronize; TimeoutError if the agent does not answer, LineLost if it is gone."""
        return steps.run(self.greeting(timeout))

    def greeting(self, timeout: float) -> Steps[Ready]:
        """`hello` as a conversation."""
        nonce = os.urandom(protocol.NONCE)
        self.send(protocol.HELLO, nonce)
        deadline = time.monotonic() + timeout
        while (at := protocol.find_ready(self._inbox, nonce)) < 0:
            up = self._inbox.rfind(protocol.OPENED)
            del self._inbox[: -64 if up < 0 else up + len(protocol.OPENED)]
            if up >= 0:
                # The agent has just opened the line: earlier frames may be lost.
                self.outbox.clear()
                self.send(protocol.HELLO, nonce)
            else:
                yield from self._pumping(deadline)
        del self._inbox[:at]
        while True:
            for frame in protocol.frames(self._inbox):
                self.outbox.clear()
                self.sent = self.taken = 0
                return protocol.ready(frame.data, LINES)
            yield from self._pumping(deadline)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Queue a frame and write as much as possible; OSError(E2BIG) if it is too large."""
        self.queue(kind, payload)
        self.write()

    def queue(self, kind: bytes, payload: bytes = b"") -> None:
        """Queue a frame, to be written together with others; OSError(E2BIG) if it is too large."""
        if len(payload) > protocol.FRAME_MAX:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        self.outbox += protocol.frame(kind, payload)

    def write(self) -> None:
        """Write as much of the queue as the line accepts."""
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
        """Read the available data."""
        with contextlib.suppress(BlockingIOError):
            self._inbox += os.read(self._out, _PIECE)

    def frames(self) -> Iterator[Frame]:
        """The complete frames received so far; BadFrame, Rebooted."""
        for frame in protocol.frames(self._inbox):
            if frame.kind == protocol.UP:  # another agent has opened the line
                raise protocol.Rebooted
            if frame.kind == protocol.TAKEN_LINE:
                way = self.sent - self.taken
                self.taken += protocol.advanced(frame.number, self.taken, way)
                self.write()
            else:
                yield frame

    def wait_frame(self, timeout: float, wanted: tuple[bytes, ...]) -> Frame:
        """The next frame of one of these types; others are dropped. TimeoutError, LineLost,
        BadFrame."""
        deadline = time.monotonic() + timeout
        while True:
            for frame in self.frames():
                if frame.kind in wanted:
                    return frame
            self.pump(deadline)

    def wants(self, *, read: bool = True) -> Wants:
        """The events to poll for."""
        wants = {self.pidfd: select.POLLIN}
        if read:
            wants[self._out] = select.POLLIN
        if self.outbox and self._room():
            wants[self._in] = select.POLLOUT
        return wants

    def readable(self, events: Wants) -> bool:
        """Whether a poll for `wants` reported data to read."""
        return self._out in events

    def pump(self, deadline: float) -> None:
        """Wait for data while writing what is queued; TimeoutError, LineLost."""
        steps.run(self._pumping(deadline))

    def _pumping(self, deadline: float) -> Steps[None]:
        events = yield Wait(self.wants(), deadline)
        left = deadline - time.monotonic()
        # An agent that never stops sending has not answered either.
        if left <= 0 and (not events or left < -LATE):
            raise TimeoutError
        self.write()
        if self._out in events:
            self.read()
        elif self.pidfd in events:
            raise LineLost


class Control:
    """The guest's kernel as reached over its control line: netlink, modules, sysctls and power.

    `send` and `receive` make it a netlink channel. All waiting during its lifetime ends at the
    `deadline`: TimeoutError.
    """

    def __init__(self, line: Line, deadline: float = math.inf) -> None:
        self._line = line
        self._deadline = deadline
        self._budget = ANSWER_MAX
        self._namespace = 0

    def left(self) -> float:
        """Seconds left for the conversation; TimeoutError if there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def send(self, data: bytes) -> None:
        """Send route netlink messages to the guest's kernel."""
        self._budget = ANSWER_MAX
        self._line.send(protocol.NETLINK, data)

    def receive(self, timeout: float) -> bytes:
        """The next datagram from the guest's netlink; TimeoutError, BadFrame if there are
        too many."""
        data = self._line.wait_frame(min(timeout, self.left()), (protocol.ANSWER,)).data
        self._budget = protocol.within(self._budget - protocol.HEAD - len(data), 0, ANSWER_MAX)
        return data

    def enter(self, number: int) -> None:
        """Talk to another network namespace of the guest, numbered from 1 on, or to the agent's own
        (0). OSError, with ENOENT after the last one."""
        if number or self._namespace:
            self._namespace = number
            self._line.send(protocol.NETNS, number.to_bytes(4, "little"))
            self._done(f"network namespace {number}")

    def load_module(self, name: str) -> None:
        """Load a kernel module and its dependencies in the guest; OSError."""
        self._line.send(protocol.MODULE, name.encode() + b"\0")
        self._done(name)

    def store(self, path: str, value: str) -> None:
        """Write `value` to a file in the guest, such as a sysctl; OSError."""
        self._line.send(protocol.STORE, path.encode() + b"\0" + value.encode())
        self._done(path)

    def change_layers(self, tag: str = "", directory: str = "") -> None:
        """Make a directory of a virtiofs the root file system of the guest's processes, or, without
        a tag, /guest of the jail; OSError."""
        self._line.send(protocol.LAYERS, f"{tag}\0{directory}\0".encode())
        self._done("the root file system")

    def holders(self) -> list[protocol.Holder]:
        """Processes that still use the root file system before the last `change_layers`."""
        self._line.send(protocol.HOLDERS)
        return protocol.holders(self._line.wait_frame(self.left(), (protocol.HELD,)).data)

    def power(self, how: bytes) -> None:
        """Send POWER_OFF or POWER_REBOOT; return immediately."""
        self._line.send(protocol.POWER, how)

    def _done(self, subject: str) -> None:
        error = self._line.wait_frame(min(ANSWER_TIMEOUT, self.left()), (protocol.DONE,)).number
        if error:
            raise protocol.failure(error, subject)
