"""Addresses as users write them: A/P and MAC addresses, validated and normalized."""

from __future__ import annotations

import zlib
from collections.abc import Container

from dumm_tools.errors import Conflict, NotFound, Usage

#: Minimum MTU of IPv4, and maximum on a tap: 65535 less the Ethernet header.
MTU_MIN = 68
MTU_MAX = 65521
#: Minimum MTU of IPv6 (RFC 8200, section 5); below it the kernel disables IPv6.
MTU_MIN_IPV6 = 1280
_EXAMPLES = "such as 10.0.0.1/24 or fd00::1/64"


def interface(text: str) -> str:
    """Return an address with its prefix length in canonical form, keeping host bits; Usage."""
    import socket

    address, slash, prefix = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        hint = "such as fd00::1/64" if family == socket.AF_INET6 else _EXAMPLES
        raise Usage(f"bad address {text!r}", hint=hint) from None
    if not slash:
        usual = 64 if family == socket.AF_INET6 else 24
        raise Usage(f"address '{address}' has no prefix length", hint=f"such as {address}/{usual}")
    bits = 8 * len(packed)
    if not (prefix.isascii() and prefix.isdecimal() and len(prefix) <= 3 and int(prefix) <= bits):
        raise Usage(f"bad prefix length in {text!r}", hint=f"0 to {bits}")
    if bits == 32:
        unfit = packed[0] & 0xF0 == 0xE0 or packed[0] == 127 or packed == b"\xff" * 4
    else:
        unfit = packed[0] == 0xFF or packed == bytes(15) + b"\1"
    if unfit or not any(packed):
        raise Usage(f"'{address}' cannot be an interface's address")
    if not int(prefix):
        raise Usage(
            f"'{text}' would make every address a neighbour", hint=f"such as {address}/{bits}"
        )
    found = f"{socket.inet_ntop(family, packed)}/{int(prefix)}"
    if is_reserved(address, found):
        raise Usage(f"'{address}' is not a host address in {network(found, strict=False)}")
    return found


def is_reserved(text: str, of: str) -> bool:
    """Whether an IPv4 address is the network or broadcast address of the network A/P. Networks with
    one or two addresses have neither (RFC 3021)."""
    number, bits, _ = _split(text)
    other, width, length = _split(of)
    host = (1 << width - length) - 1
    if bits != 32 or width != 32 or length > 30 or number & ~host != other & ~host:
        return False
    return number & host in (0, host)


def interfaces(texts: tuple[str, ...] | list[str]) -> list[str]:
    """All of them in canonical form, without duplicates; Usage if a device cannot have them all."""
    found = list(dict.fromkeys(interface(t) for t in texts))
    known: dict[str, str] = {}
    for text in found:
        other = known.setdefault(only_once(text), text)
        if other != text:
            raise Usage(f"'{other}' and '{text}' are the same address")
    return found


def host(text: str) -> str:
    """Return an address without a prefix length, such as a gateway, in canonical form; Usage."""
    import socket

    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        packed = socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise Usage(f"bad address {text!r}", hint="such as 10.0.0.1 or fd00::1") from None
    if family == socket.AF_INET6:
        unfit = packed[0] == 0xFF or packed == bytes(15) + b"\1"
    else:
        unfit = packed[0] >= 0xE0 or packed[0] == 127
    if unfit or not any(packed):
        raise Usage(f"'{text}' cannot be a gateway")
    return socket.inet_ntop(family, packed)


def _split(text: str) -> tuple[int, int, int]:
    """(number, bits, prefix length) of an address in canonical form."""
    import socket

    part, _, prefix = text.partition("/")
    packed = socket.inet_pton(socket.AF_INET6 if is_v6(part) else socket.AF_INET, part)
    bits = 8 * len(packed)
    return int.from_bytes(packed, "big"), bits, int(prefix) if prefix else bits


