"""Kernel packs: a UML binary, its loader, its libraries and its modules in one directory.

A pack serves as the root of the guest's jail, so the newest UML runs on any distribution. Its
layout is merged (`usr`, and links `bin lib lib64` into it); `pack.json` describes it. Packs are
made by `kernel_pack.py`; this module only finds them, quickly, at each start of a guest.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from dumm_tools import trust
from dumm_tools.errors import DummError
from dumm_tools.images import cache

#: Possible locations of a UML binary in a directory; the first one found is used.
BINARIES = ("usr/bin/linux.uml", "usr/bin/linux", "bin/linux.uml", "bin/linux", "linux")
#: Location of the modules of a UML kernel, in a pack and on Debian.
MODULES = "/usr/lib/uml/modules"
_PLAIN_BINARY = "/usr/bin/linux.uml"
#: Maximum size of a pack.json.
_FACTS_MAX = 64 << 10
#: Maximum length of a string in it.
_FACT_MAX = 2000
#: The kernel's capabilities, in pack.json: names of `features.py`, separated by spaces.
FEATURES = "features"
#: The project's patches in it, likewise.
PATCHES = "patches"


class Kernel(NamedTuple):
    """The kernel that a guest is started with.

    `path` is the pack's directory or the plain binary, absolute; `binary` the UML binary inside the
    jail. A pack provides the jail's `root`; a plain binary has none, but `binds`: pairs of a host
    path and its path in the jail. `lock` guards a pack of the cache: see `cache.hold`.
    """

    path: str
    binary: str
    root: str | None = None
    binds: tuple[tuple[str, str], ...] = ()
    lock: str | None = None


class Pack(NamedTuple):
    """A kernel pack of the cache; unknown values are None. `date` is that of the archive,
    `virtiofsd` the version of the one in the pack, `source` what it was built from."""

    name: str
    path: str
    release: str | None = None
    version: str | None = None
    suite: str | None = None
    date: str | None = None
    virtiofsd: str | None = None
    features: tuple[str, ...] | None = None
    source: str | None = None


def resolve(spec: str) -> Kernel:
    """The kernel that `spec` refers to: a pack in the cache, a pack directory, or a UML binary.

    NotFound if there is none, DummError if it is not a kernel.
    """
    path = cache.find("kernels", spec) or os.path.abspath(spec)
    if spec and os.path.isdir(path):
        return _of_pack(path)
    if not spec or not os.path.exists(path):
        raise cache.missing("kernels", spec, "dumm-fs kernel fetch")
    # The binary of a pack runs only with the pack's libraries.
    real = os.path.realpath(path)
    root = real.removesuffix("/usr/bin/linux.uml")
    if root != real and os.path.exists(f"{root}/pack.json"):
        return _of_pack(root)
    return _of_binary(path)


def default() -> Kernel | None:
    """The pack in the cache with the highest release, None if there is none."""
    packs = list_()
    return resolve(max(packs, key=order).name) if packs else None


def list_() -> list[Pack]:
    """All packs of the cache, sorted by name."""
    return [_describe(name) for name in cache.names("kernels")]


def delete(name: str) -> None:
    """Delete a pack, and what `build` keeps for it: NotFound if there is neither, Conflict while
    guests run from the pack or it is being built."""
    from dumm_tools.images import builds
    from dumm_tools.trees import staging

    with builds.idle(name) as place:
        if place is None or cache.find("kernels", name) is not None:
            cache.delete("kernels", name)
        if place is not None:
            staging.discard(*os.path.split(place))


def order(pack: Pack) -> tuple[tuple[int, ...], bool, str]:
    """Sort key: the release by its numbers, those that were built before Debian's own, the name."""
    return (release_number(pack.release or ""), pack.source is not None, pack.name)


def release_number(release: str) -> tuple[int, ...]:
    """`7.2.7-um` as (7, 2, 7); empty if it does not start with a number."""
    head = re.match(r"\d+(\.\d+)*", release)
    return tuple(int(n) for n in head[0].split(".")) if head else ()


