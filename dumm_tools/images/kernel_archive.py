"""Kernel packs as archives, so that they travel: a tar, compressed if this host has zstd, with the
pack as its only directory."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from dumm_tools.errors import DummError, Usage
from dumm_tools.images import cache, elf
from dumm_tools.trees import archive_file, tarring, untar

Report = Callable[[str], None]

_ELF = b"\x7fELF"
#: The beginnings of archives that may be compressed: gzip, bzip2, xz, lzma, zstd.
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00\x00", b"\x28\xb5\x2f\xfd")
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
#: Larger than any pack: 2 GiB of a kernel with its symbols, and all of its modules.
_SIZE_MAX = 8 << 30
_ENTRIES_MAX = 100_000


def export(name: str, target: str, progress: Report | None = None) -> None:
    """Write a pack of the cache to the file `target`, whole or not at all, or to stdout (`-`)."""
    path = cache.find("kernels", name)
    if path is None:
        raise cache.missing("kernels", name)
    with cache.held("kernels", path), archive_file.output(target, 0o644) as fd:
        archive_file.write(tarring.stream(path, name), fd, progress)


def is_archive(path: str) -> bool:
    """Whether the file at `path` is an archive rather than a program. DummError if it is neither;
    `-` is taken for one."""
    if path == "-":
        return True
    fd = elf.opened(path)
    try:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        head = os.pread(fd, _TAR_MAGIC_AT + len(_TAR_MAGIC), 0) if is_file else b""
    finally:
        os.close(fd)
    if head.startswith(_ELF):
        return False
    if not head.startswith(_PACKED) and head[_TAR_MAGIC_AT:] != _TAR_MAGIC:
        raise DummError(f"'{path}' is neither a UML kernel nor an archive of a kernel pack")
    return True


@contextlib.contextmanager
def unpacked(path: str, progress: Report | None = None) -> Iterator[str]:
    """The directory of the pack in an archive, unpacked for the time being. Its last component is
    the pack's name in the archive."""
    label = "standard input" if path == "-" else path
    if path == "-" and os.isatty(0):
        raise Usage("standard input is a terminal, not an archive")
    limits = untar.Limits(_SIZE_MAX, _ENTRIES_MAX)
    with cache.scratch("kernels", "import") as work:
        fd = 0 if path == "-" else elf.opened(path)
        with open(fd, "rb", buffering=0, closefd=path != "-") as source:
            untar.extract(source, label, work, progress, limits)
        with os.scandir(work) as entries:
            found = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        if len(found) != 1:
            raise DummError(f"'{label}' is not an archive of a kernel pack")
        yield found[0]
