"""A template: a layer for each guest."""

from __future__ import annotations

from typing import Self

from dumm_tools import names
from dumm_tools.api import views, words
from dumm_tools.api.channel import Channel
from dumm_tools.api.part import Part
from dumm_tools.api.views import TemplateView
from dumm_tools.errors import Conflict


class Template(Part):
    """A template of a lab, from `Lab.template`; it need not exist."""

    tool = "fs"

    def __init__(self, channel: Channel, name: str) -> None:
        super().__init__(channel, names.pack(name, "template name"))

    def load(self, *, fresh: bool = False, create: bool = False) -> Self:
        """Put the template on top of all guests' layers, instead of the one that is loaded; from
        then on guests write to it. Return this object.

        With `fresh`, to a copy of it, which is dropped when it is unloaded: the template itself
        stays as it is. With `create`, one that does not exist is made, empty; otherwise NotFound.

        >>> alice.run(["sh", "-c", "echo day >/root/time"]).returncode
        0
        >>> night = lab.template("night").save().load(fresh=True)
        >>> alice.run(["sh", "-c", "echo night >/root/time; cat /root/time"]).stdout
        'night\\n'
        >>> night.unload()
        >>> alice.run(["cat", "/root/time"]).stdout
        'day\\n'
        >>> night.delete()
        """
        self._verb_of("template load", words.options(fresh=fresh, create=create))
        return self

    def unload(self, *, if_exists: bool = False) -> None:
        """Unload the template. Conflict if it is not loaded, unless `if_exists`."""
        found = self._channel.call(["fs", "template", "list", "--format", "json"]).stdout
        if any(each.loaded and each.name == self.name for each in views.of(TemplateView, found)):
            self._channel.call(["fs", "template", "unload"])
        elif not if_exists:
            raise Conflict(f"template '{self.name}' is not loaded")

    def save(self, *, may_exist: bool = False) -> Self:
        """Save the changes of all guests as this template: those in the loaded template, or their
        own files. Return this object. Conflict if it exists, unless `may_exist` and it has the same
        files."""
        self._verb_of("template save", words.options(may_exist=may_exist))
        return self

    def delete(self, *, if_exists: bool = False) -> None:
        """Delete the template. Conflict if it is loaded; NotFound, unless `if_exists`."""
        self._verb_of("template delete", words.options(if_exists=if_exists))
