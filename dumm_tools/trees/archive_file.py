"""The file that an archive is written to, whole or not at all, or read from; `-` is stdout or
stdin."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from dumm_tools.errors import Conflict, NotFound, Usage
from dumm_tools.trees import replacing

Report = Callable[[str], None]


@contextlib.contextmanager
def output(target: str, mode: int = 0o600) -> Iterator[int]:
    """The descriptor to write to. A regular file gets its name when it is complete; one that
    replaces another has its mode."""
    if target == "-":
        if os.isatty(1):
            raise Usage("standard output is a terminal, not a file")
        yield 1
        return
    target = os.path.realpath(target)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        there = os.stat(target).st_mode
        if stat.S_ISDIR(there):
            raise Conflict(f"'{target}' is a directory")
        mode = there & 0o777
        if not stat.S_ISREG(there):
            fd = os.open(target, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)
            return
    place, name = os.path.split(target)
    try:
        at = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no such directory '{place}'") from None
    try:
        with replacing.file(at, name) as fd:
            yield fd
            os.fchmod(fd, mode)
    finally:
        os.close(at)


def write(pieces: Iterable[bytes], fd: int, progress: Report | None = None) -> None:
    """Write an archive to an open file, compressed if this host has zstd."""
    import shutil

    counted = _counted(pieces, progress)
    if shutil.which("zstd") is None:
        for piece in counted:
            while piece:
                piece = piece[os.write(fd, piece) :]
        return
    from dumm_tools import foreground

    foreground.filtered(["zstd", "-q", "-c"], counted, fd)


@contextlib.contextmanager
def source(path: str) -> Iterator[tuple[BinaryIO, str]]:
    """An open archive, and its name for messages."""
    if path == "-":
        if os.isatty(0):
            raise Usage("standard input is a terminal, not an archive")
        with open(0, "rb", buffering=0, closefd=False) as stream:
            yield stream, "standard input"
        return
    try:
        stream = open(path, "rb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        raise NotFound(f"no such file '{path}'") from None
    with stream:
        if stat.S_ISDIR(os.fstat(stream.fileno()).st_mode):
            raise Conflict(f"'{path}' is a directory, not an archive")
        yield stream, path


def _counted(pieces: Iterable[bytes], progress: Report | None) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        yield piece
        if progress and (done + len(piece)) >> 24 > done >> 24:
            progress(f"{(done + len(piece)) >> 20} MB")
        done += len(piece)
