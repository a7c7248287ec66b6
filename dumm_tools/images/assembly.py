"""The layout of a program's root tree in a kernel pack: the program, its loader and its libraries
in a merged `usr`, with links `bin lib lib64` into it."""

from __future__ import annotations

import os

from dumm_tools.images.inspection import Program
from dumm_tools.trees import data, staging

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
FACTS = "pack.json"


def program(source: Program, target: str, place: str) -> None:
    """Make the root tree `target`, which is empty or missing, with the program at `place` in it."""
    _copy_file(source.binary, target, place, 0o755)
    os.makedirs(os.path.join(target, _LIBRARIES))
    for name, library in source.libraries.items():
        _copy_file(library, target, f"{_LIBRARIES}/{name}", 0o755)
    if source.loader:
        # The path where the binary looks for it, through the links below.
        loader, known_as = source.loader
        _copy_file(loader, target, "usr/" + known_as.removeprefix("/usr").lstrip("/"), 0o755)
    for link in ("bin", "lib", "lib64"):
        os.makedirs(os.path.join(target, "usr", link), exist_ok=True)
        os.symlink(f"usr/{link}", os.path.join(target, link))
    for package, licence in source.licences.items():
        _copy_file(licence, target, f"usr/share/doc/{package}/copyright", 0o644)


def write_facts(pack: str, facts: dict[str, str]) -> None:
    """Write a pack's pack.json, or replace it atomically."""
    import json

    with staging.scratch(*os.path.split(pack)) as place:
        new = os.path.join(place, FACTS)
        with open(new, "x", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            json.dump(facts, file, indent=1, sort_keys=True)
            file.write("\n")
        os.replace(new, os.path.join(pack, FACTS))


def _copy_file(source: int, root: str, place: str, mode: int) -> None:
    target = os.path.join(root, place.lstrip("/"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    new = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        data.copy(source, new, os.fstat(source))
        os.fchmod(new, mode)
    finally:
        os.close(new)
