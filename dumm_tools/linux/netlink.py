"""Netlink: rtnetlink(7) messages by pyroute2's message classes, and a small request loop.

pyroute2's own __init__ imports all of it; its message classes alone cost a fifth of that. So
they are reached through a stub of the package. This is the only module that knows pyroute2.

A `Channel` is whatever carries netlink datagrams: a socket to this host's kernel (`host`), or
a guest's control line. Failures are OSError(errno, text, subject).
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

# linux/netlink.h
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

# linux/rtnetlink.h
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWLINKPROP = 108

IFF_UP = 0x1  # linux/if.h
# linux/if_link.h
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_IFLA_PROP_LIST, _IFLA_ALT_IFNAME, _IFLA_PARENT_DEV_NAME = 52, 53, 56
_IFA_F_NODAD = 0x02  # linux/if_addr.h
_RT_SCOPE_HOST = 254
_RT_SCOPE_LINK = 253
_IN6_ADDR_GEN_MODE_NONE = 1  # linux/if_link.h

_HEADER = struct.Struct("=IHHII")
#: Seconds a kernel may take to answer.
TIMEOUT = 10.0
#: Requests on their way at once: their answers fit a socket's default receive buffer.
_WINDOW = 64

#: Attributes as pyroute2 names them, in the order in which they are sent.
Attributes = Sequence[tuple[str, Any]]


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


class Link(NamedTuple):
    """A network device as its kernel describes it. `parent` names the device below it in sysfs."""

    ifindex: int
    name: str
    up: bool
    mac: str
    mtu: int
    parent: str | None
    altnames: tuple[str, ...]


class Address(NamedTuple):
    """An address of a device, written A/P."""

    ifindex: int
    address: str


class _Host:
    """A NETLINK_ROUTE socket of this process's network namespace."""

    def __init__(self) -> None:
        import socket

        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
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
def host() -> Iterator[Channel]:
    """Open a channel to this host's kernel."""
    channel = _Host()
    try:
        yield channel
    finally:
        channel.close()


def transact(channel: Channel, requests: Sequence[Request], timeout: float = TIMEOUT) -> None:
    """Send all the requests, wait for their answers, then raise the first failure.

    The kernel carries out those behind a failed one, too: what must not be done after a failure
    goes in another call. TimeoutError when `timeout` seconds pass without an answer.
    """
    failure: OSError | None = None
    for start in range(0, len(requests), _WINDOW):
        waiting: dict[int, str] = {}
        for number, request in enumerate(requests[start : start + _WINDOW], start + 1):
            channel.send(_numbered(request.data, number, NLM_F_ACK))
            waiting[number] = request.subject
        deadline = time.monotonic() + timeout
        while waiting:
            for kind, flags, number, message in _split(_receive(channel, deadline)):
                if kind != _NLMSG_ERROR or number not in waiting:
                    continue
                failure = failure or _failure(message, flags, waiting[number])
                del waiting[number]
                deadline = time.monotonic() + timeout
    if failure:
        raise failure


def query(channel: Channel, request: Request, timeout: float = TIMEOUT) -> list[bytes]:
    """Send a request for objects (a GET) and return the messages of the answer.

    A dump that the kernel found changing under its hands may miss or repeat an object.
    """
    number = int.from_bytes(os.urandom(4), "little") | 1 << 16
    channel.send(_numbered(request.data, number, 0))
    deadline = time.monotonic() + timeout
    found: list[bytes] = []
    while True:
        for kind, flags, answered, message in _split(_receive(channel, deadline)):
            if answered != number:
                continue
            if kind == _NLMSG_ERROR:
                failure = _failure(message, flags, request.subject)
                if failure:
                    raise failure
                return found
            if kind == _NLMSG_DONE:
                return found
            found.append(message)
            if not flags & NLM_F_MULTI:
                return found


def _receive(channel: Channel, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:  # a guest's kernel may go on without ever answering
        raise TimeoutError
    return channel.receive(left)


def _numbered(message: bytes, number: int, flags: int) -> bytes:
    length, kind, given, _, port = _HEADER.unpack_from(message)
    head = _HEADER.pack(length, kind, given | flags | NLM_F_REQUEST, number, port)
    return head + message[_HEADER.size :]


def _split(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, whole message) of each message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, flags, number, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), "netlink")
        yield kind, flags, number, datagram[offset : offset + length]
        offset += (length + 3) & ~3


