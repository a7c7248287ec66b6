"""The drivers that a kernel contains, as opposed to its modules."""

from __future__ import annotations

import contextlib
import os

from dumm_tools.images.kernel import MODULES, Kernel

#: Maximum size of a list of drivers.
_LIST_MAX = 64 << 10


def drivers(kernel: Kernel) -> frozenset[str]:
    """The names of the drivers in a pack's kernel; none if nothing in the pack says it."""
    found: set[str] = set()
    if kernel.root is None:
        return frozenset()
    with contextlib.suppress(OSError):
        for release in os.listdir(kernel.root + MODULES):
            path = f"{kernel.root}{MODULES}/{release}/modules.builtin"
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                text = os.read(fd, _LIST_MAX).decode("ascii", "replace")
            finally:
                os.close(fd)
            found.update(os.path.basename(line).partition(".")[0] for line in text.split())
    return frozenset(found)
