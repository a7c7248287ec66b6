"""Captures: tcpdump of this host, where the lab's links are."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence

from dumm_tools import lab, network, proc, state
from dumm_tools.errors import Conflict, DummError, os_reason
from dumm_tools.model import State

#: Where tcpdump is, though ordinary users seldom look there.
_ALSO = "/usr/local/sbin:/usr/sbin:/sbin"


def of_interface(root: str, name: str) -> str:
    """The host's device of an interface. Usage, NotFound, Conflict when it has none now."""
    found = state.load(root)
    return _present(found, network.interface(found, name).tap, f"'{name}' is not plugged in")


def of_bridge(root: str, name: str) -> str:
    """The host's device of a bridge. Usage, NotFound, Conflict when it is not there."""
    found = state.load(root)
    return _present(found, network.bridge(found, name).name, f"bridge '{name}' is not up")


def _present(found: State, device: str, otherwise: str) -> str:
    if not network.ours(found, device):
        raise Conflict(otherwise, hint="it is there while a guest on it runs")
    return device


def run(device: str, words: Sequence[str], file: str | None, *, isolated: bool) -> int:
    """Print the packets of a device, or write them as pcap to a file ("-": stdout), until a
    signal comes; tcpdump's exit status. `words`: options of tcpdump and a filter."""
    program = shutil.which("tcpdump", path=f"{os.environ.get('PATH', '')}:{_ALSO}")
    if program is None:
        raise DummError("cannot find 'tcpdump'", hint="install the package tcpdump")
    argv = [program, "--immediate-mode", "-i", device]
    if os.geteuid() == 0:
        # It would become another user, who may not exist in the lab's namespaces.
        argv += ["-Z", "root"]
    argv += ["-n", "-l"] if file is None else ["-U", "-w", "-"]
    argv += words
    proc.log(" ".join(argv))
    with contextlib.ExitStack() as stack:
        if file not in (None, "-"):
            _write_to(str(file), stack)
        if isolated:
            return lab.run_inside(argv, interrupts=True)
        try:
            os.execv(program, argv)
        except OSError as e:
            raise DummError(f"cannot run '{program}': {e.strerror}") from None


def _write_to(path: str, stack: contextlib.ExitStack) -> None:
    """Put a file in the place of stdout: it is the user's own, whoever tcpdump is."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY, 0o666)
    except OSError as e:
        raise DummError(f"cannot write: {os_reason(e)}") from None
    stdout = os.dup(1)
    stack.callback(os.close, stdout)
    stack.callback(os.dup2, stdout, 1)
    os.dup2(fd, 1)
    os.close(fd)
