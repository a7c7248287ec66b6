"""Code shared by the commands for kernel packs and masters: operands, options, progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from dumm_tools import output
from dumm_tools.cli import repeated
from dumm_tools.cli.commands import Group
from dumm_tools.cli.ending import each
from dumm_tools.cli.shapes import output_options
from dumm_tools.cli.words import Words
from dumm_tools.errors import DummError, NotFound
from dumm_tools.images import cache
from dumm_tools.output import Field

F = TypeVar("F", bound=Callable[..., Any])
V = TypeVar("V")


class Cached(Words):
    """The name of an object in the cache, with completion."""

    def __init__(self, kind: cache.Kind) -> None:
        self.name = cache.NOUN[kind]
        self._kind: cache.Kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
        from click.shell_completion import CompletionItem

        try:
            return [CompletionItem(n) for n in cache.names(self._kind) if n.startswith(incomplete)]
        except (DummError, OSError):
            return []


def source_options(default_suite: str) -> Callable[[F], F]:
    """--suite, --mirror and --allow-expired, for downloads from a Debian archive."""

    def decorate(function: F) -> F:
        for option in (
            click.option(
                "--allow-expired",
                is_flag=True,
                envvar="DUMM_ALLOW_EXPIRED",
                help="Accept a suite whose Release file has expired.",
            ),
            click.option(
                "--mirror",
                metavar="URL",
                help="Debian mirror (default: the one that this host uses).",
            ),
            click.option(
                "--suite", metavar="SUITE", help=f"Debian suite (default: {default_suite})."
            ),
        ):
            function = option(function)
        return function

    return decorate


def name_option(function: F) -> F:
    """--name, for objects created in the cache."""
    return click.option("--name", metavar="NAME", help="Name to give it in the cache.")(function)


def may_exist_option(function: F) -> F:
    """--may-exist."""
    return repeated.may_exist("Do not fail if it already exists and is the same.")(function)


def place_fields(noun: str) -> list[Field[Any]]:
    """The fields of everything in the cache; `noun` is for their descriptions."""
    return [
        Field("size", "Size on disk, in bytes.", _size, people=lambda o: output.size(_size(o))),
        Field("path", f"Directory of the {noun}.", lambda o: o.path),
    ]


def _size(stored: Any) -> int:
    from dumm_tools.trees import tree

    return tree.size(stored.path)


def list_verb(
    group: Group, fields: Sequence[Field[V]], all_: Callable[[], list[V]], help_text: str
) -> None:
    """Give a group `list`, of the objects that `all_` returns."""

    @group.command("list", help=help_text)
    @output_options(fields)
    def list_(shape: output.Shape) -> None:
        output.emit(all_(), fields, shape)


def show_verb(
    group: Group,
    fields: Sequence[Field[V]],
    kind: cache.Kind,
    all_: Callable[[], list[V]],
    help_text: str,
) -> None:
    """Give a group `show NAME...`, for objects among those that `all_` returns."""

    @group.command(help=help_text)
    @click.argument("names", metavar="NAME...", nargs=-1, required=True, type=Cached(kind))
    @output_options(fields)
    def show(names: tuple[str, ...], shape: output.Shape) -> int:
        known = {fields[0].get(stored): stored for stored in all_()}
        found: list[V] = []

        def one(name: str) -> None:
            if name not in known:
                raise cache.missing(kind, name)
            found.append(known[name])

        status = each(names, one)
        output.emit(found, fields, shape, one_by_one=True)
        return status


def delete_verb(
    group: Group, kind: cache.Kind, deleter: Callable[[], Callable[[str], None]], help_text: str
) -> None:
    """Give a group `delete NAME... [--if-exists]`; `deleter` prepares for it and returns the
    function that deletes one object."""

    @group.command(help=help_text)
    @click.argument("names", metavar="NAME...", nargs=-1, required=True, type=Cached(kind))
    @repeated.if_exists()
    def delete(names: tuple[str, ...], if_exists: bool) -> int:
        delete_one = deleter()

        def one(name: str) -> None:
            try:
                delete_one(name)
            except NotFound:
                if not if_exists:
                    raise

        return each(names, one)


def print_chosen(asked: str | None, name: str) -> None:
    """Print the name of a new object, unless the user has chosen it."""
    if asked is None:
        click.echo(name)
