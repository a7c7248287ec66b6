"""Settings of network devices in /proc/sys/net (Documentation/networking/ip-sysctl.rst).

/proc/sys/net is the caller's own network namespace. A setting goes with its device. Device names
must have been checked before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def set_all(family: str, device: str, values: Mapping[str, int]) -> None:
    """Set what conf/DEVICE of `ipv4` or `ipv6` has. All are tried; what this kernel does not have
    is left out. OSError of the first that could not be set."""
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
