"""The loader and the shared libraries of a program, found by reading files, as ld.so(8) would.

The loader could list them itself, but it would run code from a file of unknown origin: that named
by DT_AUDIT, or the loader that the file names. Library paths in the file (RUNPATH) are ignored:
those in a program of this host could lead anywhere on it.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable

from dumm_tools.errors import DummError
from dumm_tools.images import elf

#: Directories that a loader searches without configuration, Debian's first.
DIRECTORIES = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
#: glibc loads it when UML cancels a thread, as in a reboot; no binary refers to it.
UNWINDER = "libgcc_s.so.1"
CACHE = "/etc/ld.so.cache"
_LOADER = re.compile(r"(/(?:usr/)?lib(?:64)?(?:/x86_64-linux-gnu)?)/(ld-[\w.-]+)", re.ASCII)
#: struct cache_file_new and file_entry_new of glibc (sysdeps/generic/dl-cache.h).
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_HEADER = struct.Struct("=20sII20x")
_CACHE_ENTRY = struct.Struct("=IIIIQ")
_CACHE_MAX = 16 << 20
_X86_64_LIBC6 = 0x0303  # FLAG_X8664_LIB64 | FLAG_ELF_LIBC6
_LIBRARIES_MAX = 256


def loader(image: elf.Image, path: str) -> str | None:
    """The loader of the program `path`, None for a static one. DummError if it names something
    else, which would then run, or be visible to a guest."""
    name = image.interpreter
    if name is not None and not _LOADER.fullmatch(name):
        raise DummError(
            f"'{path}' requests the loader '{name}', which is not in a system directory"
        )
    return name


def loader_file(name: str, path: str) -> str:
    """The file of a loader on this host, which the program `path` requests. DummError."""
    real = os.path.realpath(name)
    if not _LOADER.fullmatch(real) or _library(real) is None:
        raise DummError(f"the loader of '{path}', '{name}', is not on this host")
    return real


def closure(
    image: elf.Image, path: str, find: Callable[[str], tuple[str, elf.Image] | None]
) -> list[str]:
    """The paths of all libraries that the program `path` needs, directly or indirectly. `find`
    returns the path of a library and its needs. DummError if one is missing."""
    skipped = {os.path.basename(image.interpreter or "")}
    found: dict[str, str] = {}
    wanted = list(image.needed)
    while wanted:
        name = wanted.pop(0)
        if name in found or name in skipped:
            continue
        there = None if "/" in name else find(name)
        if there is None:
            raise DummError(f"'{path}' lacks the library '{name}'")
        found[name] = there[0]
        if len(found) > _LIBRARIES_MAX:
            raise DummError(f"'{path}' needs too many libraries")
        wanted += there[1].needed
    return list(found.values())


def of_host(image: elf.Image, path: str) -> list[str]:
    """The libraries of a program of this host, by the paths that its loader uses."""
    cached = _cached()

    def find(name: str) -> tuple[str, elf.Image] | None:
        places = [*cached.get(name, ()), *(f"{place}/{name}" for place in DIRECTORIES)]
        for place in places:
            library = _library(place)
            if library is not None:
                return place, library
        return None

    found = closure(image, path, find)
    for first in found[:1]:
        unwinder = f"{os.path.dirname(first)}/{UNWINDER}"
        if unwinder not in found and os.path.exists(unwinder):
            found.append(unwinder)
    return found


def binds(image: elf.Image, path: str) -> list[tuple[str, str]]:
    """The files that the jail of a program of this host must provide: pairs of a path on this host
    and its path in the jail. DummError if one is missing."""
    name = loader(image, path)
    if name is None:
        return []
    found = of_host(image, path)
    pairs = [(loader_file(name, path), name)]
    pairs += [(os.path.realpath(library), library) for library in found]
    if any(os.path.dirname(library) not in DIRECTORIES for library in found):
        pairs.append((CACHE, CACHE))
    return pairs


def _library(path: str) -> elf.Image | None:
    """The needs of a library of this host; None if there is no suitable one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return elf.image(fd, path)
    except DummError:  # perhaps for another architecture: the loader continues its search, too
        return None
    finally:
        os.close(fd)


def _cached() -> dict[str, list[str]]:
    """Libraries known to ldconfig(8), inside and outside the directories above."""
    try:
        with open(CACHE, "rb") as file:
            data = file.read(_CACHE_MAX)
    except OSError:
        return {}
    return cache_entries(data)


def cache_entries(data: bytes) -> dict[str, list[str]]:
    """The paths of the libraries in an ld.so.cache, by name; empty if it is invalid."""
    start = data.find(_CACHE_MAGIC)  # an older format may precede it
    if start < 0 or len(data) - start < _CACHE_HEADER.size:
        return {}
    _, count, _ = _CACHE_HEADER.unpack_from(data, start)
    found: dict[str, list[str]] = {}
    at = start + _CACHE_HEADER.size
    for offset in range(at, min(at + count * _CACHE_ENTRY.size, len(data)), _CACHE_ENTRY.size):
        if offset + _CACHE_ENTRY.size > len(data):
            break
        flags, key, value, _, special = _CACHE_ENTRY.unpack_from(data, offset)
        if flags == _X86_64_LIBC6 and special == 0:  # otherwise for some processors only
            path = _text(data, start + value)
            if path.startswith("/"):
                found.setdefault(_text(data, start + key), []).append(path)
    return found


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + 4096)
    return os.fsdecode(data[at:end]) if end >= 0 else ""
