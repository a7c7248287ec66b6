"""Reading network devices from /sys/class/net, which is cheaper than netlink.

/sys shows the network namespace that it was mounted in (sysfs(5)), which must be ours. Device names
must have been validated by the caller.
"""

from __future__ import annotations

import contextlib
import os

CLASS_NET = "/sys/class/net"


def devices() -> list[str]:
    """All device names, sorted."""
    names = os.listdir(CLASS_NET)
    # bonding adds a control file, bonding_masters.
    return sorted(n for n in names if os.path.islink(os.path.join(CLASS_NET, n)))


def exists(device: str) -> bool:
    """Whether there is a device with this name."""
    return os.path.lexists(os.path.join(CLASS_NET, device))


def read(device: str, file: str) -> str | None:
    """The contents of a device's file; None if the device or the file does not exist, or if it has
    no value at present (`carrier` of a device that is down is EINVAL)."""
    try:
        with open(os.path.join(CLASS_NET, device, file), encoding="utf-8", errors="replace") as f:
            return f.read().rstrip("\n")
    except OSError:
        return None


def number(device: str, file: str) -> int | None:
    """A decimal number from a device's file, None as for `read`."""
    text = read(device, file)
    try:
        return int(text, 10) if text is not None else None
    except ValueError:
        return None


def is_up(device: str) -> bool:
    """Whether the device exists and has IFF_UP set (netdevice(7))."""
    flags = read(device, "flags")
    return flags is not None and bool(int(flags, 16) & 1)


def has_carrier(device: str) -> bool:
    """Whether the device exists, is up and has a carrier: for a tap, whether a process has opened
    it."""
    return read(device, "carrier") == "1"


def master(device: str) -> str | None:
    """The bridge (or other master) that the device is a port of."""
    try:
        return os.path.basename(os.readlink(os.path.join(CLASS_NET, device, "master")))
    except OSError:
        return None


def ports(bridge: str) -> list[str]:
    """The ports of a bridge, sorted."""
    with contextlib.suppress(OSError):
        return sorted(os.listdir(os.path.join(CLASS_NET, bridge, "brif")))
    return []


def routed() -> dict[str, bool]:
    """The devices that IPv4 routes in the main table use, and for each whether a default route does
    (/proc/net/route, proc_pid_net(5))."""
    found: dict[str, bool] = {}
    with open("/proc/thread-self/net/route", encoding="ascii") as file:
        for line in file.readlines()[1:]:
            device, destination, _, _, _, _, _, mask, *_ = line.split()
            found[device] = found.get(device, False) or destination == mask == "00000000"
    return found
