"""Existing and leftover links, mounts and processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo; the device as `MAJOR:MINOR`."""

    device: str
    target: str
    options: frozenset[str]
    kind: str


def mounts() -> list[Mount]:
    """The mount points in this process's namespace."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            _, _, device, _, target, options, *_ = before.split(" ")
            kind = after.split(" ")[0]
            found.append(Mount(device, target, frozenset(options.split(",")), kind))
    return found


@dataclass(frozen=True)
class World:
    """The links, mounts and processes at a moment."""

    links: frozenset[str]
    mounts: frozenset[str]
    pids: frozenset[int]

    @classmethod
    def now(cls) -> World:
        """Look at this process's namespaces."""
        return cls(
            frozenset(os.listdir("/sys/class/net")),
            frozenset(m.target for m in mounts()),
            frozenset(int(entry) for entry in os.listdir("/proc") if entry.isdigit()),
        )

    def beyond(self, before: World, place: Path) -> list[str]:
        """New links, mounts and processes; only those processes that use `place`."""
        found = [f"link {name}" for name in sorted(self.links - before.links)]
        found += [f"mount {name}" for name in sorted(self.mounts - before.mounts)]
        for pid in sorted(self.pids - before.pids - {os.getpid()}):
            use = use_of(pid, str(place))
            if use:
                found.append(f"process {pid} ({use})")
        return found


def use_of(pid: int, place: str) -> str | None:
    """How a process uses a directory; None if it does not, or is gone."""
    proc = f"/proc/{pid}"
    try:
        with open(f"{proc}/cmdline", "rb") as file:
            command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        if place in command:
            return command
        links = [
            f"{proc}/cwd",
            f"{proc}/root",
            *(f"{proc}/fd/{n}" for n in os.listdir(f"{proc}/fd")),
        ]
    except OSError:
        return None
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith(place):
            return f"{command}: {link} -> {target}"
    return None
