"""rtnetlink(7) messages about links and addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from dumm_tools.linux import message_classes
from dumm_tools.linux.message_classes import Attributes
from dumm_tools.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
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
_IF_LINK_MODE_DEFAULT, _IF_LINK_MODE_DORMANT = 0, 1
_IFA_F_NODAD = 0x02  # linux/if_addr.h
_RT_SCOPE_HOST = 254
_RT_SCOPE_LINK = 253
_IN6_ADDR_GEN_MODE_NONE = 1  # linux/if_link.h
#: All of 01:80:C2:00:00:00 to :0F except for PAUSE frames, which the kernel drops in any case
#: (BR_GROUPFWD_MACPAUSE, net/bridge/br_private.h).
_ALL_GROUPS = 0xFFFD
#: Units of time in messages, per second (asm-generic/param.h).
_USER_HZ = 100


class Link(NamedTuple):
    """A network device as its kernel describes it. `parent` is the name of its parent in sysfs,
    `port_of` the kind of device that it is a port of, such as bond. `foreign`: it is in another
    network namespace of its guest."""

    ifindex: int
    name: str
    mac: str | None
    up: bool
    mtu: int
    parent: str | None
    altnames: tuple[str, ...]
    port_of: str | None
    foreign: bool = False


class Address(NamedTuple):
    """An address of a device, written A/P."""

    ifindex: int
    address: str


def load() -> None:
    """Import the classes of messages about links, their addresses and filters. This takes 25 ms, so
    callers do it before they take a lock."""
    message_classes.link()
    message_classes.address()
    message_classes.bpf_filter()


def link(
    kind: int,
    subject: str,
    attributes: Attributes = (),
    *,
    index: int = 0,
    up: bool | None = None,
    flags: int = 0,
) -> Request:
    """A message about a network device, identified by `index` or, if that is 0, by an IFLA_IFNAME
    (or IFLA_ALT_IFNAME) attribute. With an index, IFLA_IFNAME is the new name.
    """
    fields = {"family": 0, "index": index}
    if up is not None:
        fields |= {"flags": IFF_UP if up else 0, "change": IFF_UP}
    return Request(
        message_classes.encode(message_classes.link(), kind, flags, fields, attributes), subject
    )


def new_bridge(name: str, mac: str, ageing: int = 300) -> Request:
    """Make a bridge that adds nothing of its own to a segment: no STP, no delay, no snooping. It
    remembers for `ageing` seconds where an address is. OSError(EEXIST) if a device has this
    name."""
    data = [
        ("IFLA_BR_AGEING_TIME", ageing * _USER_HZ),
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


def set_ageing(bridge: str, ageing: int) -> Request:
    """Set for how many seconds a bridge remembers where an address is, and make it forget what it
    knows: it would go on using old entries. OSError(ENODEV)."""
    data = [("IFLA_BR_AGEING_TIME", ageing * _USER_HZ), ("IFLA_BR_FDB_FLUSH", True)]
    info = [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": data})]
    attributes = [("IFLA_IFNAME", bridge), ("IFLA_LINKINFO", {"attrs": info})]
    return link(RTM_NEWLINK, bridge, attributes)


def open_port(port: str) -> Request:
    """Make a bridge's port pass frames for the groups that bridges keep for themselves, such as
    those of LLDP and LACP. OSError(EOPNOTSUPP) if the device is not a port.

    This is a message of its own: the kernel sets a port's properties before it changes the port's
    bridge (rtnl_changelink, net/core/rtnetlink.c).
    """
    data = {"attrs": [("IFLA_BRPORT_GROUP_FWD_MASK", _ALL_GROUPS)]}
    info = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", data)]
    return link(RTM_NEWLINK, port, [("IFLA_IFNAME", port), ("IFLA_LINKINFO", {"attrs": info})])


def no_address_generation() -> tuple[str, Any]:
    """The attribute that stops the kernel from giving a device a link-local address."""
    inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_NONE)]}
    return ("IFLA_AF_SPEC", {"attrs": [("AF_INET6", inet6)]})


def carrier(on: bool) -> Attributes:
    """The attributes that give a device a carrier, or make it wait for one (NO-CARRIER), whether
    it is up or not (set_operstate, net/core/rtnetlink.c). They last until they are set again: the
    vector driver reports no carrier of its own."""
    mode = _IF_LINK_MODE_DEFAULT if on else _IF_LINK_MODE_DORMANT
    return [("IFLA_OPERSTATE", "UP" if on else "DORMANT"), ("IFLA_LINKMODE", mode)]


def new_altname(name: str, alternative: str) -> Request:
    """Give a device an alternative name (up to 127 bytes; ip-link(8), `property add`)."""
    names = {"attrs": [("IFLA_ALT_IFNAME", alternative)]}
    attributes = [("IFLA_IFNAME", name), ("IFLA_PROP_LIST", names)]
    flags = NLM_F_CREATE | NLM_F_EXCL
    return link(RTM_NEWLINKPROP, alternative, attributes, flags=flags)


def address(kind: int, index: int, text: str, *, flags: int = 0) -> Request:
    """A message about the address `text` (A/P) of a device.

    It turns off duplicate address detection (IFA_F_NODAD), which would make an IPv6 address
    unusable for a second or two.
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
    return Request(
        message_classes.encode(message_classes.address(), kind, flags, fields, attributes), text
    )


