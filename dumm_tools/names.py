"""What names may look like (dumm(7), NAMES); checked before any system call.

pyroute2 and the tap ioctl cut names that are too long without an error, so nothing may
reach them that was not checked here.
"""

from __future__ import annotations

import re
import zlib

from dumm_tools.errors import Usage

#: Bytes in a kernel device name, without the final NUL (IFNAMSIZ, linux/if.h).
DEVICE_NAME_MAX = 15

_GUEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,14}")
#: Devices that a guest's kernel has or makes itself, and directories of its sysctls.
_TAKEN = re.compile(r"lo|all|default|vec[0-9]+")
_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_PACK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


def guest(name: str) -> str:
    """Return `name` if it may name a guest; raise Usage otherwise."""
    if not is_guest(name):
        raise Usage(
            f"bad guest name {name!r}",
            hint="1 to 32 letters, digits, '_' and '-', starting with a letter or digit",
        )
    return name


def is_guest(name: str) -> bool:
    """Might this name a guest?"""
    return _GUEST.fullmatch(name) is not None


def device(name: str) -> str:
    """Return `name` if it may name a device inside a guest; raise Usage otherwise."""
    if not _DEVICE.fullmatch(name):
        raise Usage(
            f"bad device name {name!r}",
            hint="1 to 15 letters, digits, '_' and '.', starting with a letter",
        )
    if _TAKEN.fullmatch(name):
        raise Usage(f"a device cannot be named '{name}'", hint="such as eth0")
    return name


def bridge(name: str) -> str:
    """Return `name` if it may name a bridge; raise Usage otherwise."""
    if not _BRIDGE.fullmatch(name) or name in ("all", "default"):
        raise Usage(
            f"bad bridge name {name!r}",
            hint="1 to 15 letters, digits, '_', '.' and '-', starting with a letter or digit",
        )
    return name


def pack(name: str, what: str = "name") -> str:
    """Return `name` if it may name a kernel pack, a master or a template; raise Usage otherwise."""
    if not _PACK.fullmatch(name):
        raise Usage(
            f"bad {what} {name!r}",
            hint="1 to 64 letters, digits, '_', '.', '+' and '-', starting with a letter or digit",
        )
    return name


def interface(name: str) -> tuple[str, str]:
    """Split GUEST-DEVICE at its last dash into the guest's and the device's name."""
    owner, dash, dev = name.rpartition("-")
    if not dash:
        raise Usage(f"bad interface name {name!r}", hint="an interface is GUEST-DEVICE: alice-eth0")
    return guest(owner), device(dev)


def tap(interface_name: str) -> str:
    """The host's name for an interface's tap: the name itself, or a stable short one."""
    if len(interface_name) <= DEVICE_NAME_MAX:
        return interface_name
    owner, _, dev = interface_name.rpartition("-")
    digest = f"{zlib.crc32(interface_name.encode()):08x}"
    # The hash alone makes it unique; what is left of the names is for the reader of `ip link`.
    room = DEVICE_NAME_MAX - len(digest) - 1
    dev = dev[-(room - 1) :]
    return f"{owner[: room - len(dev)]}{dev}.{digest}"
