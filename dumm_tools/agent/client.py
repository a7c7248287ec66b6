"""A client's end of a line to the agent; src/agent.h describes the protocol.

A line is two FIFOs. Whoever holds the flock on the inward one talks; HELLO with a nonce of the
client's own throws away whatever an earlier client left in either direction.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import time
from collections.abc import Iterator

from dumm_tools.linux import fifo
from dumm_tools.model import Record

END, ESC = b"\xc0", b"\xdb"
ESC_END, ESC_ESC = b"\xdb\xdc", b"\xdb\xdd"
#: What the agent writes when it has opened a line (agent.h).
OPENED = b"b\x08\0\0dumm-up\n"
INPUT_WINDOW = 16384
#: Bytes that may be on their way to the agent; more would jam the line for good (agent.h).
LINE_WINDOW = 3072
#: Serial lines of a guest; line 0 is for control, the others for programs. An open terminal
#: takes two of UML's 64 interrupts (NR_IRQS), of which 44 are free: for these, and four consoles.
LINES = 18
#: Seconds for an answer from an agent that is up.
ANSWER_TIMEOUT = 10.0
#: Seconds beyond a deadline in which what is there is still read: we may have been kept waiting.
LATE = 1.0
#: Bytes in one frame to the guest (agent.h: IN_MAX), less a margin.
FRAME_MAX = (192 << 10) - 16


class LineLost(Exception):
    """The guest's kernel ended while we waited for its agent."""


class Ready(Record):
    """What the agent says of itself: the boot it belongs to, its kernel, the other lines that run
    a program, what failed at boot."""

    nonce: str
    release: str
    busy: frozenset[int]
    trouble: str


def _ready(text: str) -> Ready:
    boot, release, busy, trouble = text.split(" ", 3)
    bits = int(busy, 16)
    trouble = re.sub(r"errno (\d+)", lambda m: os.strerror(int(m[1])), trouble)
    return Ready(boot, release, frozenset(n for n in range(LINES) if bits >> n & 1), trouble)


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """A frame to the guest, as bytes on the line."""
    body = (kind + payload).replace(ESC, ESC_ESC).replace(END, ESC_END)
    return END + body + END


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
            while os.read(self._in, 65536):  # what earlier clients said and nobody took
                pass
        self._sent = self._taken = 0  # bytes, since the agent knows us
        self.outbox = bytearray()
        self._inbox = bytearray()

    def close(self) -> None:
        """Give the line back."""
        os.close(self._in)
        os.close(self._out)

    def hello(self, timeout: float) -> Ready:
        """Resynchronise; TimeoutError when the agent does not answer, LineLost when it is gone."""
        nonce = os.urandom(16)
        self.send(b"R", nonce)
        deadline = time.monotonic() + timeout
        while True:
            at = self._inbox.find(nonce)
            # A terminal that is not raw yet gives what we said back: not every nonce is an answer.
            while at >= 0 and self._inbox[max(0, at - 4) : max(0, at - 3)] != b"r":
                at = self._inbox.find(nonce, at + 1)
            if at >= 0:
                del self._inbox[: at - 4]
                for kind, payload in self.frames():
                    if kind == b"r":
                        self._sent = 0
                        with contextlib.suppress(ValueError):  # that was no agent
                            return _ready(payload[16:].decode(errors="replace"))
            elif (up := self._inbox.find(OPENED)) >= 0:
                # The agent has just opened the line: what we said before may be lost.
                del self._inbox[: up + len(OPENED)]
                self.send(b"R", nonce)
            else:
                del self._inbox[:-64]
            self.pump(deadline)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Queue a frame and write what goes at once; OSError(E2BIG) when it is too large."""
        if len(payload) > FRAME_MAX:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        self.outbox += frame(kind, payload)
        self.write()

    def write(self) -> None:
        """Write as much of the queue as the line takes."""
        while self.outbox and self._room():
            try:
                written = os.write(self._in, self.outbox[: self._room()])
            except BlockingIOError:
                return
            del self.outbox[:written]
            self._sent += written

    def _room(self) -> int:
        return LINE_WINDOW - (self._sent - self._taken)

    def read(self) -> None:
        """Take what the line has to give."""
        with contextlib.suppress(BlockingIOError):
            self._inbox += os.read(self._out, 1 << 20)

    def frames(self) -> Iterator[tuple[bytes, bytes]]:
        """The whole frames that have come."""
        at, inbox = 0, self._inbox
        try:
            while len(inbox) >= at + 4:
                size = int.from_bytes(inbox[at + 1 : at + 4], "little")
                if len(inbox) < at + 4 + size:
                    return
                kind, payload = bytes(inbox[at : at + 1]), bytes(inbox[at + 4 : at + 4 + size])
                at += 4 + size
                if kind == b"a":
                    self._taken = int.from_bytes(payload, "little")
                    self.write()
                else:
                    yield kind, payload
        finally:
            del inbox[:at]

    def wait_frame(self, timeout: float, wanted: tuple[bytes, ...]) -> tuple[bytes, bytes]:
        """The next frame of a wanted kind; others are dropped. TimeoutError, LineLost."""
        deadline = time.monotonic() + timeout
        while True:
            for kind, payload in self.frames():
                if kind in wanted:
                    return kind, payload
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

    `send` and `receive` make it a netlink channel.
    """

    def __init__(self, line: Line) -> None:
        self._line = line

    def send(self, data: bytes) -> None:
        """Send route netlink messages to the guest's kernel."""
        self._line.send(b"N", data)

    def receive(self, timeout: float) -> bytes:
        """The next datagram from the guest's netlink; TimeoutError."""
        return self._line.wait_frame(timeout, (b"n",))[1]

    def load_module(self, name: str) -> None:
        """Load a kernel module in the guest, with what it needs; OSError."""
        self._line.send(b"M", name.encode() + b"\0")
        self._done(name)

    def store(self, path: str, value: str) -> None:
        """Write `value` to a file in the guest, such as a sysctl; OSError."""
        self._line.send(b"F", path.encode() + b"\0" + value.encode())
        self._done(path)

    def power(self, how: str) -> None:
        """Power off ('o') or reboot ('r'); returns at once."""
        self._line.send(b"P", how.encode())

    def _done(self, subject: str) -> None:
        error = int.from_bytes(self._line.wait_frame(ANSWER_TIMEOUT, (b"d",))[1], "little")
        if error:
            raise OSError(error, os.strerror(error), subject)
