"""Debian suites: the newest one that has a package."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from dumm_tools.errors import DummError, NotFound
from dumm_tools.images import apt

Report = Callable[[str], None]

#: The order in which suites are tried if none is named: newest first.
NEWEST_FIRST = ("sid", "testing", "stable", "oldstable")
ALIASES = {"unstable": "sid"}


def open_newest(
    work: str,
    suites: Sequence[str],
    package: str,
    *,
    mirror: str,
    allow_expired: bool = False,
    progress: Report | None = None,
    warn: Report | None = None,
) -> apt.Tree:
    """The package lists of the first usable suite that has `package`, in a new directory of `work`.

    Suites with an expired Release file are skipped with a warning. If none can be used, the error
    of the last is raised: NotFound or Expired.
    """
    last: DummError | None = None
    for each in suites:
        directory = os.path.join(work, f"{package}-{each}")
        os.mkdir(directory)
        try:
            lists = apt.open_suite(
                directory,
                ALIASES.get(each, each),
                mirror=mirror,
                allow_expired=allow_expired,
                progress=progress,
            )
            if apt.has(lists, package):
                return lists
            last = NotFound(f"suite '{each}' has no {package}")
        except (apt.Expired, NotFound) as e:
            last = e
        if warn and isinstance(last, apt.Expired) and len(suites) > 1:
            warn(f"{last}, trying an older suite; {last.hint}")
    raise last or NotFound("no suite to fetch from")


def unpack(debs: Sequence[str], root: str, progress: Report | None = None) -> None:
    """Unpack package files into a directory, without running any of it."""
    for deb in debs:
        if progress:
            progress(f"unpacking {os.path.basename(deb)}")
        apt.unpack(deb, root)
