"""Entering the lab's own namespaces, if it has any, where its links and mounts are. Quick to import
and to check: a lab on the host's network has none."""

from __future__ import annotations

import os

from dumm_tools import holder, statefile
from dumm_tools.errors import Conflict, DummError
from dumm_tools.linux import process
from dumm_tools.records import Outline


def enter(labdir: str) -> bool:
    """Enter the lab's namespaces, if it has any and is up, for a command that only looks."""
    if not _outline(labdir).isolated:
        return False
    from dumm_tools.running import isolation

    return holder.is_inside(labdir) or isolation.enter(labdir)


def bring_up(labdir: str) -> bool:
    """Create an isolated lab's namespaces if necessary and, if a bridge has the uplink "nat", its
    connection to the outside; then enter, to make links and mounts. False for a lab on the host's
    network."""
    outline = _outline(labdir)
    if not outline.isolated:
        return False
    from dumm_tools.running import isolation

    if holder.is_inside(labdir):
        if process.proc_is_foreign():  # what was recorded of processes is of no use
            raise Conflict(
                "this is inside the lab's own namespaces, where only looking is possible",
                hint="run the command outside 'dumm-guest exec --host' and "
                "'dumm-console shell --host'",
            )
        return True
    _raise_limits()
    if outline.has_nat:
        _bring_up_with_way_out(labdir)
        return True
    isolation.make(labdir)
    while not isolation.enter(labdir):  # they have just ended
        isolation.make(labdir)
    return True


def _bring_up_with_way_out(labdir: str) -> None:
    from dumm_tools.running import isolation, usernet

    state = statefile.load(labdir)
    hosts = list[str]()
    entered = False
    while not entered:
        isolation.make(labdir)
        usernet.ensure(labdir)  # it can only be started from outside
        hosts = usernet.hosts()
        entered = isolation.enter(labdir)
    usernet.close(labdir, state, hosts)


def _raise_limits() -> None:
    """Raise limits that nobody can raise in the lab's user namespace: those of servers of root file
    systems."""
    if os.geteuid() == 0:
        from dumm_tools.linux import limit

        limit.raise_files(limit.MOST)


def _outline(labdir: str) -> Outline:
    try:
        return statefile.outline(labdir)
    except (DummError, OSError):
        return Outline()  # the verb itself will report the problem
