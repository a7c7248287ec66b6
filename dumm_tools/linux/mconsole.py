"""The mconsole of a UML kernel: requests and replies over a datagram socket.

Formats: `struct mconsole_request` and `struct mconsole_reply` in arch/um/drivers/mconsole.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

MAGIC = 0xCAFEBABE
VERSION = 2
MAX_DATA = 512
#: Size of the command field, including the final NUL.
COMMAND_MAX = MAX_DATA - 1
#: Maximum size of a whole reply in bytes: `proc` may name a large file.
ANSWER_MAX = 8 << 20
_REQUEST = struct.Struct(f"<III{MAX_DATA}s")
_REPLY = struct.Struct("<III")


def pack_request(command: bytes) -> bytes:
    """Pack a request datagram; OSError(EMSGSIZE) if the command is longer than 511 bytes."""
    if len(command) > COMMAND_MAX:
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE), command.decode(errors="replace"))
    return _REQUEST.pack(MAGIC, VERSION, len(command), command)


def unpack_reply(datagram: bytes) -> tuple[bool, bool, bytes]:
    """Unpack a reply datagram into (error, more follows, text); OSError(EBADMSG)."""
    if len(datagram) < _REPLY.size:
        raise _bad()
    error, more, length = _REPLY.unpack_from(datagram)
    if length > MAX_DATA or len(datagram) < _REPLY.size + length:
        raise _bad()
    return bool(error), bool(more), datagram[_REPLY.size : _REPLY.size + length].rstrip(b"\0")


def _bad() -> OSError:
    return OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), "mconsole")


def request(
    path: str, command: str, timeout: float, *, reply: tuple[str, str] | None = None
) -> tuple[bool, str]:
    """Send `command` to the socket `path`; return (failed, text). OSError if nobody listens there
    or the reply is invalid, TimeoutError after `timeout` seconds.

    `reply` says where the reply goes: a directory, and an unused name, relative to it, that means
    the same file to the kernel relative to its own working directory. A kernel that is confined to
    its own sockets (landlock(7)) cannot reply to an unnamed socket.

    The socket and its directory are created by the guest's kernel: we connect to the socket itself,
    looked up once without following links. /proc/self/fd allows for long paths.
    """
    import socket

    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    place = os.open(os.path.dirname(path) or ".", flags | os.O_DIRECTORY)
    try:
        fd = os.open(os.path.basename(path), flags, dir_fd=place)
    finally:
        os.close(place)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            if reply is None:
                client.bind("")  # autobind, unix(7): the reply needs an address
            else:
                _bind_below(client, *reply)
            client.connect(f"/proc/self/fd/{fd}")
            deadline = time.monotonic() + timeout
            client.settimeout(timeout)
            client.send(pack_request(os.fsencode(command)))
            text, room = bytearray(), ANSWER_MAX
            while True:
                datagram = client.recv(_REPLY.size + MAX_DATA)
                failed, more, part = unpack_reply(datagram)
                text += part
                room -= len(datagram)
                if room < 0:
                    raise _bad()
                if not more:
                    return failed, text.decode(errors="replace").rstrip("\n")
                left = deadline - time.monotonic()
                if left <= 0:  # it may go on forever
                    raise TimeoutError
                client.settimeout(left)
    finally:
        os.close(fd)
        if reply is not None:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(*reply))


def _bind_below(client: socket.socket, directory: str, name: str) -> None:
    """Bind relative to a directory: the kernel passes on the address as it was given."""
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        client.bind(name)
    finally:
        os.fchdir(here)
        os.close(here)
