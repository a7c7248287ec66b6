"""A guest: its record, its start and end, its consoles."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, Self

from dumm_tools import names
from dumm_tools.api import answers, views, words
from dumm_tools.api.channel import Channel
from dumm_tools.api.execution import Programs
from dumm_tools.api.files import Files
from dumm_tools.api.iface import Iface
from dumm_tools.api.routing import Routing
from dumm_tools.api.until import Waits
from dumm_tools.api.views import GuestView
from dumm_tools.api.words import Path

Wait = Literal["ready", "booted"]


class Guest(Programs, Waits, Files, Routing):
    """A guest of a lab, from `Lab.guest`; it need not exist. NotFound, from all methods but
    `create`, if it does not."""

    tool = "guest"

    def __init__(self, channel: Channel, name: str) -> None:
        super().__init__(channel, names.guest(name))

    def iface(self, device: str) -> Iface:
        """An interface of this guest by its device there, such as eth0. Usage for a bad name."""
        return Iface(self._channel, f"{self.name}-{device}")

    def create(
        self,
        *,
        memory: str | int | None = None,
        kernel: Path | None = None,
        master: Path | None = None,
        rootfs: Literal["hostfs", "virtiofs", "default"] | None = None,
        init: str | None = None,
        args: Sequence[str] = (),
        disks: Sequence[str] = (),
        files: Sequence[str] = (),
        startup: str | bytes | None = None,
        start: bool = False,
        wait: Wait = "ready",
        may_exist: bool = False,
    ) -> Self:
        """Create the guest, and start it with `start`; return this object.

        `memory` is a size: bytes, or text such as "64M" (the default). `kernel` and `master` are
        names in the cache, or paths. `args` are added to the kernel's arguments; `disks` are
        images, FILE or FILE:ro; `files` are directories that are copied to it before each start,
        DIR or DIR:PATH. `startup` is the text of a script that it runs at each boot. Usage;
        Conflict if it exists, unless `may_exist`; with `start`, StartFailed.

        >>> carol = lab.guest("carol").create(memory="48M", args=["quiet"])
        >>> carol.show().memory == 48 << 20
        True
        >>> carol.delete()
        """
        options = _settings(memory, kernel, master, rootfs, init, args, disks, files)
        options += words.options(start=start, may_exist=may_exist)
        more: dict[str, Any] = {}
        if wait != "ready":
            options += words.options(wait=wait)
        if startup is not None:
            options += ["--startup", "-"]
            more = _script(startup)
        call = ["guest", "create", *options, self.name]
        answer = self._channel.begin(call, **more).wait()
        error = answers.start_failure(answer) if start else answers.failure(answer)
        if error is not None:
            raise error
        return self

    def delete(self, *, if_exists: bool = False) -> None:
        """Delete the guest with its interfaces and files. Conflict if it runs; NotFound if it does
        not exist, unless `if_exists`."""
        self._verb_of("delete", words.options(if_exists=if_exists))

    def start(
        self, *, timeout: float | None = None, wait: Wait | None = "ready", may_run: bool = False
    ) -> None:
        """Start the guest, and wait until it is ready, or booted, or not at all (None), at most
        `timeout` seconds (default: 30). StartFailed; Conflict if it runs, unless `may_run`."""
        start(self._channel, [self.name], timeout, wait, may_run)

    async def astart(
        self, *, timeout: float | None = None, wait: Wait | None = "ready", may_run: bool = False
    ) -> None:
        """`start` for asyncio."""
        call = start_words([self.name], timeout, wait, may_run)
        answer = await asyncio.wrap_future(self._channel.begin(call).future)
        if (error := answers.start_failure(answer)) is not None:
            raise error

    def stop(
        self, *, timeout: float | None = None, kill: bool = False, if_running: bool = False
    ) -> None:
        """Shut the guest down, and kill it after `timeout` seconds (default: 10, or 100 with an
        init), or at once with `kill`. Conflict if it does not run, unless `if_running`."""
        options = words.options(timeout=timeout, kill=kill, if_running=if_running)
        self._verb_of("stop", options)

    def restart(self, *, timeout: float | None = None, wait: Wait = "ready") -> None:
        """Stop the guest and start it again. Conflict if it does not run, StartFailed."""
        call = ["guest", "restart", *words.options(timeout=timeout, wait=wait), self.name]
        if (error := answers.start_failure(self._channel.begin(call).wait())) is not None:
            raise error

    def pause(self) -> None:
        """Suspend the guest's kernel. Conflict if it does not run."""
        self._verb("pause")

    def resume(self) -> None:
        """Resume a paused guest. Conflict if it is not paused."""
        self._verb("resume")

    def set(
        self,
        *,
        memory: str | int | None = None,
        kernel: Path | None = None,
        master: Path | None = None,
        rootfs: Literal["hostfs", "virtiofs", "default"] | None = None,
        init: str | None = None,
        args: Sequence[str] | None = None,
        disks: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
    ) -> None:
        """Change settings of the guest, effective at its next start; see `create`. An empty string
        restores a default; `args`, `disks` and `files` replace all earlier ones. Usage."""
        options = _settings(
            memory, kernel, master, rootfs, init, args or (), disks or (), files or ()
        )
        options += ["--arg="] if args is not None and not args else []
        options += ["--no-disks"] if disks is not None and not disks else []
        options += ["--no-files"] if files is not None and not files else []
        self._verb_of("set", options)

    def startup(self) -> str | None:
        """The script that the guest runs at each boot; None if there is none."""
        answer = self._channel.call(["guest", "startup", self.name], ok=(0, 1))
        return answer.stdout.decode("utf-8", "backslashreplace") if answer.status == 0 else None

    def set_startup(self, script: str | bytes | None) -> None:
        """Set the script that the guest runs at each boot, from the next one on; None for none."""
        if script is None:
            self._verb_of("startup", ["--clear"])
        else:
            self._verb("startup", "-", **_script(script))

    def show(self) -> GuestView:
        """All fields of the guest."""
        return views.of(GuestView, self._verb("show", "--format", "json").stdout)[0]

    def is_running(self) -> bool:
        """Whether the guest runs."""
        return self._verb("is-running", ok=(0, 1)).status == 0

    def console_log(self, lines: int | None = None) -> str:
        """The output of the guest's kernel console since its last start, or so many last lines of
        it."""
        options = words.options(lines=lines)
        answer = self._channel.call(["console", "log", *options, self.name])
        return answer.stdout.decode("utf-8", "backslashreplace")

    def send(self, text: str, *, line: int = 0) -> None:
        """Type a text and Enter at a raw console of the guest (line 0 is the kernel's)."""
        self._channel.call(["console", "send", *words.options(line=line), self.name, "--", text])

    def mconsole(self, *command: str) -> str:
        """Send a command to the control channel of the guest's kernel; return its reply."""
        return self._verb("mconsole", "--", *command).stdout.decode("utf-8", "backslashreplace")


