"""A lab: what `from dumm_tools import Lab` gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dumm_tools.api import answers, guest, views, words
from dumm_tools.api.bridge import Bridge
from dumm_tools.api.capture import Capture
from dumm_tools.api.commands import Commands
from dumm_tools.api.guest import Guest, Wait
from dumm_tools.api.iface import Iface
from dumm_tools.api.template import Template
from dumm_tools.api.views import BridgeView, GuestView, IfaceView, TemplateView
from dumm_tools.api.words import Path


class Lab(Commands):
    """The lab in a directory, which must have one, except for `create` and `restore`. NotFound from
    its methods if it does not.

    As a context manager, a lab that was made by `create` or `restore` is destroyed at the end, and
    also if this process is killed; one that was opened stays. Programs and captures that were
    started through this object end with it.

    The methods may be called in any thread, in several at once, and after a fork. This process is
    left alone: all work is done by another one, `dumm-console --json`, that is started when it is
    needed first. A lab and its guests, interfaces, bridges and templates can be sent to other
    processes (module `pickle`), which have a session of their own, but programs and captures not.

    >>> Lab(lab.directory).guest("alice").show().state
    'running'
    """

    def guest(self, name: str) -> Guest:
        """A guest by its name. Usage for a bad name."""
        return Guest(self._channel, name)

    def iface(self, name: str) -> Iface:
        """An interface by its name, GUEST-DEVICE. Usage for a bad name."""
        return Iface(self._channel, name)

    def bridge(self, name: str) -> Bridge:
        """A bridge by its name. Usage for a bad name."""
        return Bridge(self._channel, name)

    def template(self, name: str) -> Template:
        """A template by its name. Usage for a bad name."""
        return Template(self._channel, name)

    def guests(self) -> list[GuestView]:
        """All guests, by name.

        >>> [(each.name, each.state) for each in lab.guests()]
        [('alice', 'running'), ('bob', 'running')]
        """
        return views.of(GuestView, self._list("guest"))

    def ifaces(self) -> list[IfaceView]:
        """All interfaces, by name."""
        return views.of(IfaceView, self._list("iface"))

    def bridges(self) -> list[BridgeView]:
        """All bridges, by name."""
        return views.of(BridgeView, self._list("bridge"))

    def templates(self) -> list[TemplateView]:
        """All templates, by name."""
        return views.of(TemplateView, self._list("fs", "template"))

    def _list(self, *noun: str) -> bytes:
        return self._channel.call([*noun, "list", "--format", "json"]).stdout

    def start(
        self,
        *guests: str | Guest,
        timeout: float | None = None,
        wait: Wait | None = "ready",
        may_run: bool = False,
    ) -> None:
        """Start guests side by side, all that do not run if none is named; see `Guest.start`.
        StartFailed, whose `failures` has each guest that did not start, with the reason."""
        guest.start(self._channel, _names(guests), timeout, wait, may_run)

    async def astart(
        self,
        *guests: str | Guest,
        timeout: float | None = None,
        wait: Wait | None = "ready",
        may_run: bool = False,
    ) -> None:
        """`start` for asyncio."""
        call = guest.start_words(_names(guests), timeout, wait, may_run)
        answer = await asyncio.wrap_future(self._channel.begin(call).future)
        if (error := answers.start_failure(answer)) is not None:
            raise error

    def stop(
        self,
        *guests: str | Guest,
        timeout: float | None = None,
        kill: bool = False,
        if_running: bool = False,
    ) -> None:
        """Stop guests side by side, all that run if none is named; see `Guest.stop`."""
        options = words.options(timeout=timeout, kill=kill, if_running=if_running)
        self._channel.call(["guest", "stop", *options, *(_names(guests) or ["--all"])])

    def unload(self, *, if_exists: bool = False) -> None:
        """Unload the loaded template. Conflict if there is none, unless `if_exists`."""
        self._channel.call(["fs", "template", "unload", *words.options(if_exists=if_exists)])

    def clear(self) -> None:
        """Take the lab back to its guests: no template, overlays, interfaces and bridges."""
        self._channel.call(["fs", "clear"])

    def dump(self) -> str:
        """The lab as a lab file, dumm-lab(5): the commands that make it.

        >>> "guest create alice" in lab.dump()
        True
        """
        return self._channel.call(["fs", "dump"]).stdout.decode("utf-8", "surrogateescape")

    def apply(self, text: str, *, prune: bool = False, dry_run: bool = False) -> list[str]:
        """Make the lab what a lab file says; with `dry_run`, only return the commands that would be
        run. With `prune`, delete what the file does not have. Usage, NotFound, Conflict.

        >>> lab.apply(lab.dump(), dry_run=True)
        []
        """
        options = words.options(prune=prune, dry_run=dry_run)
        stdin = {"base64": _base64(text)}
        ok = (0, 1) if dry_run else (0,)
        answer = self._channel.call(["console", "apply", *options, "-"], stdin=stdin, ok=ok)
        return answer.stdout.decode("utf-8", "surrogateescape").splitlines() if dry_run else []

    def save(self, file: Path, *guests: str | Guest, with_masters: bool = False) -> None:
        """Write the lab, or some of its guests, to an archive for `restore` on any machine; with
        `with_masters`, together with masters and kernel packs."""
        options = words.options(with_masters=with_masters)
        self._channel.call(["fs", "save", *options, words.local(file), *_names(guests)])

    def capture(self, *expression: str, path: Path | None = None) -> Capture:
        """Capture the packets on all interfaces that are plugged in; see `Iface.capture`."""
        return Capture(self._channel, "iface", [], expression, path)

    def copy(self, *sources: str, to: str) -> None:
        """Copy files to, from and between guests, as `dumm-fs cp`: GUEST:PATH is in a guest."""
        given = [_place(each) for each in (*sources, to)]
        self._channel.call(["fs", "cp", *given])


def _place(text: str) -> str:
    """GUEST:PATH, or a path of the host; that is one with a slash before the colon, too."""
    guest, colon, _ = text.partition(":")
    return text if colon and "/" not in guest else words.local(text) + words.slash(text)


def _names(given: Sequence[str | Guest]) -> list[str]:
    return [words.name_of(each) for each in given]


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()