def _failure(message: bytes, flags: int, subject: str) -> OSError | None:
    """The error in a struct nlmsgerr, with the kernel's own words where it has some; None for
    an acknowledgement (Documentation/userspace-api/netlink/intro.rst)."""
    if len(message) < _HEADER.size + 4:
        return OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), subject)
    (code,) = struct.unpack_from("=i", message, _HEADER.size)
    if code == 0:
        return None
    text = os.strerror(-code)
    offset = _HEADER.size + 4
    if flags & _NLM_F_ACK_TLVS and len(message) >= offset + 4:
        (echoed,) = struct.unpack_from("=I", message, offset)
        offset += _HEADER.size if flags & _NLM_F_CAPPED else (echoed + 3) & ~3
        while offset + 4 <= len(message):
            length, kind = struct.unpack_from("=HH", message, offset)
            if kind == _NLMSGERR_ATTR_MSG and length > 4:
                words = message[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
                text = f"{text} ({words.rstrip('.')})"
            offset += max(4, (length + 3) & ~3)
    return OSError(-code, text, subject)


def _message_class(module: str, name: str) -> Any:
    """A message class of pyroute2, imported without the package's __init__."""
    if "pyroute2" not in sys.modules:
        import types

        spec = importlib.util.find_spec("pyroute2")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("No module named 'pyroute2'", name="pyroute2")
        stub = types.ModuleType("pyroute2")
        stub.__path__ = list(spec.submodule_search_locations)
        stub.__spec__ = spec
        sys.modules["pyroute2"] = stub
    return getattr(importlib.import_module(f"pyroute2.netlink.rtnl.{module}"), name)


def load() -> None:
    """Import what messages about links and addresses need: some 30 ms, that one may not want
    to spend later, while holding a lock."""
    _message_class("ifinfmsg", "ifinfmsg")
    _message_class("ifaddrmsg", "ifaddrmsg")


def encode(
    module: str,
    name: str,
    kind: int,
    flags: int,
    fields: dict[str, int],
    attributes: Attributes,
) -> bytes:
    """Encode a message of the class `name` in pyroute2.netlink.rtnl.`module`."""
    message = _message_class(module, name)()
    message["header"]["type"] = kind
    message["header"]["flags"] = flags | NLM_F_REQUEST
    for field, value in fields.items():
        message[field] = value
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data)


def _decode(module: str, name: str, data: bytes) -> Any:
    message = _message_class(module, name)(data)
    message.decode()
    return message


def link(
    kind: int,
    subject: str,
    attributes: Attributes = (),
    *,
    index: int = 0,
    up: bool | None = None,
    flags: int = 0,
) -> Request:
    """A message about a network device: by `index`, or where that is 0 by an IFLA_IFNAME (or
    IFLA_ALT_IFNAME) among the attributes. With an index, IFLA_IFNAME is the new name.
    """
    fields = {"family": 0, "index": index}
    if up is not None:
        fields |= {"flags": IFF_UP if up else 0, "change": IFF_UP}
    return Request(encode("ifinfmsg", "ifinfmsg", kind, flags, fields, attributes), subject)


def new_bridge(name: str, mac: str) -> Request:
    """Make a bridge that adds nothing of its own to a segment: no STP, no delay, no snooping.
    OSError(EEXIST) where there is a device of this name."""
    data = [
        ("IFLA_BR_FORWARD_DELAY", 0),
        ("IFLA_BR_STP_STATE", 0),
        ("IFLA_BR_MCAST_SNOOPING", 0),
    ]
    info = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": data})]
    attributes = [
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", mac),
        ("IFLA_LINKINFO", {"attrs": info}),
    ]
    return link(RTM_NEWLINK, name, attributes, flags=NLM_F_CREATE | NLM_F_EXCL)


def no_address_generation() -> tuple[str, Any]:
    """The attribute that keeps the kernel from giving a device a link-local address."""
    inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_NONE)]}
    return ("IFLA_AF_SPEC", {"attrs": [("AF_INET6", inet6)]})


