"""Making kernel packs: from Debian packages, from a directory, or from a plain binary.

Whatever it is made from, a pack has the same layout, with only the files that the kernel needs.
None of them are run here: whether a kernel works is seen when a guest starts, in its jail.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from dumm_tools import names
from dumm_tools.errors import NotFound
from dumm_tools.images import (
    apt,
    assembly,
    cache,
    existing,
    features,
    fitness,
    inspection,
    kernel,
    kernel_archive,
    kernel_origin,
    suites,
    virtiofsd,
    virtiofsd_pack,
)
from dumm_tools.images.inspection import Source
from dumm_tools.trees import copying

Report = Callable[[str], None]


def fetch(
    suite: str | None = None,
    name: str | None = None,
    *,
    mirror: str | None = None,
    allow_expired: bool = False,
    may_exist: bool = False,
    progress: Report | None = None,
    warn: Report | None = None,
    note: Report | None = None,
) -> str:
    """Make a pack from a Debian suite's user-mode-linux and its libc; return the pack's name.

    Without a suite, the newest available one is used; one with an expired Release file is skipped
    with a warning. Conflict if the pack exists, unless `may_exist`: then one that was fetched by an
    earlier version gets what it lacks. `note` gets a remark on what a new pack's kernel lacks.
    """
    if name is not None:
        names.pack(name, "kernel name")
    for each in (suite,) if suite else ():
        apt.check_source(each, mirror or apt.DEFAULT_MIRROR)
    known = name or _known_name(suite, may_exist)
    if known is not None and cache.find("kernels", known):
        with cache.build("kernels", known, may_exist=may_exist):
            existing.need_fetched(known, suite)  # or build() has raised the Conflict
        _complete(known, mirror, allow_expired, progress, warn)
        return known
    with cache.scratch("kernels", "fetch") as work:
        lists = suites.open_newest(
            work,
            (suite,) if suite else suites.NEWEST_FIRST,
            inspection.LICENSED[0],
            mirror=mirror or apt.host_mirror(),
            allow_expired=allow_expired,
            progress=progress,
            warn=warn,
        )
        name = name or names.pack(lists.codename, "suite name")
        with cache.build("kernels", name, may_exist=may_exist, progress=progress) as target:
            if target is not None:
                _fetch_into(target, work, lists, allow_expired, progress, warn)
            else:
                existing.need_fetched(name, lists.codename)
        if target is not None and note is not None:
            _remark(name, note)
    return name


def import_(
    path: str,
    name: str | None = None,
    *,
    may_exist: bool = False,
    progress: Report | None = None,
) -> str:
    """Make a pack from a directory with a UML kernel in it, from a plain UML binary, or from an
    exported pack (`-` for one on stdin).

    Return the pack's name: by default that of the directory or of the exported pack, or
    `linux-RELEASE`.
    """
    if name is not None:
        names.pack(name, "kernel name")
    if path != "-" and not os.path.exists(path):
        raise NotFound(f"no such file '{path}'")
    if name is not None and not may_exist and cache.find("kernels", name):
        with cache.build("kernels", name):
            pass  # this raises the Conflict, before anything is unpacked
    if path != "-" and os.path.isdir(path):
        own = os.path.basename(os.path.abspath(path))
        with inspection.of_directory(os.path.realpath(path)) as source:
            return _import(source, path, name or own, may_exist)
    if kernel_archive.is_archive(path):
        with (
            kernel_archive.unpacked(path, progress) as root,
            inspection.of_directory(root) as source,
        ):
            return _import(source, path, name or os.path.basename(root), may_exist, move=True)
    with inspection.of_binary(os.path.realpath(path)) as source:
        return _import(source, path, name or f"linux-{source.release}", may_exist)


def _import(source: Source, path: str, name: str, may_exist: bool, *, move: bool = False) -> str:
    check(source, path)
    names.pack(name, "kernel name")
    with cache.build("kernels", name, may_exist=may_exist) as target:
        if target is not None:
            assemble(source, target, _imported(source.facts), move=move)
        else:
            existing.need_kernel(name, source.program.binary, path)
    return name


def _imported(facts: dict[str, str]) -> dict[str, str]:
    """The facts about a pack that was built elsewhere."""
    return {**facts, kernel_origin.IMPORTED: "yes"} if "source" in facts else facts


def check(source: Source, path: str) -> None:
    """DummError if the kernel lacks what guests need."""
    fitness.check(source.program.binary, path, source.config, source.modules is not None)


def _known_name(suite: str | None, may_exist: bool) -> str | None:
    """The name that a fetch will choose, if that is known without the network."""
    if suite is not None:
        suite = suites.ALIASES.get(suite, suite)
        return None if suite in suites.NEWEST_FIRST and suite != "sid" else suite
    if not may_exist:
        return None
    # A Makefile that names no suite asks for "some kernel of Debian".
    packs = [p for p in kernel.list_() if p.suite is not None and p.suite == p.name]
    return max(packs, key=kernel.order).name if packs else None


def _complete(
    name: str,
    mirror: str | None,
    allow_expired: bool,
    progress: Report | None,
    warn: Report | None,
) -> None:
    """Give a fetched pack of an earlier version what that did not fetch."""
    path = cache.find("kernels", name)
    if path is None or "suite" not in kernel.facts(path):
        return
    virtiofsd_pack.add(
        path, mirror=mirror, allow_expired=allow_expired, progress=progress, warn=warn
    )
    facts = kernel.facts(path)
    if kernel.FEATURES not in facts:
        with cache.held("kernels", path), inspection.of_directory(path) as source:
            assembly.write_facts(path, _with_features(facts, source))


def _remark(name: str, note: Report) -> None:
    has = kernel.features(kernel.resolve(name))
    lacking = features.remark(has) if has is not None else ""
    if lacking:
        note(f"kernel '{name}' lacks {lacking}; 'dumm-fs kernel build' makes one that has them")


def _fetch_into(
    target: str,
    work: str,
    lists: apt.Tree,
    allow_expired: bool,
    progress: Report | None,
    warn: Report | None,
) -> None:
    debs = apt.download(lists, inspection.LICENSED, progress)
    root = os.path.join(work, "root")
    os.mkdir(root)
    suites.unpack(debs, root, progress)
    facts = {"suite": lists.codename, "date": lists.date, "version": apt.version(debs[0])}
    facts |= virtiofsd_pack.unpack(
        root,
        work,
        lists=lists,
        mirror=lists.mirror,
        allow_expired=allow_expired,
        progress=progress,
        warn=warn,
    )
    with inspection.of_directory(root) as source:
        assemble(source, target, facts, move=True)


def assemble(source: Source, target: str, facts: dict[str, str], *, move: bool = False) -> None:
    """Create the layout of the pack in the empty directory `target`."""
    assembly.program(source.program, target, kernel.BINARIES[0])
    if source.server is not None:
        assembly.program(source.server, os.path.join(target, virtiofsd.PLACE), virtiofsd.BINARY)
    modules = os.path.join(target, "usr/lib/uml/modules", source.release)
    os.makedirs(os.path.dirname(modules))
    if source.modules is not None and move:
        os.rename(os.readlink(f"/proc/self/fd/{source.modules}"), modules)
    else:
        os.mkdir(modules)
        if source.modules is not None:
            copying.copy_tree(f"/proc/self/fd/{source.modules}", modules)
    assembly.write_facts(target, {**_with_features(facts, source), "release": source.release})


def _with_features(facts: dict[str, str], source: Source) -> dict[str, str]:
    """The contents of pack.json, with the features of the kernel, if they are known."""
    facts = {key: value for key, value in facts.items() if key != kernel.FEATURES}
    if source.config is not None:
        facts[kernel.FEATURES] = " ".join(features.of(source.config, source.modules is not None))
    return facts
