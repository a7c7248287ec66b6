"""The options of `list` and `show`: -q, -o, -z and --format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from dumm_tools.cli.words import FieldList
from dumm_tools.output import Field, Shape, check_fields

F = TypeVar("F", bound=Callable[..., Any])


def output_options(table: Sequence[Field[Any]]) -> Callable[[F], F]:
    """Add -q, -o, -z and --format to a `list` or `show` verb, which receives a single `shape`."""
    names = [f.name for f in table]

    def split(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
        chosen = tuple(v.strip() for v in value.split(",")) if value is not None else ()
        check_fields(chosen, table)
        return chosen

    def decorate(function: F) -> F:
        import functools

        @functools.wraps(function)
        def wrapper(
            *args: Any, quiet: bool, fields: tuple[str, ...], form: str, nul: bool, **kwargs: Any
        ) -> Any:
            if quiet + bool(fields) + (form == "json") > 1:
                raise click.UsageError("-q, -o and --format json are mutually exclusive")
            if nul and not (quiet or fields):
                raise click.UsageError("-z requires -q or -o")
            shape = Shape(names=quiet, fields=fields, as_json=form == "json", nul=nul)
            return function(*args, shape=shape, **kwargs)

        for option in (
            click.option("-z", "--nul", is_flag=True, help="End records with NUL (for -q and -o)."),
            click.option(
                "--format",
                "form",
                type=click.Choice(["table", "json"]),
                default="table",
                help="Output format; json prints one array of objects.",
            ),
            click.option(
                "-o",
                "--output",
                "fields",
                metavar="FIELD,...",
                type=FieldList(names),
                callback=split,
                help=f"Print only these fields, separated by tabs: {','.join(names)}.",
            ),
            click.option("-q", "--quiet", is_flag=True, help="Print only names, one per line."),
        ):
            wrapper = option(wrapper)
        return wrapper  # type: ignore[return-value]

    return decorate
