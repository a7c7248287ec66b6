"""A checksum of the contents of a master or a kernel pack, by which two machines recognize the
same one.

It covers the names, types and contents of files, the targets of links, and which files are
executable, but no owners and times, which depend on who made it, when and where. It is computed
when it is first needed, and kept with the other facts about an object of the cache, which nobody
changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable

from dumm_tools.images import assembly, cache, facts
from dumm_tools.trees import tarring

Report = Callable[[str], None]

_KEY = "digest"


def of(kind: cache.Kind, path: str, progress: Report | None = None) -> str:
    """The SHA-256 of the master, the pack or the plain kernel at a path, in hexadecimal."""
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    known = facts.read(path, kind).get(_KEY)
    version = _version(path)
    match known:
        case [str(found), [int(), int()] as seen] if seen == version:
            return found
    found = _computed(kind, path, progress)
    if cache.facts_path(kind, path) is not None:
        with contextlib.suppress(OSError):  # it may be root's
            name = os.path.basename(os.path.realpath(path))
            facts.record(name, kind=kind, **{_KEY: [found, version]})
    return found


def _version(path: str) -> list[int]:
    """Numbers that change if a pack is replaced, or gets further files."""
    info = os.stat(path)
    return [info.st_ino, info.st_mtime_ns]


def _computed(kind: cache.Kind, path: str, progress: Report | None) -> str:
    digest, done = hashlib.sha256(), 0
    # The facts about a pack depend on how it came here.
    skip = (assembly.FACTS,) if kind == "kernels" else ()
    for piece in tarring.stream(path, "tree", skip):
        digest.update(piece)
        if progress and (done + len(piece)) >> 26 > done >> 26:
            name = os.path.basename(path)
            progress(f"checksum of {cache.NOUN[kind]} '{name}': {(done + len(piece)) >> 20} MB")
        done += len(piece)
    return digest.hexdigest()
