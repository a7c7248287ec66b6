"""The programs that building a kernel needs on this host."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dumm_tools.errors import DummError

#: Programs and files, and the Debian packages that contain them.
NEEDED = (
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("depmod", "kmod"),
)
_FOR_DEBIAN = (
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("patch", "patch"),
)
#: Where depmod is; it is not in the PATH of ordinary users.
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def check(*, debian: bool) -> None:
    """DummError if something is missing; `debian`: for Debian's source, too."""
    lacking = missing(*NEEDED, *(_FOR_DEBIAN if debian else ()))
    if lacking:
        raise DummError(
            f"building a kernel needs {', '.join(lacking)}",
            hint=f"apt-get install {' '.join(lacking.values())}",
        )


def missing(*needed: tuple[str, str]) -> dict[str, str]:
    """The programs and files that this host lacks, and their packages. $CC replaces gcc."""
    from shutil import which

    return {
        name: package
        for name, package in needed
        if not (os.path.exists(name) if name.startswith("/") else which(name, path=PATH))
        and not (name == "gcc" and ("CC" in os.environ or "LLVM" in os.environ))
    }


def compiler() -> Sequence[str]:
    """The argument for make that has the compiler run through ccache, if there is one and the
    user has not chosen otherwise."""
    from shutil import which

    if "CC" in os.environ:
        return (f"CC={os.environ['CC']}",)
    if "LLVM" in os.environ or which("ccache") is None:
        return ()
    return ("CC=ccache gcc",)
