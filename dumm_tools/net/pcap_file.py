"""Reading the packets of a pcapng file (draft-ietf-opsawg-pcapng), as `pcapng` writes it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from dumm_tools.errors import DummError

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_NAME, _RESOLUTION = 2, 9
_LITTLE = b"\x4d\x3c\x2b\x1a"


class Packet(NamedTuple):
    """A captured packet: its time in seconds since the Epoch, the interface or bridge that it was
    seen on, and its bytes from the Ethernet header on. `time_ns` is the time in nanoseconds."""

    time: float
    time_ns: int
    name: str
    data: bytes


class _Interface(NamedTuple):
    name: str
    ticks: int  # per second


def packets(data: bytes) -> Iterator[Packet]:
    """The packets of a file; one that is still being written may end within a block. DummError if
    it is not pcapng."""
    try:
        yield from _packets(data)
    except (struct.error, IndexError):
        raise DummError("not a pcapng file: a block is too short") from None


def _packets(data: bytes) -> Iterator[Packet]:
    found: list[_Interface] = []
    for kind, order, body in _blocks(data):
        if kind == _SECTION:
            found = []
        elif kind == _INTERFACE:
            found.append(_interface(order, body))
        elif kind == _PACKET:
            number, high, low, size = struct.unpack_from(f"{order}IIII", body)
            interface = found[number]
            ticks = high << 32 | low
            when = ticks * 10**9 // interface.ticks
            yield Packet(when / 10**9, when, interface.name, body[20 : 20 + size])


def _blocks(data: bytes) -> Iterator[tuple[int, str, bytes]]:
    """Each block: its type, the byte order of its section, its body."""
    at, order = 0, "<"
    if data[:4] not in (b"", _SECTION.to_bytes(4, "little")):
        raise DummError("not a pcapng file")
    while at + 12 <= len(data):
        (kind,) = struct.unpack_from(f"{order}I", data, at)
        if kind == _SECTION:
            order = "<" if data[at + 8 : at + 12] == _LITTLE else ">"
        (size,) = struct.unpack_from(f"{order}I", data, at + 4)
        if size < 12 or size % 4:
            raise DummError(f"not a pcapng file: a block of {size} bytes")
        if at + size > len(data):
            return
        yield kind, order, data[at + 8 : at + size - 4]
        at += size


def _interface(order: str, body: bytes) -> _Interface:
    name, ticks, at = "", 10**6, 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if code == _NAME:
            name = value.decode("utf-8", "backslashreplace")
        elif code == _RESOLUTION and value:
            ticks = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        at += 4 + size + -size % 4
        if code == 0:
            break
    return _Interface(name, ticks)
