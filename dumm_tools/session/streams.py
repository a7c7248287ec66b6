"""The standard streams of a request: files, or pipes that the session fills."""

from __future__ import annotations

import os
import select
import stat

from dumm_tools.agent.steps import Wants
from dumm_tools.errors import DummError, NotFound, Usage
from dumm_tools.session.answers import Answers, InAnswer, InFile, InPieces, Output
from dumm_tools.session.requests import Id, Source, Target

#: Most input of a request that waits for its program (bytes).
PENDING_MAX = 64 << 20


def output(target: Target, answers: Answers, request_id: Id, key: str) -> Output:
    """Where an output goes. DummError if a file cannot be written."""
    if target.kind == "stream":
        return InPieces(answers, request_id, key)
    if target.kind == "answer":
        return InAnswer(key)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    flags |= os.O_APPEND if target.append else 0
    try:
        fd = os.open(target.path, flags, 0o666)
        _check_kind(fd, target.path)
        if not target.append and stat.S_ISREG(os.fstat(fd).st_mode):
            os.ftruncate(fd, 0)
    except OSError as e:
        raise DummError(f"cannot write '{target.path}': {e.strerror}") from None
    return InFile(fd, target.path)


def source(given: Source) -> tuple[int | None, Inlet | None]:
    """A descriptor to read a standard input from, None if it is empty, and what fills it.
    NotFound, DummError."""
    if given.kind == "stream":
        inlet = Inlet()
        return inlet.fd, inlet
    if given.kind == "file":
        return _opened(given.path), None
    if not given.data:
        return None, None
    fd = os.memfd_create("input")
    with open(fd, "wb", closefd=False) as file:
        file.write(given.data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd, None


def _opened(path: str) -> int:
    try:
        # Opening a FIFO would wait for somebody who writes to it, and so would reading from it.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"no file '{path}'") from None
    except OSError as e:
        raise DummError(f"cannot read '{path}': {e.strerror}") from None
    _check_kind(fd, path)
    os.set_blocking(fd, True)
    return fd


def _check_kind(fd: int, path: str) -> None:
    """Close it and raise Usage unless it is a regular file, or /dev/null."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) and not os.path.samestat(found, os.stat(os.devnull)):
        os.close(fd)
        raise Usage(f"'{path}' is not a regular file")


class Inlet:
    """A pipe that is filled with what arrives; `fd` is the end to read, which is the caller's."""

    def __init__(self) -> None:
        self.fd, self._in = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._in, False)
        self._pending = bytearray()
        self._is_ended = self._is_dropped = False
        self.count = 0  # bytes that were given

    def put(self, data: bytes | None) -> None:
        """Take more input, or None for its end. DummError if too much of it is waiting."""
        if self._is_ended:
            raise DummError("its input has ended")
        if data is None:
            self._is_ended = True
        elif len(self._pending) + len(data) > PENDING_MAX:
            raise DummError(f"more than {PENDING_MAX >> 20} MiB of input are waiting")
        else:
            self._pending += b"" if self._is_dropped else data
            self.count += len(data)
        self.write()

    def drop(self) -> None:
        """Nobody reads it any more."""
        self._is_dropped = True
        self._pending.clear()

    @property
    def is_empty(self) -> bool:
        """Whether everything was passed on."""
        return not self._pending

    def wants(self) -> Wants:
        """The events to poll for."""
        return {self._in: select.POLLOUT} if self._pending and self._in >= 0 else {}

    def write(self) -> None:
        """Write what the pipe has room for. Without a reader, all that follows is dropped."""
        while self._pending and self._in >= 0:
            try:
                del self._pending[: os.write(self._in, self._pending[: 1 << 16])]
            except BlockingIOError:
                return
            except BrokenPipeError:
                self.drop()
        if self._is_ended:
            self.close()

    def close(self) -> None:
        """Close our end."""
        if self._in >= 0:
            os.close(self._in)
        self._in = -1
        self._pending.clear()
