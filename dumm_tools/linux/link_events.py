"""Links of a network namespace as they come, change and go: rtnetlink's multicast group.

Only links whose alias is a given one are kept. The descriptions say all that there is to know, so
of several about one link only the last is decoded, and events that were lost (ENOBUFS) are made up
for by a dump.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from dumm_tools.linux import message_classes, netlink, rtnl
from dumm_tools.linux.netlink import NLM_F_DUMP

if TYPE_CHECKING:
    import socket

_RTMGRP_LINK = 0x1  # linux/rtnetlink.h
_NLMSG_DONE, _NLM_F_DUMP_INTR = 3, 0x10  # linux/netlink.h
_IFF_LOWER_UP = 0x10000  # linux/if.h
#: Family and index in struct ifinfomsg, which follows the header, and where it ends.
_LINK, _LINK_AT, _HEAD = struct.Struct("=Bxxxi"), 16, 32
#: Bytes for events that have not been read, if the host allows so many.
_BUFFER = 1 << 22


class Facts(NamedTuple):
    """A link: whether it is up, and whether it has a carrier besides."""

    name: str
    up: bool
    carrier: bool


def opened() -> socket.socket:
    """A socket that gets the events of this process's network namespace."""
    import socket

    found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    with contextlib.suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    found.bind((0, _RTMGRP_LINK))
    return found


class Links:
    """The links with the alias `tag` in the namespace of a socket from `opened`."""

    def __init__(self, source: socket.socket, tag: str) -> None:
        self._socket, self._tag = source, tag.encode()
        self._by_index: dict[int, Facts] = {}
        self._index: dict[str, int] = {}
        self._dump()

    def fileno(self) -> int:
        """The descriptor that becomes readable when something has happened."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the namespace."""
        self._socket.close()

    def get(self, name: str) -> Facts | None:
        """The link with this name, if it is there and has the alias."""
        return self._by_index.get(self._index.get(name, 0))

    def names(self) -> set[str]:
        """The names of all of them."""
        return set(self._index)

    def read(self) -> set[str]:
        """Take the events that have come; return the names of links that they are about."""
        latest: dict[int, bytes] = {}
        try:
            while data := self._receive():
                self._sort(data, latest)
        except OSError as e:
            if e.errno != errno.ENOBUFS:
                raise
            before = dict(self._by_index)
            self._dump()
            return {
                facts.name
                for index in before.keys() | self._by_index.keys()
                if before.get(index) != self._by_index.get(index)
                for facts in (before.get(index), self._by_index.get(index))
                if facts is not None
            }
        return self._apply(latest)

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(1 << 20)
        except BlockingIOError:
            return b""

    def _sort(self, data: bytes, latest: dict[int, bytes]) -> tuple[bool, bool]:
        """Keep the last description of each link; return whether a dump has ended, and whether
        links have changed meanwhile."""
        done = torn = False
        for kind, flags, _, message in netlink.split(data):
            torn |= bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                done = True
            elif kind in (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK) and len(message) >= _HEAD:
                family, index = _LINK.unpack_from(message, _LINK_AT)
                if family == 0:  # bridges report their ports in a family of their own
                    latest[index] = message
        return done, torn

    def _apply(self, latest: dict[int, bytes]) -> set[str]:
        changed: set[str] = set()
        for index, message in latest.items():
            (kind,) = struct.unpack_from("=H", message, 4)
            facts = self._decoded(message) if kind == rtnl.RTM_NEWLINK else None
            before = self._by_index.pop(index, None)
            if facts is not None:
                self._by_index[index] = facts
            if facts != before:
                changed |= {each.name for each in (before, facts) if each is not None}
            if before is not None and self._index.get(before.name) == index:
                del self._index[before.name]
            if facts is not None:
                self._index[facts.name] = index
        return changed

    def _decoded(self, data: bytes) -> Facts | None:
        if self._tag not in data:  # decoding takes 0.15 ms, and there may be many others
            return None
        message = message_classes.decode(message_classes.link(), data, "link")
        with netlink.decoding("link"):
            if message_classes.text(message, "IFLA_IFALIAS") != self._tag.decode():
                return None
            name = message_classes.text(message, "IFLA_IFNAME") or ""
            up = bool(message["flags"] & rtnl.IFF_UP)
            return Facts(name, up, up and bool(message["flags"] & _IFF_LOWER_UP))

    def _dump(self) -> None:
        """Ask for all links, until none has changed during the answer."""
        request = rtnl.link(rtnl.RTM_GETLINK, "links", flags=NLM_F_DUMP).data
        deadline = time.monotonic() + netlink.TIMEOUT
        while True:
            latest: dict[int, bytes] = {}
            done = torn = False
            self._socket.send(request)
            try:
                while not done:
                    self._await(deadline)
                    done, cut = self._sort(self._receive(), latest)
                    torn |= cut
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                torn = True
                if not done:
                    self._drain()
            if not torn:
                break
        self._by_index.clear()
        self._index.clear()
        self._apply(latest)

    def _drain(self) -> None:
        """Discard what has come: after a loss, the end of a dump may be among what was lost."""
        for _ in range(1000):
            try:
                if not self._receive():
                    return
            except OSError:
                continue

    def _await(self, deadline: float) -> None:
        import select

        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), "links")
