"""Debian's source package of the kernel, `linux-source`, unpacked to be built for UML."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import NamedTuple

from dumm_tools import names
from dumm_tools.errors import DummError
from dumm_tools.foreground import run
from dumm_tools.images import apt

Report = Callable[[str], None]

#: Depends on the package with the newest source of its suite.
META = "linux-source"
#: Directories that UML cannot use, two thirds of the source; make needs their Makefiles and Kconfig
#: files.
_UNUSED = (
    *(
        f"arch/{a}"
        for a in (
            *("alpha", "arc", "arm", "arm64", "csky", "hexagon", "ia64", "loongarch", "m68k"),
            *("microblaze", "mips", "nios2", "openrisc", "parisc", "powerpc", "riscv", "s390"),
            *("sh", "sparc", "xtensa"),
        )
    ),
    *(
        f"drivers/{d}"
        for d in (
            *("accel", "bluetooth", "clk", "comedi", "gpu", "hwmon", "iio", "infiniband", "media"),
            *("net/ethernet", "net/wireless/[!v]*", "phy", "pinctrl", "power", "soc", "staging"),
            *("usb", "video"),
        )
    ),
    *("Documentation", "sound", "tools/perf", "tools/testing"),
)
_UNUSED_KINDS = ("[chS]", "dts*", "rst", "txt", "yaml", "json", "py", "sh", "svg")


class Package(NamedTuple):
    """A source package: its name, its version, and the name for a kernel that is built from it."""

    package: str
    version: str
    name: str


def newest(lists: apt.Tree) -> Package:
    """The source package that the suite's `linux-source` stands for."""
    package = apt.dependency(lists, META, r"linux-source-[0-9.]+")
    version = apt.candidate(lists, package)
    upstream = re.split(r"-[^-]*$", version.partition(":")[2] or version, maxsplit=1)[0]
    name = f"linux-{upstream}".replace("~", "-")
    return Package(package, version, names.pack(name, "kernel name"))


def unpack(
    lists: apt.Tree, package: Package, work: str, target: str, progress: Report | None = None
) -> None:
    """Download the source, and unpack into the empty directory `target` what a build for UML
    needs. `work` is for temporary files."""
    [deb] = apt.download(lists, [package.package], progress)
    if apt.version(deb) != package.version:
        raise DummError(f"apt-get did not download version {package.version} of {package.package}")
    if progress:
        progress(f"unpacking {package.package}")
    root = os.path.join(work, "root")
    os.mkdir(root)
    apt.unpack(deb, root)
    [archive] = [
        os.path.join(root, "usr/src", each)
        for each in os.listdir(os.path.join(root, "usr/src"))
        if each.startswith(f"{package.package}.tar")
    ] or [""]
    if not archive:
        raise DummError(f"package {package.package} contains no archive of the source")
    os.unlink(deb)
    excluded = [
        f"--exclude={package.package}/{place}/*.{kind}"
        for place in _UNUSED
        for kind in _UNUSED_KINDS
    ]
    run(
        [
            *("tar", "--extract", "--file", archive, "--directory", target),
            *("--strip-components=1", "--no-same-owner", "--wildcards", *excluded),
        ]
    )
    os.unlink(archive)
