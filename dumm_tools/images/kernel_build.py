"""Kernel packs built from source: Debian's, or a tree that somebody edits."""

from __future__ import annotations

import os

from dumm_tools import names
from dumm_tools.images import (
    apt,
    builds,
    cache,
    debian_source,
    kernel,
    kernel_compile,
    kernel_origin,
    kernel_patches,
    source_tree,
    suites,
    toolchain,
    virtiofsd_pack,
)
from dumm_tools.images.kernel_compile import Order


def from_tree(path: str, name: str | None, order: Order, *, may_exist: bool = False) -> str:
    """Build a kernel from the source tree at `path`, and make a pack of it; return its name, by
    default that of the directory.

    A pack that was built from the same tree is replaced, unless `may_exist`; any other is a
    Conflict.
    """
    tree = source_tree.check(path)
    name = names.pack(name or os.path.basename(tree), "kernel name")
    facts = kernel_origin.of_tree(tree)
    if kernel_origin.is_there(name, facts, f"'{tree}'", may_exist):
        return name
    toolchain.check(debian=False)
    with builds.opened(name, order.progress) as place:
        if not kernel_origin.is_there(name, facts, f"'{tree}'", may_exist):
            builds.start(place, tree)
            kernel_compile.run(tree, place, name, order, facts, warnings=True)
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
    if name is None and may_exist and (known := kernel_origin.any_of_debian(suite)):
        return known
    if name is not None and kernel_origin.is_debian(
        names.pack(name, "kernel name"), may_exist, suite
    ):
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
        if kernel_origin.is_debian(name, may_exist, suite):
            return name
        with builds.opened(name, order.progress) as place:
            if kernel_origin.is_debian(name, may_exist, suite):
                return name
            origin = f"{package.package} {package.version} {kernel_patches.digest()}"
            builds.start(place, origin)
            facts = {
                **kernel_origin.DEBIAN,
                "suite": lists.codename,
                "date": lists.date,
                "version": package.version,
            }
            tree = _unpacked(lists, package, work, place, order)
            facts |= _server(lists, work, place, allow_expired, order)
            kernel_compile.run(tree, place, name, order, facts)
    return name


def _unpacked(
    lists: apt.Tree, package: debian_source.Package, work: str, place: str, order: Order
) -> str:
    from dumm_tools.trees import staging

    tree = os.path.join(place, "source")
    if not os.path.isdir(tree):
        with staging.staged(tree, 0o755) as new:
            debian_source.unpack(lists, package, work, new, order.progress)
            kernel_patches.apply(new, order.warn)
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
