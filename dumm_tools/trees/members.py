"""The members of an archive of unknown origin, whatever its format and compression."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

from dumm_tools.errors import DummError
from dumm_tools.trees import cpio, decompress, formats, tarball

Archive = tarball.Archive | cpio.Archive

_CHUNK = 64 << 10
_ZEROS = bytes(_CHUNK)
_NONE, _EARLY = "is not a tar archive", "ends too early"
_DAMAGE = (tarfile.TarError, zlib.error, OverflowError, ValueError, UnicodeError)


def each(
    source: BinaryIO,
    label: str,
    take: Callable[[Archive, tarfile.TarInfo], None],
    observe: Callable[[bytes], None] | None = None,
) -> int:
    """Call `take` for all members of an archive, and `observe` with its bytes; return their number.
    DummError if the archive is damaged or ends too early."""
    entries = 0
    try:
        with decompress.plain(source, label) as stream:
            archive = formats.archive(decompress.observed(stream, observe), label)
            while (member := archive.next()) is not None:
                entries += 1
                take(archive, member)
            is_alone = _drain(archive.rest())
        # A fault of the compression has been reported before this: it would be the cause.
        if not archive.ended:
            raise DummError(f"'{label}' {_EARLY if entries else _NONE}")
        if not is_alone:
            raise DummError(f"'{label}' continues after its end: is it several archives in one?")
    except EOFError:
        raise DummError(f"'{label}' {_EARLY}") from None
    except _DAMAGE as e:
        text = str(e) or type(e).__name__
        damaged = entries or isinstance(e, tarball.Damaged | zlib.error)
        raise DummError(f"'{label}' {f'is damaged: {text}' if damaged else _NONE}") from None
    except OSError as e:
        if (
            e.errno is None or type(e).__module__ == "gzip"
        ):  # raised by gzip and bz2 for corrupt data
            raise DummError(f"'{label}' is damaged: {e}") from None
        raise
    return entries


def read(source: BinaryIO, label: str, see: Callable[[tarfile.TarInfo], None]) -> str:
    """Look at the members of an archive; return the SHA-256 of the archive without its
    compression."""
    import hashlib

    digest = hashlib.sha256()
    each(source, label, lambda _, member: see(member), digest.update)
    return digest.hexdigest()


def _drain(stream: BinaryIO) -> bool:
    """Read to the end, which verifies checksums and lets a writing process finish. Return whether
    there was nothing but zeros."""
    zeros = True
    while data := stream.read(_CHUNK):
        zeros = zeros and data == _ZEROS[: len(data)]
    return zeros
