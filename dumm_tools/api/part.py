"""An object of a lab: a guest, an interface, a bridge, a template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dumm_tools.api.answers import Answer
from dumm_tools.api.channel import Channel


class Part:
    """An object of a lab by its name; it need not exist. Objects of the same name are equal.

    Like a lab, it can be sent to another process (module `pickle`), which then has a session of its
    own for all that was sent together.
    """

    #: The tool that has its verbs.
    tool = ""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        #: Its name.
        self.name = name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or not isinstance(other, Part):
            return NotImplemented
        return (self._channel, self.name) == (other._channel, other.name)

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def _verb(self, verb: str, *words: str, **more: Any) -> Answer:
        """Run a verb of its tool on it."""
        return self._channel.call([self.tool, *verb.split(), self.name, *words], **more)

    def _verb_of(self, verb: str, options: Sequence[str], *words: str) -> Answer:
        """The same, with options before the name."""
        return self._channel.call([self.tool, *verb.split(), *options, self.name, *words])
