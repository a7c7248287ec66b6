"""Making kernel packs: from Debian packages, from a directory, or from a plain binary.

Whatever it is made from, a pack has the same layout, with only the files that the kernel needs.
None of them are run here: whether a kernel works is seen when a guest starts, in its jail.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from dumm_tools import names
from dumm_tools.errors import DummError, NotFound
from dumm_tools.images import apt, cache, inspection, kernel
from dumm_tools.images.inspection import Source
from dumm_tools.trees import copying, data

Report = Callable[[str], None]

#: The order in which suites are tried if none is named: newest first.
SUITES = ("sid", "testing", "stable", "oldstable")
_ALIASES = {"unstable": "sid"}


def fetch(
    suite: str | None = None,
    name: str | None = None,
    *,
    mirror: str | None = None,
    allow_expired: bool = False,
    may_exist: bool = False,
    progress: Report | None = None,
    warn: Report | None = None,
) -> str:
    """Make a pack from a Debian suite's user-mode-linux and its libc; return the pack's name.

    Without a suite, the newest available one is used; one with an expired Release file is skipped
    with a warning. Conflict if the pack exists, unless `may_exist`.
    """
    if name is not None:
        names.pack(name, "kernel name")
    for each in (suite,) if suite else ():
        apt.check_source(each, mirror or apt.DEFAULT_MIRROR)
    known = name or _known_name(suite, may_exist)
    if known is not None and cache.find("kernels", known):
        with cache.build("kernels", known, may_exist=may_exist):
            return known  # build() has raised the Conflict, or there is nothing to do
    with cache.scratch("kernels", "fetch") as work:
        lists = _open(work, suite, mirror, allow_expired, progress, warn)
        name = name or names.pack(lists.codename, "suite name")
        with cache.build("kernels", name, may_exist=may_exist, progress=progress) as target:
            if target is not None:
                _fetch_into(target, work, lists, progress)
    return name


def import_(path: str, name: str | None = None, *, may_exist: bool = False) -> str:
    """Make a pack from a directory with a UML kernel in it, or from a plain UML binary.

    Return the pack's name: by default that of the directory, or `linux-RELEASE`.
    """
    if name is not None:
        names.pack(name, "kernel name")
    if not os.path.exists(path):
        raise NotFound(f"no such file '{path}'")
    real = os.path.realpath(path)
    is_directory = os.path.isdir(real)
    with (inspection.of_directory if is_directory else inspection.of_binary)(real) as source:
        if name is None:
            own = os.path.basename(os.path.abspath(path))
            name = names.pack(own if is_directory else f"linux-{source.release}", "kernel name")
        with cache.build("kernels", name, may_exist=may_exist) as target:
            if target is not None:
                _assemble(source, target, source.facts)
    return name


def _known_name(suite: str | None, may_exist: bool) -> str | None:
    """The name that a fetch will choose, if that is known without the network."""
    if suite is not None:
        suite = _ALIASES.get(suite, suite)
        return None if suite in SUITES and suite != "sid" else suite
    if not may_exist:
        return None
    # A Makefile that names no suite asks for "some kernel of Debian".
    packs = [p for p in kernel.list_() if p.suite is not None and p.suite == p.name]
    return max(packs, key=kernel.order).name if packs else None


def _open(
    work: str,
    suite: str | None,
    mirror: str | None,
    allow_expired: bool,
    progress: Report | None,
    warn: Report | None,
) -> apt.Tree:
    """The package lists of the named suite, or of the newest usable one that has a UML kernel."""
    mirror = mirror or apt.host_mirror()
    last: DummError | None = None
    for each in (suite,) if suite else SUITES:
        directory = os.path.join(work, f"apt-{each}")
        os.mkdir(directory)
        try:
            lists = apt.open_suite(
                directory,
                _ALIASES.get(each, each),
                mirror=mirror,
                allow_expired=allow_expired,
                progress=progress,
            )
            if apt.has(lists, inspection.LICENSED[0]):
                return lists
            last = NotFound(f"suite '{each}' has no {inspection.LICENSED[0]}")
        except (apt.Expired, NotFound) as e:
            last = e
        if suite is not None:
            raise last
        if warn and isinstance(last, apt.Expired):
            warn(f"{last}, trying an older suite; {last.hint}")
    raise last or NotFound("no suite to fetch from")


def _fetch_into(target: str, work: str, lists: apt.Tree, progress: Report | None) -> None:
    debs = apt.download(lists, inspection.LICENSED, progress)
    root = os.path.join(work, "root")
    os.mkdir(root)
    for deb in debs:
        if progress:
            progress(f"unpacking {os.path.basename(deb)}")
        apt.unpack(deb, root)
    facts = {"suite": lists.codename, "date": lists.date, "version": apt.version(debs[0])}
    with inspection.of_directory(root) as source:
        _assemble(source, target, facts, move=True)


def _assemble(source: Source, target: str, facts: dict[str, str], *, move: bool = False) -> None:
    """Create the layout of the pack in the empty directory `target`."""
    import json

    usr_bin = os.path.join(target, "usr/bin")
    libs = os.path.join(target, "usr/lib/x86_64-linux-gnu")
    os.makedirs(usr_bin)
    os.makedirs(libs)
    _copy_file(source.binary, os.path.join(usr_bin, "linux.uml"), 0o755)
    for name, library in source.libraries.items():
        _copy_file(library, os.path.join(libs, name), 0o755)
    if source.loader:
        # The path where the binary looks for it, through the links below.
        loader, known_as = source.loader
        place = os.path.join(target, "usr", known_as.removeprefix("/usr").lstrip("/"))
        os.makedirs(os.path.dirname(place), exist_ok=True)
        _copy_file(loader, place, 0o755)
    modules = os.path.join(target, "usr/lib/uml/modules", source.release)
    os.makedirs(os.path.dirname(modules))
    if source.modules is not None and move:
        os.rename(os.readlink(f"/proc/self/fd/{source.modules}"), modules)
    else:
        os.mkdir(modules)
        if source.modules is not None:
            copying.copy_tree(f"/proc/self/fd/{source.modules}", modules)
    os.makedirs(os.path.join(target, "usr/lib64"), exist_ok=True)
    for link in ("bin", "lib", "lib64"):
        os.symlink(f"usr/{link}", os.path.join(target, link))
    for package, licence in source.licences.items():
        place = os.path.join(target, "usr/share/doc", package)
        os.makedirs(place)
        _copy_file(licence, os.path.join(place, "copyright"), 0o644)
    with open(os.path.join(target, "pack.json"), "x", encoding="utf-8") as file:
        json.dump({**facts, "release": source.release}, file, indent=1, sort_keys=True)
        file.write("\n")


def _copy_file(source: int, target: str, mode: int) -> None:
    new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        data.copy(source, new, os.fstat(source))
        os.fchmod(new, mode)
    finally:
        os.close(new)
