"""The data for `list`, `show` and `is-running` of guests; quick to import."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dumm_tools.linux import process
from dumm_tools.model import Guest, GuestState, Iface, State
from dumm_tools.running import liveness
from dumm_tools.statefile import load

if TYPE_CHECKING:
    from dumm_tools.linux.usage import Usage


class GuestView:
    """A guest as shown by `list` and `show`: record and kernel state combined, determined on
    demand."""

    def __init__(self, labdir: str, lab: State, guest: Guest, ifaces: Sequence[Iface]) -> None:
        self.guest = guest
        self._labdir, self._lab, self._ifaces = labdir, lab, ifaces
        self._state: GuestState | None = None
        self._usage: Usage | None = None

    @property
    def state(self) -> GuestState:
        """Its current state; determined once, so that all fields agree."""
        if self._state is None:
            self._state = liveness.guest_state(self._labdir, self._lab, self.guest)
        return self._state

    @property
    def pid(self) -> int | None:
        """The process of its kernel, if there is one."""
        if self.state in ("stopped", "crashed"):
            return None
        known = liveness.pid_of(self._labdir, self.guest.name)
        return known[0] if known else None

    @property
    def usage(self) -> Usage | None:
        """The use of the host by its processes: its kernel's and, with virtiofs, those of the
        server of its files; None if there are none."""
        if self._usage is None and (pid := self.pid) is not None:
            from dumm_tools.linux import usage

            self._usage = usage.of_tree(pid)
            path = os.path.join(liveness.run_dir(self._labdir, self.guest.name), "server.pid")
            server = process.recorded(path) if self.guest.is_served else None
            if server is not None and process.lives(server):
                more = usage.of_tree(server[0])
                self._usage = self._usage.plus(more)
        return self._usage

    @property
    def uptime(self) -> int | None:
        """Seconds since its start; a reboot of its own is none."""
        known = liveness.pid_of(self._labdir, self.guest.name) if self.pid is not None else None
        if known is None:
            return None
        from dumm_tools.linux import usage

        return usage.age(known[1])

    @property
    def startup(self) -> str | None:
        """The state of its startup program."""
        from dumm_tools.running import startup_file

        alive = self.state not in ("stopped", "crashed")
        return startup_file.state(self._labdir, self.guest.name, alive)

    @property
    def kernel(self) -> str | None:
        """Its kernel pack or file, its own or the working set's."""
        return self.guest.kernel or _link(self._labdir, "linux")

    @property
    def master(self) -> str | None:
        """Its master, its own or the working set's."""
        return self.guest.master or _link(self._labdir, "master")

    @property
    def rootfs(self) -> str | None:
        """How it reaches its root file system while it runs, or else as its own setting says."""
        boot = self.guest.boot
        if boot is not None and self.state not in ("stopped", "crashed"):
            return boot.rootfs or "hostfs"
        return self.guest.rootfs

    @property
    def master_spec(self) -> str:
        """The name or path of its master, its own or the working set's."""
        return self.guest.master or os.path.realpath(os.path.join(self._labdir, "master"))

    @property
    def ifaces(self) -> list[str]:
        """Its interfaces, by slot."""
        return [i.name for i in self._ifaces]


def get(state: State, name: str) -> Guest:
    """The guest with that name; NotFound."""
    if name not in state.guests:
        from dumm_tools import missing

        raise missing.guest(state, name)
    return state.guests[name]


def _link(labdir: str, name: str) -> str | None:
    path = os.path.join(labdir, name)
    return os.path.basename(os.path.realpath(path)) if os.path.lexists(path) else None


def views(labdir: str, state: State) -> list[GuestView]:
    """All guests in a loaded state, by name."""
    ifaces = state.ifaces_by_guest()
    return [GuestView(labdir, state, g, ifaces.get(n, ())) for n, g in sorted(state.guests.items())]


def list_(labdir: str) -> list[GuestView]:
    """All guests, by name."""
    return views(labdir, load(labdir))


def show(labdir: str, name: str) -> GuestView:
    """One guest; NotFound."""
    state = load(labdir)
    return GuestView(labdir, state, get(state, name), state.ifaces_of(name))


def all_names(labdir: str, wanted: Callable[[GuestState], bool]) -> list[str]:
    """The names of the guests in a wanted state."""
    state = load(labdir)
    return [
        n for n, g in sorted(state.guests.items()) if wanted(liveness.guest_state(labdir, state, g))
    ]


def is_running(labdir: str, name: str) -> bool:
    """Whether the guest is running (and was ready)."""
    state = load(labdir)
    return liveness.guest_state(labdir, state, get(state, name)) in ("running", "paused")
