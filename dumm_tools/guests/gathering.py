"""The output of programs in several guests: as lines with the guest's name, or kept for each."""

from __future__ import annotations

from dumm_tools.agent.sink import Sink
from dumm_tools.errors import ExecFailed

#: A longer line is divided (bytes).
LINE_MAX = 64 << 10
#: How much is kept of a program, of each stream (bytes).
KEPT_MAX = 16 << 20


class TooMuch(ExecFailed):
    """A program has printed more than is kept."""


class Lines:
    """Passes on an output line by line, each with a prefix."""

    def __init__(self, prefix: str, sink: Sink) -> None:
        self._prefix = prefix.encode()
        self._sink = sink
        self._rest = bytearray()

    def __call__(self, data: bytes) -> None:
        self._rest += data
        if b"\n" in data:
            *whole, self._rest = self._rest.split(b"\n")
            for line in whole:
                self._put(line)
        while len(self._rest) > LINE_MAX:
            self._put(self._rest[:LINE_MAX])
            del self._rest[:LINE_MAX]

    def end(self) -> None:
        """Pass on a last line that does not end in a newline."""
        if self._rest:
            self._put(self._rest)
            self._rest = bytearray()

    def _put(self, line: bytearray) -> None:
        for at in range(0, len(line) or 1, LINE_MAX):
            self._sink.backlog += b"%b%b\n" % (self._prefix, bytes(line[at : at + LINE_MAX]))


class Kept:
    """Keeps an output."""

    def __init__(self) -> None:
        self.data = bytearray()

    def __call__(self, data: bytes) -> None:
        """Add to it; TooMuch, since no guest may fill our memory."""
        if len(self.data) + len(data) > KEPT_MAX:
            raise TooMuch(f"more than {KEPT_MAX >> 20} MiB of output")
        self.data += data

    def end(self) -> None:
        """Nothing follows."""
