"""Whether a procfs may be mounted: containers often hide parts of /proc below other mounts."""

from __future__ import annotations

import os
import re

#: The initial user namespace (PROC_USER_INIT_INO, linux/proc_ns.h).
_INITIAL = 0xEFFFFFFD
#: Directories of a procfs that are empty, and for mounts.
_EMPTY = (b"/sys/fs/binfmt_misc", b"/fs/nfsd")
#: Since this release, one that only shows processes may be mounted in any case.
_RELEASE = (7, 2)


def may_be_mounted() -> bool:
    """Whether a procfs that only shows processes can be mounted here. In a user namespace, the
    kernel requires that one be mounted already of which nothing is hidden (mount_too_revealing,
    fs/namespace.c)."""
    if os.stat("/proc/self/ns/user").st_ino == _INITIAL:
        return True
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release is not None and (int(release[1]), int(release[2])) >= _RELEASE:
        return True
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.split(b" ") for line in file]
    points = [fields[4] for fields in lines]
    for fields in lines:
        if fields[fields.index(b"-") + 1] == b"proc" and fields[3] == b"/":
            below = [p.removeprefix(fields[4]) for p in points if p.startswith(fields[4] + b"/")]
            if set(below) <= set(_EMPTY):
                return True
    return False
