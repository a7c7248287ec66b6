"""Blocks of a pcapng file (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import struct
import time

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_MAGIC, _UNKNOWN_LENGTH = 0x1A2B3C4D, 0xFFFFFFFFFFFFFFFF
_ETHERNET = 1
_USER_APPLICATION = 4
_NAME, _DESCRIPTION, _RESOLUTION, _FILTER = 2, 3, 9, 11
_RECEIVED, _DROPPED = 4, 5
_NANOSECONDS = b"\x09"
_FILTER_STRING = b"\0"


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(*options: tuple[int, bytes]) -> bytes:
    given = [(code, value) for code, value in options if value]
    coded = [struct.pack("<HH", code, len(value)) + _padded(value) for code, value in given]
    return b"".join(coded) + bytes(4) if coded else b""


def section(program: str) -> bytes:
    """The beginning of a file that `program` writes."""
    head = struct.pack("<IHHQ", _MAGIC, 1, 0, _UNKNOWN_LENGTH)
    return _block(_SECTION, head + _options((_USER_APPLICATION, program.encode())))


def interface(name: str, description: str = "", expression: str = "") -> bytes:
    """An Ethernet interface with its name and the filter that its packets have passed; they refer
    to it by its position in the file."""
    options = _options(
        (_NAME, name.encode()),
        (_DESCRIPTION, description.encode()),
        (_RESOLUTION, _NANOSECONDS),
        (_FILTER, _FILTER_STRING + expression.encode() if expression else b""),
    )
    return _block(_INTERFACE, struct.pack("<HHI", _ETHERNET, 0, 0) + options)


def packet(number: int, when: int, data: bytes) -> bytes:
    """A packet on interface `number`, at a time in nanoseconds since the Epoch."""
    size = len(data)
    padded = size + -size % 4
    return b"".join(
        (
            struct.pack(
                "<IIIIIII",
                _PACKET,
                32 + padded,
                number,
                when >> 32,
                when & 0xFFFFFFFF,
                size,
                size,
            ),
            data,
            bytes(padded - size),
            struct.pack("<I", 32 + padded),
        )
    )


def statistics(number: int, received: int, dropped: int) -> bytes:
    """How many packets interface `number` has had until now, and lost."""
    when = time.time_ns()
    head = struct.pack("<III", number, when >> 32, when & 0xFFFFFFFF)
    counts = ((_RECEIVED, struct.pack("<Q", received)), (_DROPPED, struct.pack("<Q", dropped)))
    return _block(_STATISTICS, head + _options(*counts))
