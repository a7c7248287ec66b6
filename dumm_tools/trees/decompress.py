"""Decompress a stream by its first bytes: gzip, bzip2, xz, zstd or plain.

The stream need not be seekable, and uses no more than a fixed amount of memory whatever it claims.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from dumm_tools.errors import DummError

if TYPE_CHECKING:
    import lzma

    from _typeshed import WriteableBuffer as Buffer

_CHUNK = 64 << 10
#: `xz -9` needs 65 MiB.
_XZ_MEMORY = 100 << 20


class _Headed(io.RawIOBase):
    """A stream whose first bytes have already been read, since a pipe cannot seek back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer with the head first."""
        view = memoryview(buffer)
        data = self._head[: len(view)] or self._rest.read(len(view))
        self._head = self._head[len(data) :]
        view[: len(data)] = data
        return len(data)


class _Xz(io.RawIOBase):
    """A decompressed xz stream; lzma's own class would use as much memory as the stream says."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decompressor = self._fresh()

    def _fresh(self) -> lzma.LZMADecompressor:
        import lzma

        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer; an archive may be several concatenated streams."""
        view = memoryview(buffer)
        while True:
            old = self._decompressor
            data = b""
            if old.eof:
                data = old.unused_data.lstrip(b"\0")
                while not data:
                    more = self._source.read(_CHUNK)
                    if not more:
                        return 0
                    data = more.lstrip(b"\0")
                self._decompressor = old = self._fresh()
            elif old.needs_input:
                data = self._source.read(_CHUNK)
                if not data:
                    raise EOFError("unexpected end of data")
            out = old.decompress(data, len(view))
            if out:
                view[: len(out)] = out
                return len(out)


class _Observed(io.RawIOBase):
    """A stream whose bytes are shown to `observe` as they are read."""

    def __init__(self, source: BinaryIO, observe: Callable[[bytes], None]) -> None:
        self._source = source
        self._observe = observe

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer."""
        view = memoryview(buffer)
        data = self._source.read(len(view))
        self._observe(data)
        view[: len(data)] = data
        return len(data)


def observed(stream: BinaryIO, observe: Callable[[bytes], None] | None) -> BinaryIO:
    """The same stream; `observe` gets all bytes that are read."""
    return io.BufferedReader(_Observed(stream, observe), 1 << 20) if observe else stream


def headed(head: bytes, rest: BinaryIO) -> BinaryIO:
    """A stream of which `head` has been read already."""
    return io.BufferedReader(_Headed(head, rest), 1 << 20)


@contextlib.contextmanager
def plain(source: BinaryIO, label: str) -> Iterator[BinaryIO]:
    """The decompressed stream. Whether it is whole is known once it has been read to its end, and
    the context is left: EOFError if it is not, DummError with `label`, OSError or zlib.error if it
    is damaged."""
    magic = b""
    while len(magic) < 6 and (more := source.read(6 - len(magic))):
        magic += more
    buffered = headed(magic, source)
    if magic.startswith(b"\x1f\x8b"):
        import gzip

        with gzip.GzipFile(fileobj=buffered) as stream:
            yield stream  # type: ignore[misc]
    elif magic.startswith(b"BZh"):
        import bz2

        with bz2.BZ2File(buffered) as stream:
            yield stream  # type: ignore[misc]
    elif magic.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        import lzma

        try:
            yield io.BufferedReader(_Xz(buffered), 1 << 20)
        except lzma.LZMAError as e:
            raise DummError(f"'{label}' is damaged: {e}") from None
    elif magic.startswith(b"\x28\xb5\x2f\xfd"):
        from dumm_tools import foreground

        chunks = iter(lambda: buffered.read(_CHUNK), b"")
        try:
            with (
                foreground.decompressed(["zstd", "-dc"], chunks) as fd,
                open(fd, "rb", closefd=False) as stream,
            ):
                yield stream
        except foreground.ProgramFailed as e:
            if "premature end" in e.stderr or "unexpected end" in e.stderr:
                raise EOFError("unexpected end of data") from None
            why = e.stderr.strip().rpartition(": ")[2] or str(e)
            raise DummError(f"'{label}' is damaged: {why}") from None
    else:
        yield buffered
