"""The source of a pack, as its pack.json tells it, and whether another build may replace it."""

from __future__ import annotations

import os

from dumm_tools.errors import Conflict
from dumm_tools.images import cache, existing, kernel, suites

#: The record in pack.json of a build of Debian's source, of any version.
DEBIAN = {"source": "linux-source"}
#: In the pack.json of a pack that was built elsewhere, whatever that says of its source.
IMPORTED = "imported"


def of_tree(tree: str) -> dict[str, str]:
    """The record in pack.json of a build of a tree: without its path, since packs travel."""
    import hashlib

    digest = hashlib.sha256(os.fsencode(tree)).hexdigest()
    return {"source": os.path.basename(tree), "source_id": digest[:16]}


def is_debian(name: str, may_exist: bool, suite: str | None = None) -> bool:
    """Like `is_there`, for a build of Debian's source, or that of a suite."""
    return is_there(name, DEBIAN, "Debian's linux-source", may_exist, suite)


def is_there(
    name: str, source: dict[str, str], what: str, may_exist: bool, suite: str | None = None
) -> bool:
    """Whether there is nothing to do. Conflict if the pack `name` comes from elsewhere."""
    path = cache.find("kernels", name)
    if path is None or (not may_exist and _is_from(source, path)):
        return False
    if may_exist:
        existing.need_built(name, source, what, suite)
        return True
    raise Conflict(
        f"kernel '{name}' already exists, and was not built from {what}",
        hint="choose another name with --name",
    )


def _is_from(source: dict[str, str], pack: str) -> bool:
    facts = kernel.facts(pack)
    return IMPORTED not in facts and all(
        facts.get(key) == source.get(key) for key in ("source", "source_id")
    )


def any_of_debian(suite: str | None) -> str | None:
    """The newest pack that was built from the source of Debian, or of a suite: `--may-exist`
    without a name."""
    packs = [p for p in kernel.list_() if _is_from(DEBIAN, p.path)]
    if suite is not None:
        packs = [p for p in packs if p.suite == suites.ALIASES.get(suite, suite)]
    return max(packs, key=kernel.order).name if packs else None
