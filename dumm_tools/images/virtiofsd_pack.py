"""Putting virtiofsd into kernel packs: Debian's, with its loader and libraries, from a suite that
has it. Debian 12 has none, so its packs get that of a newer release."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from dumm_tools.errors import DummError
from dumm_tools.images import apt, assembly, cache, inspection, kernel, suites, virtiofsd

Report = Callable[[str], None]

_PACKAGE = inspection.SERVER_LICENSED[0]


def unpack(
    root: str,
    work: str,
    *,
    lists: apt.Tree | None = None,
    order: Sequence[str] = suites.NEWEST_FIRST,
    mirror: str,
    allow_expired: bool = False,
    progress: Report | None = None,
    warn: Report | None = None,
) -> dict[str, str]:
    """Download virtiofsd and unpack it below `root`, where `inspection` finds it. Return what
    pack.json says of it.

    It comes from the suite of `lists`, or else from the first in `order` that has it; `work` is
    for their lists. If none has it, warn: a pack is useful without it.
    """
    try:
        if lists is None or not apt.has(lists, _PACKAGE):
            lists = suites.open_newest(
                work,
                order,
                _PACKAGE,
                mirror=mirror,
                allow_expired=allow_expired,
                progress=progress,
            )
        debs = apt.download(lists, inspection.SERVER_LICENSED, progress)
    except DummError as e:
        if warn:
            warn(f"the kernel pack gets no {_PACKAGE}: {e}")
        return {}
    place = os.path.join(root, virtiofsd.PLACE)
    os.mkdir(place)
    suites.unpack(debs, place, progress)
    return {virtiofsd.PLACE: apt.version(debs[0])}


def add(
    pack: str,
    *,
    mirror: str | None = None,
    allow_expired: bool = False,
    progress: Report | None = None,
    warn: Report | None = None,
) -> None:
    """Put virtiofsd into the pack of the cache at `pack`, unless it has one. Guests may be running
    from the pack: they do not see the new directory."""
    if os.path.lexists(os.path.join(pack, virtiofsd.PLACE)):
        return
    with cache.held("kernels", pack), cache.scratch("kernels", os.path.basename(pack)) as work:
        facts = kernel.facts(pack)
        own = [facts["suite"]] if "suite" in facts else []
        root, new = os.path.join(work, "root"), os.path.join(work, "new")
        os.mkdir(root)
        found = unpack(
            root,
            work,
            order=list(dict.fromkeys((*own, *suites.NEWEST_FIRST))),
            mirror=mirror or apt.host_mirror(),
            allow_expired=allow_expired,
            progress=progress,
            warn=warn,
        )
        with inspection.of_server(root) as server:
            if server is None:
                return
            assembly.program(server, new, virtiofsd.BINARY)
        os.chmod(new, 0o755)
        try:
            os.rename(new, os.path.join(pack, virtiofsd.PLACE))
        except OSError:
            return  # another command did the same
        assembly.write_facts(pack, {**facts, **found})
