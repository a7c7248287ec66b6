"""A kernel's configuration, found without running it: in the binary (IKCONFIG=y), in its module
`configs` (IKCONFIG=m), or as the file that Debian's package has.

All of these may come from anybody: sizes are limited, and a damaged one counts as none.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable

from dumm_tools.images import elf

#: Precedes the compressed configuration (kernel/configs.c).
_GZIP_MAGIC = b"\x1f\x8b"
_START = b"IKCFG_ST" + _GZIP_MAGIC
_GZIP = 31  # wbits: a gzip header is expected
_SIZE_MAX = 8 << 20
_XZ_MEMORY = 64 << 20
_OPTION = re.compile(r"CONFIG_(\w{1,100})=([ymn])", re.ASCII)
MODULE = "kernel/kernel/configs.ko"
#: Of Debian's package user-mode-linux.
FILE = "usr/share/doc/user-mode-linux/config.gz"
#: The compressions of modules that are read here.
_SUFFIXES = ("", ".xz", ".gz")


def find(
    binary: int, module: Callable[[str], int | None], file: int | None
) -> dict[str, str] | None:
    """The options that are `y` or `m`, without `CONFIG_`; None if the configuration is unknown.

    `binary` and `file` are descriptors; `module` opens a file of the kernel's directory of modules.
    """
    text = _inside(binary)
    for suffix in _SUFFIXES:
        fd = module(MODULE + suffix) if text is None else None
        if fd is not None:
            text = _inside_packed(fd, suffix) if suffix else _inside(fd)
    if text is None and file is not None:
        text = _inflated(os.pread(file, _SIZE_MAX, 0))
    return parse(text) if text is not None else None


def of_binary(binary: int, path: str) -> dict[str, str] | None:
    """Likewise for a binary alone, of which only what is loaded is read."""
    text = _inside(binary, elf.loaded_end(binary, path))
    return parse(text) if text is not None else None


def parse(text: bytes) -> dict[str, str] | None:
    """The options of a configuration file; None if it has none."""
    lines = text.decode("ascii", "replace").splitlines()
    matches = [match for line in lines if (match := _OPTION.fullmatch(line))]
    return {match[1]: match[2] for match in matches} or None


def _inside(fd: int, end: int = elf.SIZE_MAX) -> bytes | None:
    """The configuration in a binary or in a module."""
    at = elf.find(fd, _START, end)
    if at is None:
        return None
    return _inflated(os.pread(fd, _SIZE_MAX, at + len(_START) - len(_GZIP_MAGIC)))


def _inside_packed(fd: int, suffix: str) -> bytes | None:
    data = os.pread(fd, _SIZE_MAX, 0)
    unpacked = _unxz(data) if suffix == ".xz" else _inflated(data)
    at = (unpacked or b"").find(_START)
    return (
        _inflated(unpacked[at + len(_START) - len(_GZIP_MAGIC) :]) if unpacked and at >= 0 else None
    )


def _inflated(data: bytes) -> bytes | None:
    try:
        return zlib.decompressobj(_GZIP).decompress(data, _SIZE_MAX)
    except zlib.error:
        return None


def _unxz(data: bytes) -> bytes | None:
    import lzma

    try:
        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY).decompress(data, _SIZE_MAX)
    except (lzma.LZMAError, EOFError):
        return None