def network(text: str, *, strict: bool = True) -> str:
    """Return a destination, A/P or a single address, in canonical form, A/P; Usage. With `strict`,
    host bits are not allowed."""
    import socket

    part, slash, prefix = text.partition("/")
    family = socket.AF_INET6 if ":" in part else socket.AF_INET
    try:
        bits = 8 * len(socket.inet_pton(family, part))
        if slash and not (prefix.isascii() and prefix.isdecimal() and int(prefix) <= bits):
            raise ValueError
    except (OSError, ValueError):
        raise Usage(
            f"bad destination {text!r}", hint="such as 10.1.0.0/16, fd00:1::/64 or default"
        ) from None
    number, _, length = _split(text)
    kept = number >> (bits - length) << (bits - length)
    found = f"{socket.inet_ntop(family, kept.to_bytes(bits // 8, 'big'))}/{length}"
    if strict and kept != number:
        raise Usage(f"destination '{text}' has host bits", hint=f"the network is {found}")
    return found


def is_inside(network_: str, other: str) -> bool:
    """Whether a network or address is a part of another network; both in canonical form."""
    number, bits, length = _split(network_)
    start, width, least = _split(other)
    shift = bits - least
    return bits == width and length >= least and number >> shift == start >> shift


def is_near(gateway: str, addresses: list[str]) -> bool:
    """Whether a gateway is in a network of a device with these addresses. IPv6 has a link-local
    network on each link."""
    number, bits, _ = _split(gateway)
    if bits == 128 and number >> 118 == 0xFE80 >> 6:
        return True
    for text in addresses:
        other, width, length = _split(text)
        if width == bits and number >> (bits - length) == other >> (bits - length):
            return True
    return False


def is_v6(address: str) -> bool:
    """Whether an address in canonical form is IPv6."""
    return ":" in address


def only_once(text: str) -> str:
    """The part that a device can have only once: an IPv4 address for each prefix length, or an IPv6
    address."""
    return text.partition("/")[0] if is_v6(text) else text


def new_ones(owner: str, present: list[str], wanted: list[str], *, may_exist: bool) -> list[str]:
    """Those of `wanted` that `owner` does not have yet; Conflict if it may not have one twice."""
    known = {only_once(text): text for text in present}
    new: list[str] = []
    for text in wanted:
        other = known.get(only_once(text))
        if other is None:
            known[only_once(text)] = text
            new.append(text)
        elif other != text or not may_exist:
            raise Conflict(f"'{owner}' already has the address '{other}'")
    return new


def without(owner: str, present: list[str], unwanted: list[str], *, if_exists: bool) -> list[str]:
    """`present` without `unwanted`; NotFound for a missing one."""
    for text in unwanted:
        if text not in present and not if_exists:
            raise NotFound(f"'{owner}' has no address '{text}'")
    return [a for a in present if a not in unwanted]


def mac(text: str) -> str:
    """Return a MAC address in lower case; Usage if a device cannot have it."""
    parts = text.lower().split(":")
    hexadecimal = set("0123456789abcdef")
    if len(parts) != 6 or any(len(p) != 2 or not set(p) <= hexadecimal for p in parts):
        raise Usage(f"bad MAC address {text!r}", hint="such as 02:00:00:00:00:01")
    if int(parts[0], 16) & 1:
        raise Usage(f"'{text}' is a multicast MAC address", hint="the first octet must be even")
    if not any(int(p, 16) for p in parts):
        raise Usage(f"'{text}' cannot be a device's MAC address")
    return ":".join(parts)


def made_mac(seed: str, taken: Container[str] = ()) -> str:
    """A stable, locally administered MAC address derived from `seed`, not in `taken`."""
    salt = 0
    while True:
        text = f"{seed} {salt}".encode()
        # 40 bits: from two different checksums of the same text.
        octets = (zlib.crc32(text) << 8 | zlib.adler32(text) & 0xFF).to_bytes(5, "big")
        found = ":".join(["02", *(f"{o:02x}" for o in octets)])
        if found not in taken:
            return found
        salt += 1


def mtu(value: int) -> int:
    """Return a valid MTU for a tap; Usage otherwise."""
    if not MTU_MIN <= value <= MTU_MAX:
        raise Usage(f"bad MTU {value}", hint=f"{MTU_MIN} to {MTU_MAX}")
    return value


def fits(value: int, addresses: list[str]) -> None:
    """Raise Usage if an MTU is too small for the IPv6 addresses among `addresses`."""
    if value < MTU_MIN_IPV6 and any(is_v6(a) for a in addresses):
        raise Usage(f"an IPv6 address needs an MTU of {MTU_MIN_IPV6} or more, not {value}")
