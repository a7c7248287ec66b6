"""The parts of the ELF format (elf(5)) needed to recognize a kernel binary, and the libraries that
it loads. Files may come from anybody: nothing in them is run, and no number in them is trusted."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection
from typing import NamedTuple

from dumm_tools.errors import DummError

_EXECUTABLE_TYPES = (2, 3)  # ET_EXEC, ET_DYN
_X86_64 = 62  # EM_X86_64
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ = 0, 1, 5, 10
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
#: The kernel accepts at most 64 KiB of them (load_elf_phdrs in fs/binfmt_elf.c).
_SEGMENTS_MAX = (64 << 10) // _SEGMENT.size
_DYNAMIC_MAX = 64 << 10
_NEEDED_MAX = 256
_NAME_MAX = 4096  # PATH_MAX
#: Larger than any kernel or library with all its symbols.
SIZE_MAX = 2 << 30
_CHUNK = 1 << 20


class Image(NamedTuple):
    """The needs of a program or library: its loader, None for a static one, and its libraries."""

    interpreter: str | None
    needed: tuple[str, ...]


class _Broken(Exception):
    """The file contradicts its headers."""


def opened(path: str) -> int:
    """Open a file of any origin; return a descriptor. DummError if it cannot be read."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as e:
        raise DummError(f"cannot read '{path}': {e.strerror}") from None


def is_static(path: str) -> bool:
    """Whether a program needs no loader. DummError if it is not an x86-64 Linux program."""
    fd = opened(path)
    try:
        return image(fd, path).interpreter is None
    finally:
        os.close(fd)


def image(fd: int, path: str) -> Image:
    """The needs of an open file, which messages call `path`. DummError if it is not an x86-64 Linux
    program or library."""
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > SIZE_MAX:
            raise _Broken
        segments = _segments(fd, info.st_size)
        return Image(_interpreter(fd, segments), _needed(fd, segments))
    except (_Broken, OSError):
        raise DummError(f"'{path}' is not an x86-64 Linux program") from None


def find(fd: int, pattern: bytes, end: int = SIZE_MAX) -> int | None:
    """The position of the first `pattern` in an open file, which may be large and may change; not
    much after `end` it is not looked for."""
    at, tail = 0, b""
    while at < end and (data := os.pread(fd, _CHUNK, at)):
        window = tail + data
        place = window.find(pattern)
        if place >= 0:
            return at - len(tail) + place
        at += len(data)
        tail = window[1 - len(pattern) :]
    return None


def contained(fd: int, patterns: Collection[bytes], end: int) -> set[bytes]:
    """Those patterns that an open file contains, in one pass."""
    at, tail = 0, b""
    left = set(patterns)
    overlap = max(map(len, patterns)) - 1
    while at < end and left and (data := os.pread(fd, _CHUNK, at)):
        window = tail + data
        left -= {pattern for pattern in left if pattern in window}
        at += len(data)
        tail = window[-overlap:]
    return set(patterns) - left


def loaded_end(fd: int, path: str) -> int:
    """The end of what is loaded of a program: symbols and other notes follow. DummError."""
    try:
        segments = _segments(fd, os.fstat(fd).st_size)
    except (_Broken, OSError):
        raise DummError(f"'{path}' is not an x86-64 Linux program") from None
    return max((s.offset + s.size for s in segments if s.kind == _PT_LOAD), default=0)


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size: int


def _read(fd: int, size: int, offset: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) < size:
        raise _Broken
    return data


def _segments(fd: int, size: int) -> list[_Segment]:
    header = _read(fd, _HEADER.size, 0)
    if header[:6] != b"\x7fELF\x02\x01":
        raise _Broken
    values = _HEADER.unpack(header)
    kind, machine, table, entry_size, count = (values[i] for i in (1, 2, 5, 9, 10))
    if kind not in _EXECUTABLE_TYPES or machine != _X86_64 or entry_size != _SEGMENT.size:
        raise _Broken
    if count > _SEGMENTS_MAX or table > size:
        raise _Broken
    found = []
    for values in _SEGMENT.iter_unpack(_read(fd, count * entry_size, table)):
        segment = _Segment(values[0], values[2], values[3], values[5])
        if segment.kind in (_PT_LOAD, _PT_DYNAMIC, _PT_INTERP):
            if segment.offset + segment.size > size:
                raise _Broken
            found.append(segment)
    return found


def _interpreter(fd: int, segments: list[_Segment]) -> str | None:
    for segment in segments:
        if segment.kind == _PT_INTERP:
            if segment.size > _NAME_MAX:
                raise _Broken
            name, end, _ = _read(fd, segment.size, segment.offset).partition(b"\0")
            if not name or not end:
                raise _Broken
            return os.fsdecode(name)
    return None


def _needed(fd: int, segments: list[_Segment]) -> tuple[str, ...]:
    dynamic = next((s for s in segments if s.kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return ()
    if dynamic.size > _DYNAMIC_MAX:
        raise _Broken
    data = _read(fd, dynamic.size // _DYNAMIC.size * _DYNAMIC.size, dynamic.offset)
    places: list[int] = []
    numbers: dict[int, int] = {}
    for tag, value in _DYNAMIC.iter_unpack(data):
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            places.append(value)
        else:
            numbers[tag] = value
    if not places:
        return ()
    address, size = numbers.get(_DT_STRTAB), numbers.get(_DT_STRSZ)
    if address is None or size is None or len(places) > _NEEDED_MAX:
        raise _Broken
    strings = _offset(segments, address, size)
    return tuple(_string(fd, strings, size, place) for place in places)


def _offset(segments: list[_Segment], address: int, size: int) -> int:
    """The position in the file of what a program sees at `address`."""
    for segment in segments:
        if segment.kind == _PT_LOAD and segment.address <= address:
            at = address - segment.address
            if at + size <= segment.size:
                return segment.offset + at
    raise _Broken


def _string(fd: int, strings: int, size: int, place: int) -> str:
    if place >= size:
        raise _Broken
    name, end, _ = os.pread(fd, min(size - place, _NAME_MAX), strings + place).partition(b"\0")
    if not name or not end:
        raise _Broken
    return os.fsdecode(name)
