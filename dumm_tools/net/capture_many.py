"""Captures of several interfaces or bridges into one pcapng file.

The packets come from packet sockets of our own and are written as they are: nothing here looks into
them, so that root may do it. tcpdump only compiles the filter.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dumm_tools import __version__, proc, statefile
from dumm_tools.agent.session import FORWARDED, Signals, signals
from dumm_tools.agent.sink import BACKLOG_MAX, Sink
from dumm_tools.agent.steps import left_ms
from dumm_tools.errors import Conflict, DummError, Usage
from dumm_tools.linux import limit, packets
from dumm_tools.net import capture, link_views, pcapng

#: Packets are held back for this time, since another interface may deliver earlier ones (seconds).
HELD = 0.01
#: Packets to take from an interface before looking at the others.
_TURN = 256
#: Seconds for a reader to take something of the rest after a signal.
_GRACE = 2.0
#: Seconds between looks at a device that is down.
_DOWN = 0.1

Say = Callable[[str], object]


class Source(NamedTuple):
    """Something to capture: its name in the lab, and its device on the host."""

    name: str
    device: str


def interfaces(labdir: str, names: Sequence[str]) -> list[Source]:
    """These interfaces, or all that are plugged in. Usage, NotFound, Conflict."""
    if names:
        return [Source(name, capture.of_interface(labdir, name)) for name in names]
    state = statefile.load(labdir)
    taps = [Source(name, iface.tap) for name, iface in sorted(state.ifaces.items())]
    return _present(
        [s for s in taps if link_views.ours(state, s.device)], "interface is plugged in"
    )


def bridges(labdir: str, names: Sequence[str]) -> list[Source]:
    """These bridges, or all that exist. Usage, NotFound, Conflict."""
    if names:
        return [Source(name, capture.of_bridge(labdir, name)) for name in names]
    state = statefile.load(labdir)
    found = [Source(name, name) for name in sorted(state.bridges) if link_views.ours(state, name)]
    return _present(found, "bridge is up")


def _present(found: list[Source], what: str) -> list[Source]:
    if not found:
        raise Conflict(f"no {what}", hint="they exist while guests on them are running")
    return found


def run(sources: Sequence[Source], words: Sequence[str], file: str, say: Say) -> int:
    """Write the packets of all sources as pcapng to a file ("-": stdout), in the order of their
    times, until a signal arrives or no source is left. BrokenPipeError if there is no reader any
    more."""
    limit.use_files(len(sources) + 64)
    program = compiled(sources[0].device, words)
    with contextlib.ExitStack() as stack:
        inputs = []
        for number, source in enumerate(sources):
            inputs.append(_Input(number, source, program))
            stack.callback(inputs[-1].socket.close)
        target = 1 if file == "-" else capture.created(file)
        if file != "-":
            stack.callback(os.close, target)
        merger = _Merger(inputs, target, file)
        stack.callback(merger.close)
        with signals(FORWARDED) as arrived:
            # A reader that waits for this may send a signal at once.
            say(f"capturing on {', '.join(source.name for source in sources)}")
            merger.run(arrived, " ".join(words))
    lost = sum(i.dropped for i in inputs)
    say(f"{sum(i.count for i in inputs)} packets captured, {lost} dropped by the kernel")
    return 0


def compiled(device: str, words: Sequence[str]) -> list[packets.Operation]:
    """The filter for live packets, whose VLAN tags the kernel has taken out.
    Usage, DummError."""
    if not words:
        return []
    if any(word.startswith("-") for word in words):
        raise Usage(
            "options of tcpdump are for a single interface or bridge only, without --pcapng"
        )
    program = capture.tcpdump()
    argv = [program, "-i", device, "-ddd", *words]
    done = proc.run(argv, capture=True, quiet=True, check=False)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2].removeprefix("tcpdump: ")
        raise DummError(f"cannot capture '{' '.join(words)}': {last}")
    _, *lines = done.stdout.splitlines()
    found = []
    for line in lines:
        code, jump, jump_else, value = map(int, line.split())
        found.append((code, jump, jump_else, value))
    return found


class _Input:
    """The packets of one source."""

    def __init__(self, number: int, source: Source, program: list[packets.Operation]) -> None:
        self.number, self.source = number, source
        try:
            self.socket: socket.socket = packets.opened(source.device, program)
        except OSError as e:
            raise DummError(f"cannot capture '{source.name}': {e.strerror}") from None
        self.count = self.dropped = 0
        self.is_down = self.is_gone = False

    def take(self, held: list[tuple[int, int, bytes]]) -> int | None:
        """Take packets; return the time of the last one if there may be more."""
        for _ in range(_TURN):
            try:
                packet = packets.received(self.socket)
            except OSError as e:
                if e.errno != errno.ENETDOWN:
                    raise
                self.is_down = True
                continue  # what arrived before is still there
            if packet is None:
                self.is_gone = self.is_down and packets.is_gone(self.socket)
                return None
            self.is_down = False
            self.count += 1
            held.append((packet.time, self.number, packet.data))
        return held[-1][0]

    def end(self) -> bytes:
        """The counts, for the end of the file."""
        with contextlib.suppress(OSError):
            self.dropped += packets.dropped(self.socket)
        return pcapng.statistics(self.number, self.count + self.dropped, self.dropped)


class _Merger:
    """The loop that takes packets from all inputs, and writes them in order."""

    def __init__(self, inputs: Sequence[_Input], target: int, file: str) -> None:
        self._inputs = {i.socket.fileno(): i for i in inputs}
        self._target, self._file = target, file
        self._sink = Sink(target)
        self._held: list[tuple[int, int, bytes]] = []
        self._poll = select.poll()
        for fd in self._inputs:
            self._poll.register(fd, select.POLLIN)

    def run(self, arrived: Signals, expression: str) -> None:
        """Write the whole file."""
        inputs = list(self._inputs.values())
        self._sink.backlog += pcapng.section(f"dumm-tools {__version__}")
        for each in inputs:
            source = each.source
            device = "" if source.device == source.name else f"device {source.device}"
            self._sink.backlog += pcapng.interface(source.name, device, expression)
        is_signalled = False
        while self._inputs and not (is_signalled := self._wait(arrived)):
            now = time.time_ns()
            busy = [last for fd in self._ready() if (last := self._take(fd)) is not None]
            self._put(min([now, *busy]) - int(HELD * 1e9))
        for fd in list(self._inputs):
            while self._take(fd) is not None:
                pass
        self._put(None)
        self._sink.backlog += b"".join(i.end() for i in inputs)
        self._finish(arrived, is_signalled)

    def close(self) -> None:
        """Close our descriptors."""
        self._sink.close()

    def _wait(self, arrived: Signals) -> bool:
        """Wait until there is something to do; return whether a signal has arrived."""
        poll = select.poll()
        poll.register(arrived.fd, select.POLLIN)
        poll.register(self._target, 0)
        if len(self._sink.backlog) < BACKLOG_MAX:
            for fd in self._inputs:
                poll.register(fd, select.POLLIN)
        for fd, wanted in self._sink.wants().items():
            poll.register(fd, wanted)
        events = dict(poll.poll(self._patience()))
        self._write(events)
        return any(list(arrived.take(events)))

    def _patience(self) -> float | None:
        """How long to wait for the next event, milliseconds."""
        if self._held:
            return HELD * 1000
        # A device goes down before it goes away, and only the former is an event for its socket.
        return _DOWN * 1000 if any(i.is_down for i in self._inputs.values()) else None

    def _ready(self) -> list[int]:
        """The inputs that have packets now, or may be gone."""
        if len(self._sink.backlog) >= BACKLOG_MAX:
            return []
        down = (fd for fd, each in self._inputs.items() if each.is_down)
        return list({*down, *(fd for fd, _ in self._poll.poll(0))})

    def _take(self, fd: int) -> int | None:
        found = self._inputs[fd]
        last = found.take(self._held)
        if found.is_gone:
            self._poll.unregister(fd)
            del self._inputs[fd]
        return last

    def _put(self, before: int | None) -> None:
        """Write the held packets, or those from before a time."""
        self._held.sort(key=operator.itemgetter(0))
        count = 0
        for when, number, data in self._held:
            if before is not None and when >= before:
                break
            self._sink.backlog += pcapng.packet(number, when, data)
            count += 1
        del self._held[:count]

    def _write(self, events: dict[int, int]) -> None:
        if self._target in events and events[self._target] & (select.POLLERR | select.POLLNVAL):
            self._sink.backlog += b"\0"  # the write says what is wrong
            events = self._sink.wants()
        try:
            self._sink.write(events)
        except BrokenPipeError:
            raise
        except OSError as e:
            file = "standard output" if self._file == "-" else self._file
            raise DummError(f"cannot write '{file}': {e.strerror}") from None

    def _finish(self, arrived: Signals, is_signalled: bool) -> None:
        """Write the rest. After a signal, a reader has to go on taking it."""
        end = time.monotonic() + _GRACE
        while self._sink.backlog:
            poll = select.poll()
            poll.register(arrived.fd, select.POLLIN)
            for fd, wanted in self._sink.wants().items():
                poll.register(fd, wanted)
            events = dict(poll.poll(left_ms(end) if is_signalled else None))
            if not events:
                left = len(self._sink.backlog)
                raise DummError(f"nobody reads the capture: its last {left} bytes are lost")
            before = len(self._sink.backlog)
            self._write(events)
            is_signalled = any(list(arrived.take(events))) or is_signalled
            if arrived.fd in events or len(self._sink.backlog) < before:
                end = time.monotonic() + _GRACE
