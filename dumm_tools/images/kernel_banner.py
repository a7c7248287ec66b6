"""Identify a UML binary and its release by reading its file. Nothing is ever run here; that happens
only in the jail."""

from __future__ import annotations

import os
import re

from dumm_tools.errors import DummError
from dumm_tools.images import elf

#: `linux_banner` of the kernel (init/version.c), up to the name of the compiler.
_BANNER = re.compile(rb"Linux version (\d{1,5}\.\d{1,5}[\w.+~-]{0,50}) \(")
#: An option that only UML has (arch/um/os-Linux/umid.c).
_OPTION = b"uml_dir="
_CHUNK = 1 << 20
#: The patterns above may cross the boundary of two chunks.
_OVERLAP = 128


def release_of(path: str) -> str:
    """The release of the UML binary `path` (`uname -r`). DummError if it is not one."""
    fd = elf.opened(path)
    try:
        return release(fd, path)
    finally:
        os.close(fd)


def release(fd: int, path: str) -> str:
    """Like `release_of`, for an open file that messages call `path`."""
    elf.image(fd, path)
    found, is_uml, at, tail = None, False, 0, b""
    # Stop at the maximum size of a kernel, even if the file grows meanwhile.
    while at < elf.SIZE_MAX and not (found and is_uml):
        data = os.pread(fd, _CHUNK, at)
        if not data:
            break
        at += len(data)
        window = tail + data
        found = found or _BANNER.search(window)
        is_uml = is_uml or _OPTION in window
        tail = window[-_OVERLAP:]
    if found is None or not is_uml:
        raise DummError(f"'{path}' is not a UML kernel")
    return found[1].decode("ascii")