def release(kernel: Kernel) -> str | None:
    """The release of a kernel (`uname -r`), None if nothing in its pack says it."""
    if kernel.root is not None:
        known = facts(kernel.root).get("release")
        return known or _only_modules(kernel.root + MODULES)
    from dumm_tools.images import kernel_banner

    return kernel_banner.release_of(kernel.path)


def patches(kernel: Kernel) -> tuple[str, ...]:
    """The project's patches in a kernel, as far as its pack says it (kernel_patches.py)."""
    return tuple(facts(kernel.root).get(PATCHES, "").split()) if kernel.root is not None else ()


def check(kernel: Kernel) -> None:
    """DummError if a kernel lacks what guests need. Those of the cache were checked when they were
    made, and plain binaries when they were resolved."""
    if kernel.root is None or kernel.lock is not None or FEATURES in facts(kernel.root):
        return
    from dumm_tools.images import elf, fitness

    binary = kernel.root + kernel.binary
    fd = elf.opened(binary)
    try:
        fitness.check_binary(fd, kernel.path, os.path.isdir(kernel.root + MODULES))
    finally:
        os.close(fd)


def features(kernel: Kernel) -> tuple[str, ...] | None:
    """The capabilities of a kernel (`features.py`), None if its configuration is not known."""
    return _features(facts(kernel.root)) if kernel.root is not None else None


def _features(known: dict[str, str]) -> tuple[str, ...] | None:
    return tuple(known[FEATURES].split()) if FEATURES in known else None


def _of_pack(path: str) -> Kernel:
    trust.check_pack(path)
    for binary in BINARIES:
        if os.path.isfile(os.path.join(path, binary)):
            # Other links are resolved within the jail; this file is bound, wherever it is.
            inside = os.path.join(os.path.realpath(path), "")
            if not os.path.realpath(os.path.join(path, "linux")).startswith(inside):
                raise DummError(f"'{path}' is not a kernel pack: its 'linux' leads out of it")
            lock = cache.lock_of("kernels", path)
            return Kernel(path, f"/{binary}", root=path, lock=lock)
    raise DummError(f"'{path}' is not a kernel pack: it contains no {BINARIES[0]}")


def _of_binary(path: str) -> Kernel:
    """A binary of this host, which runs only in its jail: its release and the files that the jail
    must provide are determined by reading it."""
    from dumm_tools.images import elf, fitness, kernel_banner, libraries

    real = os.path.realpath(path)
    fd = elf.opened(real)
    try:
        image = elf.image(fd, path)
        libraries.loader(image, path)
        if not os.access(path, os.X_OK):
            raise DummError(f"'{path}' is not executable", hint=f"chmod +x {path}")
        kernel_banner.release(fd, path)
        fitness.check_binary(fd, path, os.path.isdir(MODULES))
        binds = [(real, _PLAIN_BINARY), *libraries.binds(image, path)]
    finally:
        os.close(fd)
    if os.path.isdir(MODULES):
        binds.append((MODULES, MODULES))
    return Kernel(path, _PLAIN_BINARY, binds=tuple(binds))


def _describe(name: str) -> Pack:
    path = os.path.join(cache.directory("kernels"), name)
    known = facts(path)
    return Pack(
        name,
        path,
        release=known.get("release") or _only_modules(path + MODULES),
        version=known.get("version"),
        suite=known.get("suite"),
        date=known.get("date"),
        virtiofsd=known.get("virtiofsd"),
        features=_features(known),
        source=known.get("source"),
    )


def facts(root: str) -> dict[str, str]:
    """The strings in a pack's pack.json; empty if it cannot be read."""
    try:
        fd = os.open(f"{root}/pack.json", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        return read_facts(fd)
    finally:
        os.close(fd)


def read_facts(fd: int) -> dict[str, str]:
    """The strings in an open pack.json; empty if it cannot be read."""
    import json

    try:
        read = json.loads(os.pread(fd, _FACTS_MAX, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(read, dict):
        return {}
    return {
        k: v
        for k, v in read.items()
        if isinstance(v, str) and v.isprintable() and len(v) <= _FACT_MAX
    }


def _only_modules(directory: str) -> str | None:
    """The release of a directory of modules, if it contains those of a single kernel."""
    try:
        names = os.listdir(directory)
    except OSError:
        return None
    return names[0] if len(names) == 1 else None