def new_altname(name: str, alternative: str) -> Request:
    """Give a device an alternative name (up to 127 bytes; ip-link(8), `property add`)."""
    names = {"attrs": [("IFLA_ALT_IFNAME", alternative)]}
    attributes = [("IFLA_IFNAME", name), ("IFLA_PROP_LIST", names)]
    flags = NLM_F_CREATE | NLM_F_EXCL
    return link(RTM_NEWLINKPROP, alternative, attributes, flags=flags)


def address(kind: int, index: int, text: str, *, flags: int = 0) -> Request:
    """A message about the address `text` (A/P) of a device.

    Duplicate address detection is left out (IFA_F_NODAD): it would keep an IPv6 address from
    use for a second or two.
    """
    import socket

    host_part, _, prefix = text.partition("/")
    v6 = ":" in host_part
    fields = {
        "family": socket.AF_INET6 if v6 else socket.AF_INET,
        "prefixlen": int(prefix),
        "index": index,
        "scope": 0,
        "flags": 0,
    }
    attributes: list[tuple[str, Any]] = [("IFA_LOCAL", host_part), ("IFA_ADDRESS", host_part)]
    if v6:
        fields["flags"] = _IFA_F_NODAD
        attributes.append(("IFA_FLAGS", _IFA_F_NODAD))
        if socket.inet_pton(socket.AF_INET6, host_part)[:2] == b"\xfe\x80":
            fields["scope"] = _RT_SCOPE_LINK
    else:
        number = int.from_bytes(socket.inet_aton(host_part), "big")
        if number >> 24 == 127:
            fields["scope"] = _RT_SCOPE_HOST
        if int(prefix) < 31:
            everyone = number | (1 << 32 - int(prefix)) - 1
            broadcast = socket.inet_ntoa(everyone.to_bytes(4, "big"))
            attributes.append(("IFA_BROADCAST", broadcast))
    return Request(encode("ifaddrmsg", "ifaddrmsg", kind, flags, fields, attributes), text)


def find_link(channel: Channel, name: str) -> Link:
    """Look a device up by its name; OSError(ENODEV)."""
    request = link(RTM_GETLINK, name, [("IFLA_IFNAME", name)])
    return _link(query(channel, request)[0])


def links(channel: Channel) -> list[Link]:
    """All devices."""
    return [_link(m) for m in query(channel, link(RTM_GETLINK, "links", flags=NLM_F_DUMP))]


def addresses(channel: Channel, index: int) -> list[Address]:
    """The addresses of the device `index`, IPv4 first."""
    data = encode("ifaddrmsg", "ifaddrmsg", RTM_GETADDR, NLM_F_DUMP, {"family": 0}, ())
    found = [_address(m) for m in query(channel, Request(data, "addresses"))]
    # Not every kernel filters a dump by index: only one asked with NETLINK_GET_STRICT_CHK.
    return [a for a in found if a.ifindex == index]


def _link(data: bytes) -> Link:
    # By hand: pyroute2 takes 0.3 ms for each, and a guest may have dozens.
    from dumm_tools.linux import rtattr

    ifindex, flags = rtattr.link_head(data)
    found = rtattr.attributes(data, rtattr.LINK_HEAD)
    parent = found.get(_IFLA_PARENT_DEV_NAME)
    properties = rtattr.split(found.get(_IFLA_PROP_LIST, b""))
    return Link(
        ifindex=ifindex,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        up=bool(flags & IFF_UP),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(found.get(_IFLA_MTU, b"")[:4], sys.byteorder),
        parent=_text(parent) if parent is not None else None,
        altnames=tuple(_text(text) for kind, text in properties if kind == _IFLA_ALT_IFNAME),
    )


def _text(payload: bytes) -> str:
    return payload.partition(b"\0")[0].decode(errors="replace")


def _address(data: bytes) -> Address:
    message = _decode("ifaddrmsg", "ifaddrmsg", data)
    # On a point-to-point device IFA_ADDRESS is the peer's (linux/if_addr.h); IPv6 has no LOCAL.
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return Address(ifindex=int(message["index"]), address=f"{text}/{message['prefixlen']}")
