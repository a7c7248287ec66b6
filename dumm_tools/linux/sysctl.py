"""Settings of network devices, and of bridges, in /proc/sys/net (the kernel's
Documentation/networking/ip-sysctl.rst).

/proc/sys/net, unlike /sys, shows the caller's own network namespace. Settings disappear with their
device. Device names must have been validated by the caller.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping


def set_all(family: str, device: str, values: Mapping[str, int]) -> None:
    """Set values in conf/DEVICE of `ipv4` or `ipv6`. All are tried; settings that this kernel does
    not have are skipped. OSError for the first that could not be set."""
    failure: OSError | None = None
    for name, value in values.items():
        try:
            _write(family, device, name, value)
        except FileNotFoundError:
            continue
        except OSError as e:
            failure = failure or e
    if failure:
        raise failure


def set_ipv6(device: str, on: bool) -> None:
    """Enable or disable IPv6 on a device. FileNotFoundError if the kernel has no IPv6 or there is
    no such device."""
    _write("ipv6", device, "disable_ipv6", not on)


def ipv6_is_off(device: str) -> bool:
    """Whether IPv6 is disabled on the device or not available at all."""
    return _read("ipv6", device, "disable_ipv6") != "0"


def set_forwarding(device: str, on: bool) -> None:
    """Enable or disable forwarding of the IPv4 packets that the device receives. OSError."""
    _write("ipv4", device, "forwarding", on)


def forwards(device: str) -> bool:
    """Whether the kernel forwards IPv4 packets that the device receives. False if there is no such
    device."""
    return _read("ipv4", device, "forwarding") not in (None, "0")


_BRIDGE = "/proc/sys/net/bridge"
_NETFILTER = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")


def netfilter_on_bridges() -> list[str]:
    """The settings of br_netfilter, as sysctl(8) names them, that show frames which stay on their
    bridge to the IP filters of the network namespace."""
    found = []
    for name in _NETFILTER:
        with contextlib.suppress(OSError), open(f"{_BRIDGE}/{name}", encoding="ascii") as file:
            if file.read().strip() != "0":
                found.append(f"net.bridge.{name}")
    return found


def bypass_netfilter() -> None:
    """Keep frames that stay on their bridge from netfilter's IP and ARP hooks, for all bridges of
    the network namespace. OSError; nothing is done if the kernel has no br_netfilter."""
    for name in _NETFILTER:
        with contextlib.suppress(FileNotFoundError):
            _set(f"{_BRIDGE}/{name}", 0)


def _path(family: str, device: str, name: str) -> str:
    return f"/proc/sys/net/{family}/conf/{device}/{name}"


def _read(family: str, device: str, name: str) -> str | None:
    try:
        with open(_path(family, device, name), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _write(family: str, device: str, name: str, value: int) -> None:
    _set(_path(family, device, name), value)


def _set(path: str, value: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d\n" % value)
    finally:
        os.close(fd)
