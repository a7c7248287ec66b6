"""Waiting for a guest, and for a program in it to succeed."""

from __future__ import annotations

import asyncio
import re
from typing import Literal

from dumm_tools.api import answers, words
from dumm_tools.api.execution import Command
from dumm_tools.api.part import Part


class Waits(Part):
    """The part of a guest that can be waited for."""

    def wait(
        self,
        what: Literal["ready", "booted", "stopped"] = "ready",
        *,
        timeout: float | None = None,
    ) -> None:
        """Wait until the guest is ready, has booted, or is stopped. TimedOut after `timeout`
        seconds; Conflict if it does not run."""
        options = words.options(**{"for": what, "timeout": timeout})
        self._verb_of("wait", options)

    def wait_until(
        self,
        command: Command,
        *,
        match: str | re.Pattern[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Run a program in the guest again and again until it succeeds and, with `match`, until
        this regular expression (module `re`, re.MULTILINE) is found in its output. It is run by the
        session, not by this process; one that is not there may come later. TimedOut after `timeout`
        seconds, with the last reason; Conflict if the guest does not run.

        >>> alice.wait_until(["ip", "addr", "show"], match=r"inet 10\\.0\\.0\\.1/", timeout=60)
        """
        self._channel.call(self._until(command, match, timeout))

    async def await_until(
        self,
        command: Command,
        *,
        match: str | re.Pattern[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        """`wait_until` for asyncio."""
        running = self._channel.begin(self._until(command, match, timeout))
        if (error := answers.failure(await asyncio.wrap_future(running.future))) is not None:
            raise error

    def _until(
        self, command: Command, match: str | re.Pattern[str] | None, timeout: float | None
    ) -> list[str]:
        pattern = match.pattern if isinstance(match, re.Pattern) else match
        options = words.options(until=True, match=pattern, timeout=timeout)
        given = words.words("the command", command)
        return ["guest", "wait", *options, self.name, "--", *given]
