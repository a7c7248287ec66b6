"""Facts about a master or a kernel pack of the cache that its files do not tell: in `.NAME.json`
beside it.

A directory elsewhere that is used as a master or a pack has none.
"""

from __future__ import annotations

import os
from typing import Any

from dumm_tools.images import cache

_FILE_MAX = 1 << 20


def record(name: str, *, kind: cache.Kind = "masters", **facts: object) -> None:
    """Keep facts about the object called `name`, which may still be in the making."""
    import json

    place = os.path.join(cache.directory(kind), name)
    path = cache.facts_path(kind, place)
    if path is None:
        return
    with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump({**read(place, kind), **facts}, file, indent=1)
        file.write("\n")
    os.replace(f"{path}.new", path)


def read(place: str, kind: cache.Kind = "masters") -> dict[str, Any]:
    """The facts about the object at a path: none if they cannot be read."""
    path = cache.facts_path(kind, place)
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
