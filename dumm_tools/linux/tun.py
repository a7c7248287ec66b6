"""Taps: Documentation/networking/tuntap.rst, linux/if_tun.h."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

PATH = "/dev/net/tun"

# linux/if_tun.h: the ioctls, as _IOW('T', N, int)
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_TUNSETGROUP = 0x400454CE
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
#: The flags that UML's tap transport attaches with (arch/um/drivers/vector_user.c, create_tap_fd).
_FLAGS = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR


@contextlib.contextmanager
def created(name: str, owner: int, group: int | None = None) -> Iterator[int]:
    """Create a tap that user `owner` may open, if also in `group`; yield its descriptor.

    The tap disappears with the descriptor, at the latest with this process, unless `persist` is
    called first. OSError(EBUSY) if a device with this name exists. The name must be a valid device
    name: the kernel truncates longer ones.
    """
    with attached(name, _IFF_TUN_EXCL) as fd:
        _give(fd, owner, group)
        yield fd


def give(name: str, owner: int, group: int | None = None) -> None:
    """Give an existing persistent tap to user `owner`, who must also be in `group` to open it.
    OSError(EBUSY) while a process has it open."""
    with attached(name) as fd:
        _give(fd, owner, group)


def _give(fd: int, owner: int, group: int | None) -> None:
    fcntl.ioctl(fd, _TUNSETOWNER, owner)
    if group is not None:
        fcntl.ioctl(fd, _TUNSETGROUP, group)


def persist(fd: int) -> None:
    """Keep the tap when its descriptor is closed."""
    fcntl.ioctl(fd, _TUNSETPERSIST, 1)


@contextlib.contextmanager
def attached(name: str, more: int = 0) -> Iterator[int]:
    """Open a tap, as the kernel of a guest does; OSError."""
    fd = os.open(PATH, os.O_RDWR | os.O_CLOEXEC)
    try:
        # struct ifreq (netdevice(7)): 16 bytes of name, followed by a short with flags.
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _FLAGS | more))
        except OSError as e:
            raise OSError(e.errno, e.strerror, name) from None
        yield fd
    finally:
        os.close(fd)