def start_words(
    guests: Sequence[str], timeout: float | None, wait: Wait | None, may_run: bool
) -> list[str]:
    """`guest start`, of all guests if none is named."""
    options = words.options(timeout=timeout, may_run=may_run)
    options += ["--no-wait"] if wait is None else [f"--wait={wait}"]
    return ["guest", "start", *options, *(guests or ["--all"])]


def start(
    channel: Channel,
    guests: Sequence[str],
    timeout: float | None,
    wait: Wait | None,
    may_run: bool,
) -> None:
    """Start guests, side by side. StartFailed, NotFound, Conflict."""
    answer = channel.begin(start_words(guests, timeout, wait, may_run)).wait()
    if (error := answers.start_failure(answer)) is not None:
        raise error


def _script(text: str | bytes) -> dict[str, Any]:
    if isinstance(text, str):
        return {"stdin": {"text": text}}
    import base64

    return {"stdin": {"base64": base64.b64encode(text).decode()}}


def _settings(
    memory: str | int | None,
    kernel: Path | None,
    master: Path | None,
    rootfs: str | None,
    init: str | None,
    args: Sequence[str],
    disks: Sequence[str],
    files: Sequence[str],
) -> list[str]:
    return words.options(
        memory=memory,
        kernel=words.image(kernel),
        master=words.image(master),
        rootfs=rootfs,
        init=init,
        arg=list(args),
        disk=[words.disk(each) for each in disks],
        files=[words.files(each) for each in files],
    )
