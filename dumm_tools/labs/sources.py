"""Where the events of a lab come from: files of the working set, processes of guests, links.

Each watch is placed before what it is about is looked at, so that nothing is lost in between. A
guest can write to its run/NAME/uml as much as it likes: these have a queue of their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from typing import NamedTuple

from dumm_tools import statefile
from dumm_tools.errors import DummError
from dumm_tools.linux import inotify, limit, process
from dumm_tools.linux.inotify import Event, Watches
from dumm_tools.running import liveness, startup_file

_COME = inotify.IN_CREATE | inotify.IN_MOVED_TO
_GONE = inotify.IN_DELETE | inotify.IN_MOVED_FROM
_LAB = _COME | _GONE | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF
#: Files in run/NAME that say something about the guest: the FIFOs are none of them.
_RUN_FILES = {"lock", "pid", "uml", "startup"}
#: The same in run/NAME/uml, where the guest writes.
_UML_FILES = {"ready", "ending", "startup", "m"}


class News(NamedTuple):
    """Things that may have changed: the state file; guests, and which of them have begun to reboot;
    and other descriptors that have become readable. `all_guests`: events were lost."""

    state: bool
    guests: set[str]
    rebooted: set[str]
    all_guests: bool
    others: list[int]


class Sources:
    """The events of a lab, and of other descriptors."""

    def __init__(self, labdir: str) -> None:
        limit.use_files()
        self._labdir = labdir
        self._epoll = select.epoll()
        self._files, self._theirs = Watches(), Watches()
        self.watch(self._files.fileno())
        self.watch(self._theirs.fileno())
        self._by_watch: dict[int, tuple[str, str]] = {}  # what it is, and of which guest
        self._uml_of: dict[int, str] = {}
        self._guests: dict[str, tuple[int, int | None]] = {}  # watches of run/NAME, and of uml
        self._keepers: dict[str, tuple[tuple[int, int], int]] = {}
        self._keeper_of: dict[int, str] = {}
        self._add("lab", labdir, _LAB)
        self._add("run", os.path.join(labdir, "run"), _COME)
        self._add("startup", os.path.join(labdir, startup_file.DIRECTORY), _COME | _GONE)

    def close(self) -> None:
        """End all watches."""
        for _, fd in self._keepers.values():
            os.close(fd)
        self._files.close()
        self._theirs.close()
        self._epoll.close()

    def watch(self, fd: int, events: int = select.EPOLLIN) -> bool:
        """Report when a descriptor is readable; False for a file, which always is."""
        try:
            self._epoll.register(fd, events)
        except PermissionError:
            return False
        return True

    def unwatch(self, fd: int) -> None:
        """Do not report a descriptor any more."""
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def wait(self, timeout: float | None) -> News:
        """Wait for events."""
        news = News(False, set(), set(), False, [])
        for fd, _ in self._epoll.poll(timeout):
            if fd == self._files.fileno():
                for event in self._files.read():
                    news = self._of_files(event, news)
            elif fd == self._theirs.fileno():
                for event in self._theirs.read():
                    news = self._of_guest(event, news)
            elif fd in self._keeper_of:
                news.guests.add(self._keeper_of[fd])
                self._drop_keeper(self._keeper_of[fd])
            else:
                news.others.append(fd)
        return news

    # ---- files ----

    def _add(self, what: str, path: str, events: int, guest: str = "") -> int | None:
        try:
            number = self._files.add(path, events)
        except OSError as e:
            _explain(e)
            return None
        self._by_watch[number] = (what, guest)
        return number

    def _of_files(self, event: Event, news: News) -> News:
        if event.mask & inotify.IN_Q_OVERFLOW:
            return news._replace(state=True, all_guests=True)
        what, guest = self._by_watch.get(event.watch, ("", ""))
        if event.mask & inotify.IN_IGNORED:
            self._by_watch.pop(event.watch, None)
        if what == "lab":
            return self._of_lab(event, news)
        if what == "run" and event.name in self._guests:
            self._watch_files(event.name)
            news.guests.add(event.name)
        elif what == "startup" and event.name in self._guests:
            news.guests.add(event.name)
        elif what == "guest" and (event.name in _RUN_FILES or not event.name):
            if event.name == "uml":
                self._watch_files(guest)
            news.guests.add(guest)
        return news

    def _of_lab(self, event: Event, news: News) -> News:
        if event.name == statefile.FILE or not event.name:
            return news._replace(state=True)
        if event.name == "run" and event.mask & _COME:
            self._add("run", os.path.join(self._labdir, "run"), _COME)
            for name in self._guests:
                self._watch_files(name)
            return news._replace(all_guests=True)
        if event.name == startup_file.DIRECTORY:
            if event.mask & _COME:
                path = os.path.join(self._labdir, startup_file.DIRECTORY)
                self._add("startup", path, _COME | _GONE)
            return news._replace(all_guests=True)
        return news

    def _of_guest(self, event: Event, news: News) -> News:
        if event.mask & inotify.IN_Q_OVERFLOW:
            return news._replace(all_guests=True)
        name = self._uml_of.get(event.watch)
        if event.mask & inotify.IN_IGNORED:
            self._uml_of.pop(event.watch, None)
        if name is None or (event.name and event.name not in _UML_FILES):
            return news
        news.guests.add(name)
        if event.name == "ready":
            if event.mask & _GONE:
                news.rebooted.add(name)
            else:
                self._watch_ready(name)
        return news

    # ---- guests ----

    def add_guest(self, name: str) -> None:
        """Watch a guest from now on; look at it afterwards."""
        if name not in self._guests:
            self._guests[name] = (-1, None)
            self._watch_files(name)

    def drop_guest(self, name: str) -> None:
        """Do not watch a guest any more."""
        own, uml = self._guests.pop(name, (-1, None))
        if own >= 0:
            self._files.remove(own)
        if uml is not None:
            self._theirs.remove(uml)
        self._drop_keeper(name)

    def _watch_files(self, name: str) -> None:
        """Watch run/NAME, and its uml, which each start makes anew."""
        run = liveness.run_dir(self._labdir, name)
        own = self._add("guest", run, _COME | _GONE | inotify.IN_CLOSE_WRITE, name)
        before, uml = self._guests[name][1], None
        try:
            uml = self._theirs.add(os.path.join(run, "uml"), _COME | _GONE)
            self._uml_of[uml] = name
        except OSError as e:
            _explain(e)
        if before is not None and before != uml:
            self._theirs.remove(before)
        self._guests[name] = (-1 if own is None else own, uml)
        self._watch_ready(name)

    def _watch_ready(self, name: str) -> None:
        """The agent creates `ready`, and then writes to it; hostfs closes it much later."""
        path = os.path.join(liveness.run_dir(self._labdir, name), "uml", "ready")
        try:
            watch = self._theirs.add(path, inotify.IN_MODIFY | inotify.IN_ONESHOT)
            self._uml_of[watch] = name
        except OSError as e:
            _explain(e)

    def watch_end(self, name: str) -> bool:
        """Watch for the end of the keeper of a guest's jail, which holds the alive lock; False if
        there is no such process."""
        known = liveness.pid_of(self._labdir, name)
        if known is not None and name in self._keepers and self._keepers[name][0] == known:
            return True
        self._drop_keeper(name)
        fd = process.open_parent(*known) if known is not None else None
        if known is None or fd is None:
            return False
        self._keepers[name] = (known, fd)
        self._keeper_of[fd] = name
        self.watch(fd)
        return True

    def _drop_keeper(self, name: str) -> None:
        if name in self._keepers:
            _, fd = self._keepers.pop(name)
            del self._keeper_of[fd]
            self.unwatch(fd)
            os.close(fd)


def _explain(error: OSError) -> None:
    """Raise DummError if the host does not allow more watches; other failures mean that there is
    nothing to watch yet."""
    if error.errno in (errno.ENOSPC, errno.EMFILE):
        raise DummError(
            "cannot watch more files",
            hint="sysctl fs.inotify.max_user_watches sets how many a user may watch",
        ) from None
