"""A capture of packets for the time of a block."""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn, Self

from dumm_tools.api import answers, words
from dumm_tools.api.channel import Channel
from dumm_tools.api.running import Running
from dumm_tools.api.streams import Output
from dumm_tools.api.words import Path
from dumm_tools.errors import Conflict, DummError
from dumm_tools.net import pcap_file
from dumm_tools.net.pcap_file import Packet


class Capture:
    """Packets that are captured while a context lasts, from `Iface.capture`, `Bridge.capture` or
    `Lab.capture`. It is entered as soon as packets are seen; those that were seen before it is left
    are in the file then.

    `path` is the pcapng file, which Wireshark reads, too; a temporary one is deleted with this
    object.

    >>> with lab.capture("icmp") as cap:
    ...     alice.run(["ping", "-c1", "10.0.0.2"], check=True).returncode
    0
    >>> sorted({packet.name for packet in cap.packets()})
    ['alice-eth0', 'bob-eth0']
    """

    def __init__(
        self,
        channel: Channel,
        tool: str,
        names: Sequence[str],
        expression: Sequence[str],
        path: Path | None,
    ) -> None:
        self._channel = channel
        self._running: Running | None = None
        if path is None:
            fd, self.path = tempfile.mkstemp(prefix="dumm-capture-", suffix=".pcapng")
            os.close(fd)
            weakref.finalize(self, _remove, self.path, os.getpid())
        else:
            self.path = words.local(path)
        what = [",".join(names)] if names else ["--all"]
        self._call = [tool, "capture", "--pcapng", "-w", self.path, *what, "--", *expression]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Capture cannot be sent to another process")

    def __enter__(self) -> Self:
        if self._running is not None:
            raise Conflict("the capture has already been started")
        said: Output[str] = Output(text=True)
        running = self._channel.begin(self._call, sinks={"stderr": said.feed})
        try:
            for line in said:
                if "capturing on" in line:
                    break
            else:
                answer = running.wait()
                raise answers.failure(answer) or Conflict("the capture has ended")
        except BaseException:  # Ctrl-C, perhaps: nobody will leave the context
            with contextlib.suppress(DummError):
                running.signal("INT")
            raise
        self._running = running
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        assert self._running is not None
        try:
            self._running.signal("INT")
            error = answers.failure(self._running.wait())
        except DummError as e:
            error = e
        if error is not None and kind is None:  # an error of the caller is more interesting
            raise error

    def packets(self) -> list[Packet]:
        """The packets, in the order of their times; within the context, those that are in the file
        so far."""
        with open(self.path, "rb") as file:
            return list(pcap_file.packets(file.read()))


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)
