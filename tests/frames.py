"""Frames as a hostile guest sends them, and a program that sends them and prints the outcome.

    frames.py DEVICE FENCE-DEVICE FENCE-FRAME <HEX-LINES

In the network namespace in which it is run, it opens UDP port 5000 on all addresses, sends the
frames through DEVICE (`tap:NAME`: as the guest of that tap), and finally one that is certain to be
accepted. It prints a line for each datagram received, and for each answer of the host on DEVICE.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import sys
from collections.abc import Callable

from support import PATIENCE

PORT = 5000
EVERYBODY = "ff:ff:ff:ff:ff:ff"
#: The guest's MAC address.
MAC = "02:00:00:00:00:01"


# ---- making frames ----


def ethernet(to: str, kind: int, payload: bytes) -> bytes:
    """A frame sent by the guest."""
    return bytes.fromhex((to + MAC).replace(":", "")) + struct.pack("!H", kind) + payload


def arp(sender: str, target: str, to: str = EVERYBODY) -> bytes:
    """A request for the owner of `target`."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    own = bytes.fromhex(MAC.replace(":", "")) + socket.inet_aton(sender)
    return ethernet(to, 0x0806, head + own + bytes(6) + socket.inet_aton(target))


def _sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def _ip(to: str, source: str, dest: str, protocol: int, build: Callable[[int], bytes]) -> bytes:
    """A packet whose payload `build` makes from its checksum, which is 0 at first."""
    if ":" in dest:
        ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, dest)
        size = len(build(0))
        payload = build(_sum(ends + struct.pack("!II", size, protocol) + build(0)))
        return ethernet(
            to, 0x86DD, struct.pack("!IHBB", 6 << 28, size, protocol, 255) + ends + payload
        )
    ends = socket.inet_aton(source) + socket.inet_aton(dest)
    size = len(build(0))
    pseudo = b"" if protocol == socket.IPPROTO_ICMP else ends + struct.pack("!HH", protocol, size)
    payload = build(_sum(pseudo + build(0)))
    head = [0x45, 0, 20 + size, 7, 0, 64, protocol, 0]
    head[7] = _sum(struct.pack("!BBHHHBBH", *head) + ends)
    return ethernet(to, 0x0800, struct.pack("!BBHHHBBH", *head) + ends + payload)


def udp(to: str, source: str, dest: str, text: str) -> bytes:
    """A datagram to port 5000."""

    def build(checksum: int) -> bytes:
        return struct.pack("!HHHH", 4000, PORT, 8 + len(text), checksum) + text.encode()

    return _ip(to, source, dest, socket.IPPROTO_UDP, build)


def syn(to: str, source: str, dest: str) -> bytes:
    """The first packet of a TCP connection."""

    def build(checksum: int) -> bytes:
        return struct.pack("!HHIIBBHHH", 4000, PORT, 1, 0, 5 << 4, 2, 1024, checksum, 0)

    return _ip(to, source, dest, socket.IPPROTO_TCP, build)


def icmp(to: str, source: str, dest: str, kind: int, body: bytes) -> bytes:
    """ICMP of either version: type, code 0 (1 for a redirect), and the data after the checksum."""
    code = 1 if kind == 5 else 0

    def build(checksum: int) -> bytes:
        return struct.pack("!BBH", kind, code, checksum) + body

    protocol = socket.IPPROTO_ICMPV6 if ":" in dest else socket.IPPROTO_ICMP
    return _ip(to, source, dest, protocol, build)


def ping(to: str, source: str, dest: str) -> bytes:
    """An echo request."""
    return icmp(to, source, dest, 128 if ":" in dest else 8, struct.pack("!HH", 1, 1))


def router_advertisement(source: str = "fe80::1") -> bytes:
    """A router advertisement: a default route to the sender, and an address prefix."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0)
    prefix += socket.inet_pton(socket.AF_INET6, "2001:db8:bad::")
    mac = b"\1\1" + bytes.fromhex(MAC.replace(":", ""))
    body = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix + mac
    return icmp("33:33:00:00:00:01", source, "ff02::1", 134, body)


def redirect(to: str, source: str, dest: str, about: str, gateway: str) -> bytes:
    """A redirect: send packets for `about` to `gateway`."""
    sent = udp(to, dest, about, "x")[14:42]
    return icmp(to, source, dest, 5, socket.inet_aton(gateway) + sent)


# ---- sending frames ----


def _told(frame: bytes) -> str:
    """The host's answers in words."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0806:
        if frame[21] == 2:
            return f"arp: it is me, {socket.inet_ntoa(frame[28:32])}"
        return f"arp: who is {socket.inet_ntoa(frame[38:42])}"
    if kind == 0x0800:
        return f"ip: protocol {frame[23]} from {socket.inet_ntoa(frame[26:30])}"
    if kind == 0x86DD:
        source = socket.inet_ntop(socket.AF_INET6, frame[22:38])
        return f"ip: protocol {frame[20]}/{frame[54]} from {source}"
    return f"{kind:#x}"


def _open(device: str) -> tuple[Callable[[bytes], object], Callable[[], list[bytes]]]:
    """Open the device for sending and receiving."""
    if device.startswith("tap:"):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        # TUNSETIFF; IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, as a guest's kernel does
        request = struct.pack("16sH22x", device[4:].encode(), 0x0002 | 0x1000 | 0x4000)
        fcntl.ioctl(fd, 0x400454CA, request)

        def taken() -> list[bytes]:
            found = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(os.read(fd, 65536)[10:])
            return found

        return (lambda frame: os.write(fd, bytes(10) + frame)), taken
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.bind((device, 0))
    raw.setblocking(False)

    def received() -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = raw.recvfrom(65536)
                if kind != socket.PACKET_OUTGOING:
                    found.append(frame)
        return found

    return raw.send, received


def main(device: str, fence_device: str, fence: str) -> None:
    """Run the program."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # to keep frames in order
    ports = []
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        port = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            port.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        port.bind((everywhere, PORT))
        port.setblocking(False)
        ports.append(port)
    send, receive = _open(device)
    send_fence, _ = _open(fence_device)
    receive()
    for line in sys.stdin.read().split():
        send(bytes.fromhex(line))
    taken: list[str] = []
    for count in (1, 2):  # answers to a frame may arrive after the first answer to the last one
        send_fence(bytes.fromhex(fence))
        while taken.count("fence") < count:
            if not select.select(ports, [], [], PATIENCE)[0]:
                sys.exit("the last frame has not come")
            for port in ports:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        taken.append(port.recv(100).decode())
    taken = [text for text in taken if text != "fence"]
    for text in taken:
        print(f"taken: {text}")
    for frame in receive():
        print(_told(frame))


if __name__ == "__main__":
    main(*sys.argv[1:])
