"""The links of a lab, watched from outside its namespaces.

A socket stays in the namespace that it was opened in. A child enters the lab's and sends us one, so
that this process, which may watch for days, holds no mount of the lab.
"""

from __future__ import annotations

import array
import contextlib

from dumm_tools import errors
from dumm_tools.errors import DummError
from dumm_tools.linux import child, link_events
from dumm_tools.linux.link_events import Links
from dumm_tools.model import State
from dumm_tools.running import isolation


def opened(labdir: str, state: State) -> Links | None:
    """The links of a lab; None if its namespaces do not exist. DummError."""
    if not state.isolated:
        return Links(link_events.opened(), state.tag)
    import socket

    ours, theirs = socket.socketpair()

    def send() -> None:
        if isolation.enter(labdir):
            with link_events.opened() as found:
                number = array.array("i", [found.fileno()])
                theirs.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)])

    with ours:
        with theirs:
            failure = child.run(send, errors.explain)
        if failure:
            raise DummError(failure)
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            if fds:
                return Links(socket.socket(fileno=fds[0]), state.tag)
    return None
