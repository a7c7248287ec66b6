"""The labs that the user names for programs that show several of them, and what can be captured in
these. Only files are read: the labs' namespaces are not entered."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dumm_tools import messages, statefile, trust
from dumm_tools.errors import DummError, NotFound
from dumm_tools.model import State
from dumm_tools.running import liveness

Report = Callable[[str], object]


class Place(NamedTuple):
    """Something to capture: its name among those of all labs, what it is in words, and the lab.
    Both texts are printable, and without braces. Neither an interface nor a bridge: all interfaces
    of the lab."""

    name: str
    display: str
    labdir: str
    interface: str | None = None
    bridge: str | None = None


def config_file() -> str:
    """The file that lists labs, a directory in each line."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(home, "dumm", "labs")


def labs() -> list[str]:
    """The directories in DUMM_LABS and in the file, and the one in DUMM_DIR; each once."""
    found = os.environ.get("DUMM_LABS", "").split(":")
    with (
        contextlib.suppress(OSError),
        open(config_file(), encoding="utf-8", errors="surrogateescape") as file,
    ):
        found += [line.strip() for line in file if not line.lstrip().startswith("#")]
    found.append(os.environ.get("DUMM_DIR", ""))
    return list(dict.fromkeys(os.path.realpath(os.path.expanduser(each)) for each in found if each))


def places(report: Report) -> list[Place]:
    """Everything that can be captured at present. A lab that cannot be read is reported."""
    loaded = []
    for path in labs():
        try:
            labdir = trust.resolve(path)
            loaded.append((labdir, statefile.load(labdir)))
        except NotFound:  # not now: a lab may come and go
            continue
        except DummError as e:
            report(f"{path}: {e}")
    titles = [_plain(os.path.basename(labdir)) or "lab" for labdir, _ in loaded]
    found = []
    for (labdir, state), title in zip(loaded, titles, strict=True):
        unique = title if titles.count(title) == 1 else f"{title}-{state.id}"
        found += list(_of_lab(labdir, state, unique))
    return found


def _plain(text: str) -> str:
    """A text without what has a meaning in Wireshark's syntax, or on a terminal."""
    return messages.printable(text).translate(str.maketrans("{}", "()"))


def _of_lab(labdir: str, state: State, lab: str) -> Iterator[Place]:
    up = {
        name
        for name, guest in state.guests.items()
        if liveness.guest_state(labdir, state, guest) not in ("stopped", "crashed")
    }
    if not up:
        return
    yield Place(f"@{lab}", f"{lab}: all interfaces", labdir)
    for name, iface in sorted(state.ifaces.items()):
        if iface.guest in up:
            on = f" on {iface.bridge}" if iface.bridge else ""
            yield Place(f"{name}@{lab}", f"{lab}: {name}{on}", labdir, interface=name)
    for name in sorted(state.bridges.keys() - state.ifaces.keys()):
        yield Place(f"{name}@{lab}", f"{lab}: bridge {name}", labdir, bridge=name)
