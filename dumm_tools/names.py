"""The syntax of names (dumm(7), NAMES), checked before any system call.

pyroute2 and the tap ioctl truncate names that are too long without an error, so names must be
checked here before they get there.
"""

from __future__ import annotations

import re
import zlib

from dumm_tools.errors import Usage

#: Maximum length of a kernel device name, without the final NUL (IFNAMSIZ, linux/if.h).
DEVICE_NAME_MAX = 15

_GUEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,14}")
#: Devices that a guest's kernel creates itself, and directories of its sysctls.
_TAKEN = re.compile(r"lo|all|default|vec[0-9]+")
_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_PACK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


def guest(name: str) -> str:
    """Return `name` if it is a valid guest name; raise Usage otherwise."""
    if not is_guest(name):
        raise Usage(
            f"bad guest name {name!r}",
            hint="1 to 32 letters, digits, '_' and '-', starting with a letter or digit",
        )
    return name


def is_guest(name: str) -> bool:
    """Whether this is a valid guest name."""
    return _GUEST.fullmatch(name) is not None


def device(name: str) -> str:
    """Return `name` if it is a valid name of a device in a guest; raise Usage otherwise."""
    if not _DEVICE.fullmatch(name):
        raise Usage(
            f"bad device name {name!r}",
            hint="1 to 15 letters, digits, '_' and '.', starting with a letter",
        )
    if _TAKEN.fullmatch(name):
        raise Usage(f"a device cannot be named '{name}'", hint="such as eth0")
    return name


def bridge(name: str) -> str:
    """Return `name` if it is a valid bridge name; raise Usage otherwise."""
    if not _BRIDGE.fullmatch(name) or name in ("all", "default"):
        raise Usage(
            f"bad bridge name {name!r}",
            hint="1 to 15 letters, digits, '_', '.' and '-', starting with a letter or digit",
        )
    return name


def pack(name: str, what: str = "name") -> str:
    """Return `name` if it is a valid name of a kernel pack, master or template; raise Usage
    otherwise."""
    if not _PACK.fullmatch(name):
        raise Usage(
            f"bad {what} {name!r}",
            hint="1 to 64 letters, digits, '_', '.', '+' and '-', starting with a letter or digit",
        )
    return name


def is_pack(name: str) -> bool:
    """Whether this is a valid name of a kernel pack, master or template."""
    return _PACK.fullmatch(name) is not None


def interface(name: str) -> tuple[str, str]:
    """Split GUEST-DEVICE at its last dash into the names of the guest and the device."""
    owner, dash, dev = name.rpartition("-")
    if not dash:
        raise Usage(f"bad interface name {name!r}", hint="an interface is GUEST-DEVICE: alice-eth0")
    return guest(owner), device(dev)


def tap(interface_name: str) -> str:
    """The name of an interface's tap: the name itself, or a stable short one."""
    if len(interface_name) <= DEVICE_NAME_MAX:
        return interface_name
    owner, _, dev = interface_name.rpartition("-")
    digest = f"{zlib.crc32(interface_name.encode()):08x}"
    # The hash makes it unique; the rest of the names is there for readers of `ip link`.
    room = DEVICE_NAME_MAX - len(digest) - 1
    dev = dev[-(room - 1) :]
    return f"{owner[: room - len(dev)]}{dev}.{digest}"
