"""Operands and option values that complete themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dumm_tools.cli.lab import working_directory
from dumm_tools.errors import DummError

if TYPE_CHECKING:
    Words = click.ParamType[str]
else:  # older clicks have no generic one
    Words = click.ParamType


class Directory(Words):
    """An operand that names a directory, or a path that may become one. click's own type looks up
    translations at each start, as do its version and help options, which costs a millisecond."""

    name = "directory"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if os.path.lexists(value) and not os.path.isdir(value):
            self.fail(f"'{value}' is not a directory", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


class File(Words):
    """An option value that names a file."""

    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class FieldList(Words):
    """The argument of -o; completes the last field of the list."""

    name = "fields"

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = fields

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        head, comma, last = incomplete.rpartition(",")
        return [CompletionItem(head + comma + f) for f in self.fields if f.startswith(last)]


class Name(Words):
    """An operand that names an object; `choices` takes the candidates from a loaded state."""

    def __init__(self, name: str, choices: Callable[[Any, str], Iterable[str]]) -> None:
        self.name = name
        self._choices = choices

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        from dumm_tools import statefile

        try:
            directory = working_directory(ctx)
            found = sorted(self._choices(statefile.load(directory), directory))
        except (DummError, OSError):
            return []
        return [CompletionItem(n) for n in found if n.startswith(incomplete)]


class Names(Name):
    """The names of several objects, separated by commas; completes the last one."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        head, comma, last = incomplete.rpartition(",")
        found = super().shell_complete(ctx, param, last)
        return [CompletionItem(head + comma + item.value) for item in found]
