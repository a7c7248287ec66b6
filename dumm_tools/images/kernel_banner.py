"""What a UML binary is and which release, read from its file. Nothing of it is ever run here: that
is for the jail."""

from __future__ import annotations

import os
import re

from dumm_tools.errors import DummError
from dumm_tools.images import elf

#: `linux_banner` of the kernel (init/version.c), up to where the compiler follows.
_BANNER = re.compile(rb"Linux version (\d{1,5}\.\d{1,5}[\w.+~-]{0,50}) \(")
#: An option that UML alone has (arch/um/os-Linux/umid.c): no other kernel is UML.
_OPTION = b"uml_dir="
_CHUNK = 1 << 20
#: What one finds of the above may lie across two chunks.
_OVERLAP = 128


def release_of(path: str) -> str:
    """The release of the UML binary `path` (`uname -r`). DummError when it is none."""
    fd = elf.opened(path)
    try:
        return release(fd, path)
    finally:
        os.close(fd)


def release(fd: int, path: str) -> str:
    """As `release_of`, of an open file that messages call `path`."""
    elf.image(fd, path)
    found, is_uml, at, tail = None, False, 0, b""
    # Not past what is the largest of kernels, though the file grow meanwhile.
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
