"""Kernel packs built from source: Debian's, or a tree that somebody edits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dumm_tools import names
from dumm_tools.errors import Conflict
from dumm_tools.images import (
    apt,
    build_config,
    builds,
    cache,
    debian_source,
    kernel,
    kernel_make,
    kernel_pack,
    source_tree,
    suites,
    toolchain,
    virtiofsd_pack,
)
from dumm_tools.images.build_config import Option
from dumm_tools.images.kernel_make import Tree

Report = Callable[[str], None]

#: The record in pack.json of a build of Debian's source, of any version.
DEBIAN = {"source": "linux-source"}


class Order(NamedTuple):
    """How to build a kernel. `show` gets the messages of the compiler; `counting`: count the files
    first, for the progress."""

    options: Mapping[str, Option]
    jobs: int
    modules: bool
    progress: Report | None
    warn: Report | None
    show: Report | None
    counting: bool


def from_tree(path: str, name: str | None, order: Order, *, may_exist: bool = False) -> str:
    """Build a kernel from the source tree at `path`, and make a pack of it; return its name, by
    default that of the directory.

    A pack that was built from the same tree is replaced, unless `may_exist`; any other is a
    Conflict.
    """
    tree = source_tree.check(path)
    name = names.pack(name or os.path.basename(tree), "kernel name")
    facts = _facts(tree)
    if _is_there(name, facts, f"'{tree}'", may_exist):
        return name
    toolchain.check(debian=False)
    with builds.opened(name, order.progress) as place:
        if not _is_there(name, facts, f"'{tree}'", may_exist):
            builds.start(place, tree)
            _build(tree, place, name, order, facts, warnings=True)
    return name


def from_debian(
    suite: str | None,
    name: str | None,
    order: Order,
    *,
    mirror: str | None = None,
    allow_expired: bool = False,
    may_exist: bool = False,
) -> str:
    """Build a kernel from the source package of a suite, or of the newest one that can be used;
    otherwise like `from_tree`. The name is by default `linux-VERSION`."""
    for each in (suite,) if suite else ():
        apt.check_source(each, mirror or apt.DEFAULT_MIRROR)
    if name is None and may_exist and (known := _any_of_debian(suite)):
        return known
    if name is not None and _is_debian(names.pack(name, "kernel name"), may_exist):
        return name
    toolchain.check(debian=True)
    with cache.scratch("kernels", "build") as work:
        lists = suites.open_newest(
            work,
            (suite,) if suite else suites.NEWEST_FIRST,
            debian_source.META,
            mirror=mirror or apt.host_mirror(),
            allow_expired=allow_expired,
            progress=order.progress,
            warn=order.warn,
        )
        package = debian_source.newest(lists)
        name = name or package.name
        if _is_debian(name, may_exist):
            return name
        with builds.opened(name, order.progress) as place:
            if _is_debian(name, may_exist):
                return name
            builds.start(place, f"{package.package} {package.version}")
            facts = {
                **DEBIAN,
                "suite": lists.codename,
                "date": lists.date,
                "version": package.version,
            }
            tree = _unpacked(lists, package, work, place, order)
            facts |= _server(lists, work, place, allow_expired, order)
            _build(tree, place, name, order, facts)
    return name


def _facts(tree: str) -> dict[str, str]:
    """The record in pack.json of a build of a tree: without its path, since packs travel."""
    import hashlib

    digest = hashlib.sha256(os.fsencode(tree)).hexdigest()
    return {"source": os.path.basename(tree), "source_id": digest[:16]}


def _is_debian(name: str, may_exist: bool) -> bool:
    return _is_there(name, DEBIAN, "Debian's linux-source", may_exist)


def _is_there(name: str, source: dict[str, str], what: str, may_exist: bool) -> bool:
    """Whether there is nothing to do. Conflict if the pack `name` comes from elsewhere."""
    path = cache.find("kernels", name)
    if path is None or (not may_exist and _is_from(source, path)):
        return False
    if may_exist:
        return True
    raise Conflict(
        f"kernel '{name}' already exists, and was not built from {what}",
        hint="choose another name with --name",
    )


def _is_from(source: dict[str, str], pack: str) -> bool:
    facts = kernel.facts(pack)
    return all(facts.get(key) == source.get(key) for key in ("source", "source_id"))


def _any_of_debian(suite: str | None) -> str | None:
    """The newest pack that was built from the source of Debian, or of a suite: `--may-exist`
    without a name."""
    packs = [p for p in kernel.list_() if _is_from(DEBIAN, p.path)]
    if suite is not None:
        packs = [p for p in packs if p.suite == suites.ALIASES.get(suite, suite)]
    return max(packs, key=kernel.order).name if packs else None


def _unpacked(
    lists: apt.Tree, package: debian_source.Package, work: str, place: str, order: Order
) -> str:
    from dumm_tools.trees import staging

    tree = os.path.join(place, "source")
    if not os.path.isdir(tree):
        with staging.staged(tree, 0o755) as new:
            debian_source.unpack(lists, package, work, new, order.progress)
    return tree


def _server(
    lists: apt.Tree, work: str, place: str, allow_expired: bool, order: Order
) -> dict[str, str]:
    """Have Debian's virtiofsd in `place/server`, and return what pack.json says of it."""
    from dumm_tools.images import assembly
    from dumm_tools.trees import staging

    server = os.path.join(place, "server")
    if not os.path.isdir(server):
        with staging.staged(server, 0o755) as new:
            facts = virtiofsd_pack.unpack(
                new,
                work,
                lists=lists,
                mirror=lists.mirror,
                allow_expired=allow_expired,
                progress=order.progress,
                warn=order.warn,
            )
            assembly.write_facts(new, facts)
    return kernel.facts(server)


