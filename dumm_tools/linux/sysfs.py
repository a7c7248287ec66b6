"""Reading network devices from sysfs, which is cheaper than netlink.

/sys shows the network namespace that it was mounted in (sysfs(5)), which may be another than ours:
after `unshare -n` or `nsenter -n`, or in a container that shares a network. So we mount one of our
own, which nobody else sees (fsopen(2), fsmount(2)): this takes 15 us, and 40 to close it. If that
is not permitted, /sys is used, provided that it has the same devices as this namespace; otherwise
OSError(ENOTUNIQ). Device names must have been validated by the caller.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from dumm_tools.linux.libc import call

_SYS = "/sys"
_CLASS_NET = "class/net"
#: The root of a sysfs of our network namespace; None if it is not open.
_root: int | None = None

# asm-generic/unistd.h, the same on all architectures
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
# linux/mount.h
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6
_MOUNT_ATTR_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
# linux/sockios.h
_SIOCGIFHWADDR, _SIOCGIFINDEX = 0x8927, 0x8933


def forget() -> None:
    """This process has changed its network namespace."""
    global _root
    if _root is not None:
        os.close(_root)
        _root = None


def _opened() -> int:
    global _root
    if _root is None:
        root = _mounted()
        if root is None:
            root = os.open(_SYS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _verify(root)
            except BaseException:
                os.close(root)
                raise
        _root = root
    return _root


def _mounted() -> int | None:
    """A new sysfs, mounted nowhere; None if we may not do that."""
    context = call("syscall", _SYS_FSOPEN, b"sysfs", _FSOPEN_CLOEXEC)
    if context < 0:
        return None
    try:
        if call("syscall", _SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            return None
        attributes = _MOUNT_ATTR_NOSUID_NODEV_NOEXEC
        root = call("syscall", _SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)
    return root if root >= 0 else None


def _verify(root: int) -> None:
    """Compare a sysfs with what this namespace's own kernel interfaces say: names, indexes and
    addresses of all devices (netdevice(7), proc_pid_net(5))."""
    import _socket
    import fcntl
    import struct

    with open("/proc/thread-self/net/dev", encoding="utf-8", errors="replace") as file:
        ours = sorted(line.partition(":")[0].strip() for line in file.readlines()[2:])
    asked = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        same = ours == _devices(root)
        for name in ours if same else ():
            request = struct.pack("16s24x", name.encode())
            index = struct.unpack_from("i", fcntl.ioctl(asked, _SIOCGIFINDEX, request), 16)[0]
            mac = fcntl.ioctl(asked, _SIOCGIFHWADDR, request)[18:24].hex(":")
            same = same and _read(root, name, "ifindex") == str(index)
            same = same and (_read(root, name, "address") or "")[:17] in (mac, "")
    finally:
        asked.close()
    if not same:
        text = "it shows another network namespace; mount the right one: mount -t sysfs sysfs /sys"
        raise OSError(errno.ENOTUNIQ, text, _SYS)


@contextlib.contextmanager
def _directory(root: int, path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        yield fd
    finally:
        os.close(fd)


def _devices(root: int) -> list[str]:
    with _directory(root, _CLASS_NET) as fd:
        # bonding adds a control file, bonding_masters.
        return sorted(n for n in os.listdir(fd) if _is_link(fd, n))


def _is_link(directory: int, name: str) -> bool:
    with contextlib.suppress(OSError):  # or it has just disappeared
        os.readlink(name, dir_fd=directory)
        return True
    return False


def _read(root: int, device: str, file: str) -> str | None:
    try:
        fd = os.open(f"{_CLASS_NET}/{device}/{file}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    except OSError:
        return None
    try:
        return os.read(fd, 4096).decode(errors="replace").rstrip("\n")
    except OSError:
        return None
    finally:
        os.close(fd)


def devices() -> list[str]:
    """All device names, sorted."""
    return _devices(_opened())


def exists(device: str) -> bool:
    """Whether there is a device with this name, or a file of one: DEVICE/FILE."""
    try:
        os.stat(f"{_CLASS_NET}/{device}", dir_fd=_opened(), follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read(device: str, file: str) -> str | None:
    """The contents of a device's file; None if the device or the file does not exist, or if it has
    no value at present (`carrier` of a device that is down is EINVAL)."""
    return _read(_opened(), device, file)


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
        link = os.readlink(f"{_CLASS_NET}/{device}/master", dir_fd=_opened())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return os.path.basename(link)


def ports(bridge: str) -> list[str]:
    """The ports of a bridge, sorted."""
    try:
        with _directory(_opened(), f"{_CLASS_NET}/{bridge}/brif") as fd:
            return sorted(os.listdir(fd))
    except (FileNotFoundError, NotADirectoryError):
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
