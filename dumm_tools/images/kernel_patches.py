"""The project's patches for Debian's kernel source. Other trees are built as they are."""

from __future__ import annotations

import os
from collections.abc import Callable

from dumm_tools import proc

PLACE = os.path.join(os.path.dirname(__file__), "patches")
_KIND = ".patch"
_PATCH = ["patch", "-p1", "--force", "--no-backup-if-mismatch", "--silent", "--reject-file=-"]


def paths() -> list[str]:
    """The patches, in the order in which they are applied."""
    return sorted(os.path.join(PLACE, each) for each in os.listdir(PLACE) if each.endswith(_KIND))


def digest() -> str:
    """A string that changes with the patches."""
    import hashlib

    found = hashlib.sha256()
    for path in paths():
        with open(path, "rb") as file:
            found.update(file.read())
    return found.hexdigest()[:16]


def apply(tree: str, warn: Callable[[str], None] | None) -> None:
    """Apply each patch to the kernel's source in `tree`, or warn that it is for other versions."""
    for path in paths():
        argv = [*_PATCH, "--forward", f"--input={path}", f"--directory={tree}"]
        if proc.run([*argv, "--dry-run"], check=False, quiet=True).returncode == 0:
            proc.run(argv, quiet=True)
        elif warn:
            warn(
                f"this kernel is built without the patch '{_name(path)}', which is for other "
                "versions"
            )


def applied(tree: str) -> list[str]:
    """The names of the patches that the kernel's source in `tree` has, in order; none can be found
    without patch(1)."""
    import shutil

    found: list[str] = []
    if shutil.which(_PATCH[0]) is None:
        return found
    for path in paths():
        argv = [*_PATCH, "--reverse", "--dry-run", f"--input={path}", f"--directory={tree}"]
        if proc.run(argv, check=False, quiet=True).returncode == 0:
            found.append(_name(path))
    return found


def _name(path: str) -> str:
    return os.path.basename(path).removesuffix(_KIND)
