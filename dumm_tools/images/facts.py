"""Facts about a master of the cache that its files do not tell: in `.NAME.json` beside it.

A directory that is used as a master has none.
"""

from __future__ import annotations

import os
from typing import Any

from dumm_tools.images import cache

_FILE_MAX = 1 << 20


def record(name: str, **facts: object) -> None:
    """Keep facts about the master called `name`, which may still be in the making."""
    import json

    master = os.path.join(cache.directory("masters"), name)
    path = cache.facts_path("masters", master)
    if path is None:
        return
    with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump({**read(master), **facts}, file, indent=1)
        file.write("\n")
    os.replace(f"{path}.new", path)


def read(master: str) -> dict[str, Any]:
    """The facts about the master at a path: none if they cannot be read."""
    path = cache.facts_path("masters", master)
    if path is None:
        return {}
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return {}
    import json

    with open(fd, encoding="utf-8", errors="surrogateescape") as file:
        try:
            found = json.loads(file.read(_FILE_MAX))
        except (ValueError, RecursionError):
            return {}
    return found if isinstance(found, dict) else {}
