"""The modules of a kernel that was built, and the lists of those that are built in, which modprobe
in a guest consults."""

from __future__ import annotations

import os
import shutil

from dumm_tools import proc
from dumm_tools.images import kernel_make, toolchain
from dumm_tools.images.kernel_make import Tree

_LISTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


def install(tree: Tree, stage: str, modules: bool) -> None:
    """Put them into lib/uml/modules/RELEASE of the directory `stage`; `modules`: not only the
    lists."""
    with open(os.path.join(tree.objects, "include/config/kernel.release"), encoding="ascii") as f:
        release = f.read().strip()
    base = os.path.join(stage, "modules")
    place = os.path.join(base, "lib/modules", release)
    os.makedirs(place)
    os.symlink(".", os.path.join(base, "usr"))  # where depmod looks depends on its version
    if modules:
        kernel_make.run(
            tree,
            ["modules_install"],
            environment={"INSTALL_MOD_PATH": base, "INSTALL_MOD_STRIP": "1"},
        )
        for link in ("build", "source"):
            if os.path.islink(os.path.join(place, link)):
                os.unlink(os.path.join(place, link))
    else:
        for name in _LISTS:
            file = os.path.join(tree.objects, name)
            if name != "modules.order" and os.path.exists(file):
                shutil.copyfile(file, os.path.join(place, name))
            else:
                open(os.path.join(place, name), "wb").close()
        proc.run(["depmod", "-b", base, release], quiet=True, env={"PATH": toolchain.PATH})
    os.makedirs(os.path.join(stage, "lib/uml/modules"))
    os.rename(place, os.path.join(stage, "lib/uml/modules", release))
