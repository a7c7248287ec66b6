"""The run-time directory of a boot, run/NAME: its FIFOs and directories, without any leftovers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from dumm_tools.agent.client import LINES
from dumm_tools.errors import DummError
from dumm_tools.linux import fifo
from dumm_tools.running import liveness
from dumm_tools.trees import tree

#: Consoles: the kernel's own, and tty1 to tty3 in the guest.
CONSOLES = 4
#: Prefix of names of what earlier boots left.
_GONE = "gone-"


def terminals() -> list[str]:
    """The names of the FIFOs, in the order in which a guest's kernel gets them. tty0 has none for
    its output, which goes to the log."""
    names = [f"tty{number}.{way}" for number in range(CONSOLES) for way in ("in", "out")]
    names += [f"line{number}.{way}" for number in range(LINES) for way in ("in", "out")]
    names.remove("tty0.out")
    return names


def renew(labdir: str, name: str) -> None:
    """Prepare run/NAME for a boot; nothing of an earlier boot may be taken for this one's."""
    run = liveness.make_run_dir(labdir, name)
    with contextlib.suppress(FileNotFoundError):
        os.rename(os.path.join(run, "uml"), os.path.join(run, f"{_GONE}{os.urandom(4).hex()}"))
    for each in ("pid", "server.pid"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(run, each))
    # The kernel uses the last of these as its umid directory; a halt removes it, a crash does not.
    # hostfs asks access(2), which looks at the real user; a kernel whose files are served has no
    # capability to make up for that. Nobody else can enter run/NAME.
    for directory, mode in (("uml", 0o777), ("xfer", 0o755), ("uml/m", 0o700)):
        path = os.path.join(run, directory)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode)
        os.chmod(path, mode)
    link = os.path.join(run, "mconsole")
    if not os.path.islink(link):
        os.symlink("uml/m/mconsole", link)
    for entry in terminals():
        fifo.make(os.path.join(run, entry))


@contextlib.contextmanager
def swept(labdir: str, name: str) -> Iterator[None]:
    """Remove at the end what `renew` has put aside. The guest's kernel may have filled its own
    directory with anything: links to elsewhere, trees too deep for recursion, many files."""
    try:
        yield
    finally:
        run = liveness.run_dir(labdir, name)
        for entry in os.listdir(run):
            if entry.startswith(_GONE):
                with contextlib.suppress(OSError, DummError):  # left for the next start
                    tree.remove(os.path.join(run, entry), look=False)
