"""The command that an `apply` was running when it was killed."""

from __future__ import annotations

import io

import click

from dumm_tools import language
from dumm_tools.cli import lab_file, tools
from dumm_tools.errors import DummError, Usage
from dumm_tools.labs import description, looking, plan
from dumm_tools.labs.commands import Command
from dumm_tools.labs.description import Description
from dumm_tools.labs.wanted import Wanted
from dumm_tools.language import Statement


def completing(labdir: str, text: bytes) -> list[Command]:
    """Commands that complete it: none if the records do not have what it says, since they were not
    changed yet, or have been changed again. Whatever is then missing belongs to the plan."""
    try:
        statement = language.of_lines(io.BytesIO(text)).next() if text else None
        if statement is None:
            return []
        command, verb, rest = tools.resolve(statement.texts)
    except Usage:  # killed while it was noted
        return []
    if verb == ["guest", "start"]:
        return []  # which guests run in the end is for the next file to say
    now = description.of(labdir)
    if verb in (["guest", "create"], ["guest", "delete"]):
        recorded = verb[1] == "create"
        rest = [name for name in rest if (name in now.state.guests) == recorded]
        if not rest:
            return []
    elif not _is_recorded(now, statement):
        return []
    known = {each for param in command.params for each in param.opts}
    lenient = [each for each in ("--may-exist", "--if-exists") if each in known]
    return [Command((*verb, *lenient, *rest), statement.document)]


def _is_recorded(now: Description, statement: Statement) -> bool:
    """Whether the lab has, in its records, what a command says."""
    wanted = Wanted(now, looking.host(now.labdir))
    try:
        lab_file.tell(wanted, statement)
    except (DummError, click.ClickException):
        return False
    return not list(plan.plan(now, wanted.description(), lambda _: "running"))
