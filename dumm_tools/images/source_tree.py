"""A kernel's source tree, which is only read, and what has been made of it elsewhere."""

from __future__ import annotations

import os
import re

from dumm_tools import trust
from dumm_tools.errors import DummError, NotFound

#: Signs that make has worked in the tree itself (outputmakefile in the kernel's Makefile).
_TRACES = (".config", "include/config", "arch/um/include/generated")
_VERSION = re.compile(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *=[ \t]*(\S*)$", re.M)


def check(path: str) -> str:
    """The absolute path of the tree at `path`; NotFound or DummError if UML cannot be built from
    it; Conflict if others could decide what make runs."""
    if not os.path.isdir(path):
        raise NotFound(f"no such directory '{path}'")
    tree = os.path.realpath(path)
    if not release(tree) or not os.path.isfile(os.path.join(tree, "arch/um/Makefile")):
        raise DummError(f"'{path}' is not the source of a kernel with UML")
    trust.check_source(tree)
    for trace in _TRACES:
        if os.path.lexists(os.path.join(tree, trace)):
            raise DummError(
                f"'{path}' contains a build ({trace}), with which make builds nowhere else",
                hint=f"make -C {path} ARCH=um mrproper (this deletes the .config and all objects)",
            )
    if re.search(r"[\s:]", tree):
        raise DummError(f"make cannot build a kernel in a path with spaces or colons: '{tree}'")
    return tree


def release(tree: str) -> str:
    """The version in the tree's Makefile, empty if it has none."""
    try:
        with open(os.path.join(tree, "Makefile"), encoding="utf-8", errors="replace") as file:
            found: dict[str, str] = dict(_VERSION.findall(file.read(2000)))
    except OSError:
        return ""
    if not {"VERSION", "PATCHLEVEL"} <= set(found):
        return ""
    numbers = (found["VERSION"], found["PATCHLEVEL"], found.get("SUBLEVEL", "0"))
    return ".".join(numbers) + found.get("EXTRAVERSION", "")


def is_configured(tree: str, objects: str) -> bool:
    """Whether the configuration in `objects` is newer than the Kconfig files that it came from."""
    made = os.path.join(objects, "include/config/auto.conf")
    try:
        since = os.stat(made).st_mtime
        os.stat(os.path.join(objects, ".config"))
        with open(f"{made}.cmd", encoding="utf-8", errors="surrogateescape") as file:
            files = re.findall(r"^\t(\S+)", file.read(), re.M)
        return all(os.stat(os.path.join(tree, each)).st_mtime <= since for each in files)
    except FileNotFoundError:
        return False
