"""The command that the words of a batch mean."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dumm_tools.cli.suite import TOOLS as TOOLS
from dumm_tools.cli.suite import named as named
from dumm_tools.errors import Usage


def tool_of(word: str) -> str:
    """The tool that the first word of a line names, with "dumm-" or without; Usage."""
    name = word.removeprefix("dumm-")
    if name not in TOOLS:
        from dumm_tools.cli import guess
        from dumm_tools.missing import similar

        tools = f"the first word is one of: {' '.join(TOOLS)}"
        raise Usage(f"no tool '{word}'", hint=similar(word, TOOLS, guess.anywhere(word) or tools))
    return name


def resolve(words: Sequence[str]) -> tuple[click.Command, list[str], list[str]]:
    """The verb that words mean, its name and the words after it. Usage if there is none."""
    verb, rest = [tool_of(words[0])], list(words[1:])
    command: click.Command = named(verb[0])
    while isinstance(command, click.Group):
        if not rest:
            raise Usage(f"'{' '.join(verb)}' needs a verb", hint=f"see 'dumm-{verb[0]} --help'")
        found = command.commands.get(rest[0])
        if found is None:
            from dumm_tools.cli import guess

            context = click.Context(command, info_name=f"dumm-{' '.join(verb)}")
            hint = guess.hint(context, rest[0]) or f"see 'dumm-{verb[0]} --help'"
            raise Usage(f"no such command '{rest[0]}'", hint=hint)
        command = found
        verb.append(rest.pop(0))
    return command, verb, rest
