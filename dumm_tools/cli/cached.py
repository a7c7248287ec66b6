"""Code shared by the commands for kernel packs and masters: operands, options, progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dumm_tools.cli.ending import each
from dumm_tools.cli.words import Words
from dumm_tools.errors import DummError, NotFound
from dumm_tools.images import cache

F = TypeVar("F", bound=Callable[..., Any])


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
    return click.option("--may-exist", is_flag=True, help="Do not fail if it already exists.")(
        function
    )


def if_exists_option(function: F) -> F:
    """--if-exists."""
    return click.option("--if-exists", is_flag=True, help="Do not fail if it does not exist.")(
        function
    )


def delete_each(delete: Callable[[str], None], names: tuple[str, ...], if_exists: bool) -> int:
    """Delete all named objects; return the exit code."""

    def one(name: str) -> None:
        try:
            delete(name)
        except NotFound:
            if not if_exists:
                raise

    return each(names, one)
