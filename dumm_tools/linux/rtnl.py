"""rtnetlink(7) messages about links and addresses, by pyroute2's message classes.

pyroute2's own __init__ imports all of it; its message classes alone cost a fifth of that. So
they are reached through a stub of the package. This is the only module that knows pyroute2.
"""

from __future__ import annotations

import functools
import importlib.util
import struct
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from dumm_tools.linux import lean, rtattr
from dumm_tools.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    Channel,
    Request,
    decoding,
    query,
    query_one,
)

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
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
#: struct ifaddrmsg: family, prefix length, flags, scope, index.
_IFADDRMSG = struct.Struct("=BBBBI")
_RT_SCOPE_HOST = 254
_RT_SCOPE_LINK = 253
_IN6_ADDR_GEN_MODE_NONE = 1  # linux/if_link.h

#: Attributes as pyroute2 names them, in the order in which they are sent.
Attributes = Sequence[tuple[str, Any]]


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


class _Silence:
    """A logger (logging.Logger) that keeps quiet."""

    def __init__(self, _name: str) -> None:
        self.debug = self.info = self.warning = self.error = lambda *_words: None


@functools.cache
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
    # What it starts processes with, and where it has its say besides raising errors: 8 of 26 ms.
    processes = dict.fromkeys(("Pipe", "Queue", "Process"))
    with lean.stand_ins({"multiprocessing": processes, "logging": {"getLogger": _Silence}}):
        return getattr(importlib.import_module(f"pyroute2.netlink.rtnl.{module}"), name)


def load() -> None:
    """Import what messages about links and addresses need: 10 to 20 ms, that one may not
    want to spend later, while holding a lock."""
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
    return _link(query_one(channel, request))


def index_of(channel: Channel, device: str) -> int:
    """The index of a device; OSError(ENODEV). By hand: pyroute2 is not needed for it."""
    name = rtattr.attribute(_IFLA_IFNAME, device.encode() + b"\0")
    data = rtattr.message(RTM_GETLINK, 0, bytes(rtattr.LINK_HEAD), [name])
    return rtattr.link_head(query_one(channel, Request(data, device)))[0]


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
    import socket

    with decoding("address"):
        family, prefix, _, _, index = _IFADDRMSG.unpack(rtattr.fixed(data, _IFADDRMSG.size))
        found = rtattr.attributes(data, _IFADDRMSG.size)
        # On a point-to-point device IFA_ADDRESS is the peer's (linux/if_addr.h); IPv6 has no LOCAL.
        packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
        return Address(index, f"{socket.inet_ntop(family, packed)}/{prefix}")
