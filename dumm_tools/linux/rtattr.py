"""rtnetlink messages by hand, for those that pyroute2's classes are too slow to import for:
a header, a fixed part, and attributes (rtnetlink(7))."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from dumm_tools.linux import netlink

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
#: struct ifinfomsg: family, padding, type, index, flags, change.
_IFINFOMSG = struct.Struct("=BxHiII")
LINK_HEAD = _IFINFOMSG.size
#: NLA_F_NESTED and NLA_F_NET_BYTEORDER: no part of the type (linux/netlink.h).
_TYPE = 0x3FFF


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, filled up to four bytes."""
    head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind)
    return head + payload + bytes(-len(payload) % 4)


def message(kind: int, flags: int, fixed: bytes, attributes: Sequence[bytes] = ()) -> bytes:
    """A whole message; its sequence number is put in when it is sent."""
    body = fixed + b"".join(attributes)
    head = _HEADER.pack(_HEADER.size + len(body), kind, flags | netlink.NLM_F_REQUEST, 0, 0)
    return head + body


def fixed(data: bytes, size: int) -> bytes:
    """The fixed part of a received message, which is `size` bytes long."""
    return data[_HEADER.size : _HEADER.size + size]


def attributes(data: bytes, size: int) -> dict[int, bytes]:
    """The attributes of a received message behind its fixed part of `size` bytes."""
    return dict(split(data[_HEADER.size + size :]))


def split(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each attribute in `data`; what is damaged ends it."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            return
        yield kind & _TYPE, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def link_head(data: bytes) -> tuple[int, int]:
    """The index and the flags in a message about a link (struct ifinfomsg); OSError(EBADMSG)."""
    with netlink.decoding("link"):
        _, _, index, flags, _ = _IFINFOMSG.unpack(fixed(data, LINK_HEAD))
    return index, flags
