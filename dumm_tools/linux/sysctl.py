"""Settings of network devices in /proc/sys/net (Documentation/networking/ip-sysctl.rst).

/proc/sys/net shows the caller's own network namespace. Settings disappear with their device. Device
names must have been validated by the caller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def set_all(family: str, device: str, values: Mapping[str, int]) -> None:
    """Set values in conf/DEVICE of `ipv4` or `ipv6`. All are tried; settings that this kernel does
    not have are skipped. OSError for the first that could not be set."""
    place = f"/proc/sys/net/{family}/conf/{device}"
    failure: OSError | None = None
    for name, value in values.items():
        try:
            fd = os.open(f"{place}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"%d\n" % value)
            finally:
                os.close(fd)
        except FileNotFoundError:
            continue
        except OSError as e:
            failure = failure or e
    if failure:
        raise failure