def find_link(channel: Channel, name: str) -> Link:
    """Look up a device by its name; OSError(ENODEV)."""
    request = link(RTM_GETLINK, name, [("IFLA_IFNAME", name)])
    return _link(query_one(channel, request))


def links(channel: Channel, containing: bytes = b"") -> Iterator[Link]:
    """All devices whose descriptions contain these bytes. Decoding a description takes 0.15 ms, so
    that is done for one after the other."""
    found = query(channel, link(RTM_GETLINK, "links", flags=NLM_F_DUMP))
    return (_link(message) for message in found if containing in message)


def addresses(channel: Channel, index: int) -> list[Address]:
    """The addresses of the device `index`, IPv4 first."""
    data = message_classes.encode(message_classes.address(), RTM_GETADDR, NLM_F_DUMP, {"family": 0})
    found = [_address(m) for m in query(channel, Request(data, "addresses"))]
    # A kernel filters a dump by index only if the socket has NETLINK_GET_STRICT_CHK.
    return [a for a in found if a.ifindex == index]


def _link(data: bytes) -> Link:
    message = message_classes.decode(message_classes.link(), data, "link")
    with decoding("link"):
        properties = message_classes.value(message, "IFLA_PROP_LIST", dict)
        info = message_classes.value(message, "IFLA_LINKINFO", dict)
        return Link(
            ifindex=message["index"],
            name=message_classes.text(message, "IFLA_IFNAME") or "",
            mac=message_classes.text(message, "IFLA_ADDRESS"),
            up=bool(message["flags"] & IFF_UP),
            mtu=message_classes.value(message, "IFLA_MTU", int) or 0,
            parent=message_classes.text(message, "IFLA_PARENT_DEV_NAME"),
            altnames=message_classes.texts(properties, "IFLA_ALT_IFNAME") if properties else (),
            port_of=message_classes.text(info, "IFLA_INFO_SLAVE_KIND") if info else None,
        )


def _address(data: bytes) -> Address:
    message = message_classes.decode(message_classes.address(), data, "address")
    with decoding("address"):
        # On a point-to-point device IFA_ADDRESS is the peer's (linux/if_addr.h); IPv6 has no LOCAL.
        local = message_classes.value(message, "IFA_LOCAL", str)
        host = local or message_classes.value(message, "IFA_ADDRESS", str)
        if host is None:
            raise ValueError("no address")
        return Address(message["index"], f"{host}/{message['prefixlen']}")
