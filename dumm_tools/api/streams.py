"""The outputs of a program that runs, as they come."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import IO, Any, AnyStr, Generic, cast

from dumm_tools.errors import DummError, SessionEnded

#: Bytes that are kept in memory until they are read; the rest is kept in a temporary file.
IN_MEMORY = 1 << 20
#: Why a child cannot use what its parent has started.
FORKED = "this program belongs to the process that has forked this one"


class Output(Generic[AnyStr]):
    """The stdout or stderr of a program: iterate over its lines, or `read` it.

    Output that has not been read yet is kept, up to 1 MiB in memory and the rest in a temporary
    file: a program is not slowed down by its reader. For an output of unknown size, name a file
    instead (`popen(..., stdout=PATH)`): if there is no space for the temporary one, the program is
    killed, and reading raises DummError after what was kept.
    """

    def __init__(self, *, text: bool) -> None:
        self._text = text
        self._change = threading.Condition()
        self._data = bytearray()
        self._file: IO[bytes] | None = None
        self._read = self._written = 0  # positions in the file
        self._is_over = False
        self._error: DummError | None = None  # why there is no more
        _outputs.add(self)

    def __iter__(self) -> Iterator[AnyStr]:
        return self

    def __next__(self) -> AnyStr:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def readline(self) -> AnyStr:
        """The next line with its line end, as soon as there is a whole one; empty at the end."""
        with self._change:
            looked = 0
            while True:
                self._fill()
                at = self._data.find(b"\n", looked) + 1
                if at or (self._is_over and not self._left()):
                    self._check(at or len(self._data))
                    return self._take(at or len(self._data))
                looked = len(self._data)
                if not self._left():
                    self._change.wait()
                else:
                    self._fill(len(self._data) + IN_MEMORY)

    def read(self, size: int = -1) -> AnyStr:
        """All of the rest, once the program has ended; or up to `size` bytes of it, as soon as
        there are some. Empty at the end."""
        with self._change:
            while not self._is_over and (size < 0 or not self._data):
                self._change.wait()
            self._check(0 if size < 0 else len(self._data))
            if size < 0:
                self._fill(len(self._data) + self._left())
            found = self._take(len(self._data) if size < 0 else min(size, len(self._data)))
            self._fill()
            return found

    def feed(self, data: bytes) -> None:
        """Take what has come; b"" is the end. DummError if there is no space for it."""
        with self._change:
            if not data:
                self._is_over = True
            elif self._error is not None:
                raise self._error
            elif self._file is None and len(self._data) + len(data) <= IN_MEMORY:
                self._data += data
            else:
                try:
                    self._spill(data)
                except OSError as e:
                    where = tempfile.gettempdir()
                    self._error = DummError(f"cannot keep output in '{where}': {e.strerror}")
                    self._is_over = True
                    self._change.notify_all()
                    raise self._error from None
            self._change.notify_all()

    def _check(self, found: int) -> None:
        """Raise the error, if that is all there is."""
        if self._error is not None and not found:
            raise self._error

    def _abandon(self) -> None:
        """In a child process that was forked: nothing comes any more."""
        self._change = threading.Condition()
        if not self._is_over:
            self._error, self._is_over = SessionEnded(FORKED), True

    def _left(self) -> int:
        return self._written - self._read

    def _spill(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="dumm-output-", buffering=0)  # noqa: SIM115
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file.fileno(), view, self._written)
            self._written += count
            view = view[count:]

    def _fill(self, size: int = 1) -> None:
        """Have so many bytes in memory, if they are in the file."""
        if self._file is None or len(self._data) >= size:
            return
        wanted = min(self._left(), max(IN_MEMORY, size - len(self._data)))
        data = os.pread(self._file.fileno(), wanted, self._read)
        self._read += len(data)
        self._data += data
        if not self._left():
            self._file.close()
            self._file, self._read, self._written = None, 0, 0

    def _take(self, size: int) -> AnyStr:
        if self._text and size < len(self._data):
            size = _whole(self._data, size)
        data = bytes(self._data[:size])
        del self._data[:size]
        return cast(AnyStr, data.decode("utf-8", "backslashreplace") if self._text else data)


def _whole(data: bytearray, size: int) -> int:
    """Shorten `size`, or lengthen it rather than to nothing, so that no character is cut."""
    at = size
    while at > 0 and size - at < 4 and data[at] & 0xC0 == 0x80:
        at -= 1
    if at > 0:
        return at
    while size < min(4, len(data)) and data[size] & 0xC0 == 0x80:
        size += 1
    return size


_outputs: weakref.WeakSet[Output[Any]] = weakref.WeakSet()


def _forked() -> None:
    for output in list(_outputs):
        output._abandon()


os.register_at_fork(after_in_child=_forked)
