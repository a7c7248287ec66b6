"""Building a kernel from its source: configured, compiled, and made a pack."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dumm_tools.images import (
    build_config,
    cache,
    kernel,
    kernel_make,
    kernel_pack,
    kernel_patches,
    source_tree,
)
from dumm_tools.images.build_config import Option
from dumm_tools.images.kernel_make import Tree

Report = Callable[[str], None]


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


def run(
    source: str,
    place: str,
    name: str,
    order: Order,
    facts: dict[str, str],
    *,
    warnings: bool = False,
) -> None:
    """Build the kernel in the tree `source`, in the directory `place`, and make the pack `name`
    with these facts, or replace it. `warnings` of the compiler are shown, too."""
    tree = Tree(source, os.path.join(place, "objects"), os.path.join(place, "log"))
    os.makedirs(tree.objects, exist_ok=True)
    build_config.write_parameters(tree.objects)
    with open(tree.log, "w", encoding="utf-8"):
        pass
    facts = {**facts, kernel.PATCHES: " ".join(kernel_patches.applied(source))}
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
