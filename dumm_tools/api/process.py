"""The session process of a lab: `dumm-console --json`, and the thread that reads its answers.

The caller's process is left alone: the session has its own namespaces, signals and directory, and
is in a process session of its own, where Ctrl-C does not reach it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from dumm_tools.errors import SessionEnded, Usage

#: The module that is run must be of this package, wherever the caller has found it.
_PLACE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_START = (
    "import signal, sys; place = sys.argv.pop(1); place in sys.path or sys.path.insert(0, place); "
    # Those of the caller are inherited.
    "signal.pthread_sigmask(signal.SIG_SETMASK, []); "
    "signal.signal(signal.SIGCHLD, signal.SIG_DFL); "
    "from dumm_tools.cli.console import main; main()"
)
#: The longest line that a session takes (bytes).
LINE_MAX = 16 << 20
#: Bytes to read at a time.
_PIECE = 1 << 18
#: Bytes of what the session says about its own faults that an error shows.
_SAID = 2000

Message = dict[str, Any]
Receiver = Callable[[Message | None], bool]


class Unread(SessionEnded):
    """A request that its session has not begun to read: it may be sent to another one."""


class Process:
    """One session. `receive` gets each answer, in the order of arrival, by the id of its request;
    None says that no more will come, {"unread": True} that the request was not read. All methods
    may be called in any thread."""

    def __init__(self, directory: str) -> None:
        # Reentrant: an object that is collected meanwhile may close this session. While we write,
        # answers must be taken: the session reads nothing while it cannot get rid of them.
        self._lock, self._writing = threading.RLock(), threading.RLock()
        self._lines: deque[tuple[int, bytes]] = deque()
        self._is_writing = False
        self._written = 0  # bytes
        self._starts: dict[int, int] = {}  # requests: the bytes before them
        self._receivers: dict[int, Receiver] = {}
        self._last = 0
        self._ended = False
        self._said = ""
        faults = os.memfd_create("dumm-session", os.MFD_CLOEXEC)
        self._faults = open(faults, "r+b", buffering=0)  # noqa: SIM115
        argv = [sys.executable, "-P", "-c", _START, _PLACE, "-C", directory, "--json"]
        try:
            with _forking:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._faults,
                    bufsize=0,
                    start_new_session=True,
                )
                _processes.add(self)
        except OSError as e:
            self._faults.close()
            raise SessionEnded(f"cannot start '{sys.executable}': {e.strerror}") from None
        self.pid = self._process.pid
        self._thread = threading.Thread(target=self._read, name="dumm-session", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the session has ended."""
        return self._ended

    def reserve(self) -> int:
        """The id of a request that will come later."""
        with self._lock:
            self._last += 1
            return self._last

    def request(self, message: Message, receiver: Receiver, number: int | None = None) -> int:
        """Send a request; return its id, which may have been reserved. `receiver` is called in the
        thread of the session, and returns whether it expects more. Unread if the session has ended
        before it has seen any of it, otherwise SessionEnded."""
        with self._lock:
            if self._ended:
                raise Unread(str(self.end()))
            number = number or self.reserve()
            self._receivers[number] = receiver
        try:
            self.send({"id": number, **message})
        except BaseException as e:
            with self._lock:
                receives = self._receivers.pop(number, None) is not None
            if not isinstance(e, SessionEnded):
                raise
            if receives:
                raise Unread(str(e)) if self._is_unread(number, self._seen()) else e from None
            # Otherwise the other thread has noticed it, too, and told the receiver.
        return number

    def _seen(self) -> float:
        """How many of the bytes that were written a session that has ended has read."""
        import fcntl
        import termios

        stdin = self._process.stdin
        assert stdin is not None
        try:
            left = fcntl.ioctl(stdin.fileno(), termios.FIONREAD, bytes(4))
        except (OSError, ValueError):  # closed by us
            return math.inf
        return self._written - int.from_bytes(left, sys.byteorder)

    def _is_unread(self, number: int, seen: float) -> bool:
        return seen < math.inf and self._starts.get(number, math.inf) >= seen

    def send(self, message: Message) -> None:
        """Send a line. SessionEnded; Usage if it is too long, which could not be answered."""
        line = json.dumps(message).encode() + b"\n"
        if len(line) > LINE_MAX:
            raise Usage(f"a request has at most {LINE_MAX >> 20} MiB", hint="put data into files")
        with self._writing:
            self._lines.append((message["id"] if "run" in message else 0, line))
            if self._is_writing:  # we were called within that, which goes on with this line
                return
            self._is_writing = True
            try:
                while self._lines:
                    number, line = self._lines.popleft()
                    if number:
                        self._starts[number] = self._written
                    self._write(line)
            finally:
                self._is_writing = False

    def _write(self, line: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        data = memoryview(line)
        try:
            while data:
                count = stdin.write(data)
                self._written += count
                data = data[count:]
        except (OSError, ValueError):  # ended, or closed by `close`
            self._lines.clear()
            raise self.end() from None
        except BaseException:
            # Ctrl-C, perhaps, and nobody knows how much was written: the session refuses half a
            # line, and ignores an empty one.
            with contextlib.suppress(OSError, ValueError):
                stdin.write(b"\n")
            raise

    def running(self) -> list[int]:
        """The ids of requests that are not answered yet."""
        with self._lock:
            return list(self._receivers)

    def end(self) -> SessionEnded:
        """The error that says why there is no answer."""
        last = f": {self._said}" if self._said else ""
        return SessionEnded(f"the session of the lab has ended{last}")

    def close(self, keep: int = 0) -> None:
        """End the session: what is under way is killed, except for `keep`, the request that is kept
        for its end, which is done then. Wait for that."""
        for number in self.running():
            if number != keep:
                with contextlib.suppress(SessionEnded):
                    self.send({"id": number, "signal": "KILL"})
        with self._writing, _forking, contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self.join()

    def join(self) -> None:
        """Wait for the session to end, and for the thread that takes its answers."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def abandon(self) -> None:
        """In a child process that was forked: close our copies of descriptors, and nothing else;
        the session belongs to the parent."""
        for stream in (self._process.stdin, self._process.stdout, self._faults):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self._process.returncode = 0  # not our child: no warning that it still runs
        self._ended = True
        self._lock, self._writing = threading.RLock(), threading.RLock()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        rest = bytearray()
        try:
            while piece := os.read(stdout.fileno(), _PIECE):
                rest += piece
                if b"\n" in piece:
                    *lines, last = rest.split(b"\n")
                    rest = bytearray(last)
                    for line in lines:
                        self._take(json.loads(line))
        except (OSError, ValueError) as e:
            self._faults.write(f"\ncannot take an answer: {e}\n".encode())
            self._process.kill()
        finally:
            stdout.close()
            self._process.wait()
            self._said = self._last_fault()
            with self._lock:
                self._ended = True
                left, self._receivers = self._receivers, {}
            seen = self._seen()
            for number, receiver in left.items():
                receiver({"unread": True} if self._is_unread(number, seen) else None)

    def _last_fault(self) -> str:
        with self._faults:
            size = os.fstat(self._faults.fileno()).st_size
            said = os.pread(self._faults.fileno(), _SAID, max(0, size - _SAID))
        lines = said.decode(errors="replace").strip().splitlines()
        faults = [line for line in lines if not line.startswith("dumm-console: hint: ")]
        return faults[-1].removeprefix("dumm-console: ") if faults else ""

    def _take(self, message: Message) -> None:
        number = message.get("id")
        with self._lock:
            receiver = self._receivers.get(number) if isinstance(number, int) else None
        if receiver is not None and not receiver(message):
            with self._lock:
                self._receivers.pop(message["id"], None)
                self._starts.pop(message["id"], None)


#: Nobody forks while a session is started, or our end of its input closed: the child would have a
#: copy of the descriptor that it does not know about, and the session would never see an end.
_forking = threading.RLock()
_processes: weakref.WeakSet[Process] = weakref.WeakSet()


def _forked() -> None:
    _forking.release()
    for process in list(_processes):
        process.abandon()


os.register_at_fork(
    before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forked
)
