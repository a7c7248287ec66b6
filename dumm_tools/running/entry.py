"""How a command comes to be where the lab's links and mounts are: in the lab's own namespaces,
where it has some. Quick to import and to ask: a lab on the host's network has none."""

from __future__ import annotations

from dumm_tools import statefile
from dumm_tools.errors import DummError
from dumm_tools.model import Outline


def enter(labdir: str) -> bool:
    """Enter the lab's namespaces, if it has some and is up, to look at what is there."""
    if not _outline(labdir).isolated:
        return False
    from dumm_tools.running import isolation

    return isolation.enter(labdir)


def bring_up(labdir: str) -> bool:
    """Have an isolated lab's namespaces, and where a bridge has the uplink "nat" what leads out of
    them; then enter, to make links and mounts. False for a lab on the host's network."""
    outline = _outline(labdir)
    if not outline.isolated:
        return False
    from dumm_tools.running import isolation

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
        usernet.ensure(labdir)  # only from out here can it be started
        hosts = usernet.hosts()
        entered = isolation.enter(labdir)
    usernet.close(labdir, state, hosts)


def _outline(labdir: str) -> Outline:
    try:
        return statefile.outline(labdir)
    except (DummError, OSError):
        return Outline()  # whatever is wrong, the verb itself says it
