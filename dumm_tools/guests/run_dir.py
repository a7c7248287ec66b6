"""run/NAME as a boot needs it: FIFOs, and directories with nothing of an earlier boot in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from dumm_tools.agent.client import LINES
from dumm_tools.errors import DummError
from dumm_tools.linux import fifo
from dumm_tools.running import liveness
from dumm_tools.trees import tree

#: Consoles besides the kernel's own: tty1 to tty3 in the guest.
CONSOLES = 4
#: How the names of what earlier boots left begin.
_GONE = "gone-"


def terminals() -> list[str]:
    """The names of the FIFOs, in the order in which a guest's kernel gets them. tty0 has none for
    what it prints: that goes to the log."""
    names = [f"tty{number}.{way}" for number in range(CONSOLES) for way in ("in", "out")]
    names += [f"line{number}.{way}" for number in range(LINES) for way in ("in", "out")]
    names.remove("tty0.out")
    return names


def renew(labdir: str, name: str) -> None:
    """Make run/NAME as a boot needs it; nothing of an earlier boot may look like this one's."""
    run = liveness.make_run_dir(labdir, name)
    with contextlib.suppress(FileNotFoundError):
        os.rename(os.path.join(run, "uml"), os.path.join(run, f"{_GONE}{os.urandom(4).hex()}"))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(run, "pid"))
    # The kernel takes the last of them for its own; a clean halt removes it, a crash does not.
    for directory in ("uml", "xfer", "uml/m"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(run, directory), 0o700)
    link = os.path.join(run, "mconsole")
    if not os.path.islink(link):
        os.symlink("uml/m/mconsole", link)
    for entry in terminals():
        fifo.make(os.path.join(run, entry))


@contextlib.contextmanager
def swept(labdir: str, name: str) -> Iterator[None]:
    """Remove at the end what `renew` has put aside. The guest's kernel may have made of its own
    directory what it liked: with links to elsewhere, deeper than recursion goes, and much."""
    try:
        yield
    finally:
        run = liveness.run_dir(labdir, name)
        for entry in os.listdir(run):
            if entry.startswith(_GONE):
                with contextlib.suppress(OSError, DummError):  # it stays for the next time
                    tree.remove(os.path.join(run, entry), look=False)
