"""The process that holds an isolated lab's namespaces, and whether we are inside them.

It is started and ended by `isolation.py`; this module is for readers, quick to import.
"""

from __future__ import annotations

import os

from dumm_tools.linux import process


def file_of(labdir: str) -> str:
    """The file with its pid and start time. A copy of the working set has a different lock, and so
    no holder: it must neither enter nor end the original's."""
    return os.path.join(labdir, "run", f"holder-{os.stat(os.path.join(labdir, '.lock')).st_ino}")


def find(labdir: str) -> tuple[int, int] | None:
    """Its pid and start time, as recorded; it may have ended."""
    return process.recorded(file_of(labdir))


def lives(labdir: str) -> tuple[int, int] | None:
    """Its pid and start time; None if it has ended, or there is none."""
    known = find(labdir)
    return known if process.lives(known) else None


def is_inside(labdir: str) -> bool:
    """Whether this process is in the lab's own user and network namespaces."""
    known = lives(labdir)
    return known is not None and _shares(known[0])


def _shares(pid: int) -> bool:
    try:
        return all(
            os.stat(f"/proc/{pid}/ns/{kind}").st_ino
            == os.stat(f"/proc/thread-self/ns/{kind}").st_ino
            for kind in ("user", "net")
        )
    except OSError:  # we may not inspect it, or it has just ended
        return False