def _build(
    source: str,
    place: str,
    name: str,
    order: Order,
    facts: dict[str, str],
    *,
    warnings: bool = False,
) -> None:
    tree = Tree(source, os.path.join(place, "objects"), os.path.join(place, "log"))
    os.makedirs(tree.objects, exist_ok=True)
    build_config.write_parameters(tree.objects)
    with open(tree.log, "w", encoding="utf-8"):
        pass
    total = _configure(tree, place, order)
    targets = ["linux", *(["modules"] if order.modules else [])]
    for again in (False, True):
        try:
            kernel_make.run(
                tree,
                targets,
                jobs=order.jobs,
                progress=order.progress,
                show=order.show,
                warnings=warnings,
                total=total,
            )
            break
        except kernel_make.Unconfigured:
            # Another compiler, for example, has brought new questions.
            if again:
                raise
            _configure(tree, place, order, anew=True)
    _pack(tree, place, name, order, facts)


def _configure(tree: Tree, place: str, order: Order, *, anew: bool = False) -> int:
    """Make the configuration, if it is not there or what it is made from has changed. Return the
    number of files to compile, if known, for a progress that somebody sees."""
    release = source_tree.release(tree.source)
    options = build_config.wanted(release, order.options, order.modules)
    text = build_config.text(options)
    wanted = os.path.join(place, "wanted")
    if not anew and _content(wanted) == text and source_tree.is_configured(*tree[:2]):
        return 0
    if order.progress:
        order.progress("configuring the kernel")
    with open(f"{wanted}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    kernel_make.run(
        tree,
        ["alldefconfig"],
        environment={"KCONFIG_ALLCONFIG": f"{wanted}.new"},
        show=order.show,
    )
    lacking = build_config.check(options, os.path.join(tree.objects, ".config"), tree.source)
    if lacking and order.warn:
        order.warn(f"options that this kernel does not have: {', '.join(lacking)}")
    # include/config/auto.conf, by which `is_configured` sees whether Kconfig files are newer.
    kernel_make.run(tree, ["prepare"], jobs=order.jobs, progress=order.progress, show=order.show)
    os.replace(f"{wanted}.new", wanted)
    return kernel_make.count(tree) if order.counting else 0


def _pack(tree: Tree, place: str, name: str, order: Order, facts: dict[str, str]) -> None:
    """Make the pack, or replace the existing one."""
    from dumm_tools.images import inspection, kernel_modules
    from dumm_tools.trees import staging

    if order.progress:
        order.progress("making the pack")
    with staging.scratch(place, "stage") as stage:
        binary = os.path.join(stage, "bin/linux")
        os.mkdir(os.path.dirname(binary))
        os.link(os.path.join(tree.objects, "linux"), binary)
        kernel_modules.install(tree, stage, order.modules)
        server = os.path.join(place, "server")
        os.makedirs(server, exist_ok=True)
        there = cache.find("kernels", name) is not None
        made = cache.replacing("kernels", name) if there else cache.build("kernels", name)
        with (
            inspection.of_binary(binary) as source,
            inspection.of_server(server) as program,
            made as target,
        ):
            assert target is not None
            kernel_pack.check(source, name)
            kernel_pack.assemble(source._replace(server=program), target, facts)


def _content(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None
