"""Netlink (netlink(7)): requests that are sent to a kernel, and its answers.

A `Channel` is whatever carries netlink datagrams: a socket to this host's kernel (`host`), or
a guest's control line. Failures are OSError(errno, text, subject).
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

# linux/netlink.h
NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_ACK = 0x04
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11

_HEADER = struct.Struct("=IHHII")
#: The type of the answer to a request, and its minimum size after the header: for RTM_GETLINK,
#: GETADDR, GETROUTE, GETRULE and GETQDISC (linux/rtnetlink.h), and for NFT_MSG_GETTABLE of
#: nfnetlink.
_ANSWERS = {18: (16, 16), 22: (20, 8), 26: (24, 12), 34: (32, 12), 38: (36, 20), 0xA01: (0xA00, 4)}
_ERRNO_MAX = 4095  # linux/err.h
#: Maximum length of the kernel's own message in an error.
_WORDS_MAX = 200
#: Seconds to wait for an answer.
TIMEOUT = 10.0
#: Requests in flight: their answers fit into a socket's default receive buffer.
_WINDOW = 64


class Channel(Protocol):
    """Carries netlink datagrams to a kernel and back."""

    def send(self, data: bytes, /) -> None: ...

    def receive(self, timeout: float, /) -> bytes:
        """One datagram; TimeoutError after `timeout` seconds."""
        ...


class Request(NamedTuple):
    """An encoded message and what it is about, for the error. Its sequence number is put in
    when it is sent."""

    data: bytes
    subject: str


class _Host:
    """A netlink socket of this process's network namespace."""

    def __init__(self, protocol: int) -> None:
        import socket

        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))

    def send(self, data: bytes, /) -> None:
        self._socket.send(data)

    def receive(self, timeout: float, /) -> bytes:
        self._socket.settimeout(timeout)
        return self._socket.recv(1 << 20)

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def host(protocol: int = NETLINK_ROUTE) -> Iterator[Channel]:
    """Open a channel to this host's kernel."""
    channel = _Host(protocol)
    try:
        yield channel
    finally:
        channel.close()


def transact(channel: Channel, requests: Sequence[Request], timeout: float = TIMEOUT) -> None:
    """Send all requests, wait for their answers, then raise the first failure.

    The kernel also carries out the requests after a failed one: use another call for requests that
    must not be carried out after a failure. TimeoutError if `timeout` seconds pass without an
    answer.
    """
    failure: OSError | None = None
    for start in range(0, len(requests), _WINDOW):
        waiting: dict[int, str] = {}
        for number, request in enumerate(requests[start : start + _WINDOW], start + 1):
            channel.send(_numbered(request.data, number, NLM_F_ACK))
            waiting[number] = request.subject
        deadline = time.monotonic() + timeout
        while waiting:
            for kind, flags, number, message in split(_receive(channel, deadline)):
                if kind != _NLMSG_ERROR or number not in waiting:
                    continue
                failure = failure or _failure(message, flags, waiting[number])
                del waiting[number]
                deadline = time.monotonic() + timeout
    if failure:
        raise failure


def query(channel: Channel, request: Request, timeout: float = TIMEOUT) -> list[bytes]:
    """Send a request for objects (a GET) and return the messages of the answer.

    A dump of objects that change meanwhile may miss or repeat an object. The channel limits the
    size of an answer.
    """
    wanted, size = _ANSWERS[struct.unpack_from("=H", request.data, 4)[0]]
    least = _HEADER.size + size
    number = int.from_bytes(os.urandom(4), "little") | 1 << 16
    channel.send(_numbered(request.data, number, 0))
    deadline = time.monotonic() + timeout
    found: list[bytes] = []
    while True:
        for kind, flags, answered, message in split(_receive(channel, deadline)):
            if answered != number:
                continue
            if kind == _NLMSG_ERROR:
                failure = _failure(message, flags, request.subject)
                if failure:
                    raise failure
                return found
            if kind == _NLMSG_DONE:
                return found
            if kind != wanted or len(message) < least:
                raise _bad(request.subject)
            found.append(message)
            if not flags & NLM_F_MULTI:
                return found


def query_one(channel: Channel, request: Request) -> bytes:
    """Return the answer to a request for one object."""
    found = query(channel, request)
    if not found:
        raise _bad(request.subject)
    return found[0]


@contextlib.contextmanager
def decoding(subject: str) -> Iterator[None]:
    """Turn decoding errors in the block into OSError(EBADMSG): a guest's kernel may send
    anything, and pyroute2 may then raise anything."""
    try:
        yield
    except Exception:
        raise _bad(subject) from None


def _bad(subject: str) -> OSError:
    return OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), subject)


def _receive(channel: Channel, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:  # a guest's kernel may send messages forever without answering
        raise TimeoutError
    return channel.receive(left)


def _numbered(message: bytes, number: int, flags: int) -> bytes:
    length, kind, given, _, port = _HEADER.unpack_from(message)
    head = _HEADER.pack(length, kind, given | flags | NLM_F_REQUEST, number, port)
    return head + message[_HEADER.size :]


def split(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, whole message) of each message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, flags, number, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            raise _bad("netlink")
        yield kind, flags, number, datagram[offset : offset + length]
        offset += (length + 3) & ~3


def _failure(message: bytes, flags: int, subject: str) -> OSError | None:
    """The error in a struct nlmsgerr, with the kernel's own message if there is one; None for an
    acknowledgement (Documentation/userspace-api/netlink/intro.rst)."""
    if len(message) < _HEADER.size + 4:
        return _bad(subject)
    (code,) = struct.unpack_from("=i", message, _HEADER.size)
    if code == 0:
        return None
    if not -_ERRNO_MAX <= code < 0:
        return _bad(subject)
    text = os.strerror(-code)
    offset = _HEADER.size + 4
    if flags & _NLM_F_ACK_TLVS and len(message) >= offset + 4:
        (echoed,) = struct.unpack_from("=I", message, offset)
        offset += _HEADER.size if flags & _NLM_F_CAPPED else (echoed + 3) & ~3
        while offset + 4 <= len(message):
            length, kind = struct.unpack_from("=HH", message, offset)
            if kind == _NLMSGERR_ATTR_MSG and length > 4:
                words = message[offset + 4 : offset + min(length, _WORDS_MAX)].rstrip(b"\0")
                text = f"{text} ({words.decode(errors='replace').rstrip('.')})"
            offset += max(4, (length + 3) & ~3)
    return OSError(-code, text, subject)
