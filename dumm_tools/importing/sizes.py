"""Sizes of memory, as containers have them."""

from __future__ import annotations

import re
from collections.abc import Callable

_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))?\s*([kmgt]?)i?b?", re.IGNORECASE)
#: Enough for a guest's kernel and a few programs.
LEAST = 64 << 20
MOST = 1 << 40


def memory(text: str, note: Callable[[str], None]) -> int | None:
    """A number of bytes, never less than a guest needs; None, and a note, if it is not one."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        note(f"memory {text!r} is not a size: not carried over")
        return None
    shift = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[3].lower()]
    size = int(float(f"{found[1]}.{found[2] or 0}") * (1 << shift))
    if size < LEAST:
        note(f"memory {text!r} is too little for a kernel: {LEAST >> 20}M")
    return min(max(size, LEAST), MOST)
