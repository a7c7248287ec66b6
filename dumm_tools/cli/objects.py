"""Verbs common to interfaces and bridges: delete, list, show, address add and del."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from dumm_tools import output
from dumm_tools.cli import repeated
from dumm_tools.cli.commands import Group
from dumm_tools.cli.ending import each, program, report, warn
from dumm_tools.cli.lab import entered
from dumm_tools.cli.shapes import output_options
from dumm_tools.output import Field

V = TypeVar("V")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

addresses_argument = click.argument("addresses", metavar="A/P...", nargs=-1, required=True)


def _domain(name: str) -> Any:
    """Import a module of `net` when it is needed, since it imports much."""
    import importlib

    return importlib.import_module(f"dumm_tools.net.{name}")


def delete_verb(
    tool: Group, domain: str, operands: Decorator, help_text: str, *, warns: bool = False
) -> None:
    """Add `delete NAME... [--if-exists]` to a tool; it calls the module's `delete`, which may print
    warnings."""

    @tool.command(help=help_text)
    @operands
    @repeated.if_exists()
    def delete(names: tuple[str, ...], if_exists: bool) -> int:
        module, prog = _domain(domain), program()
        more = {"warn": lambda text: report(prog, f"warning: {text}")} if warns else {}
        return each(names, lambda name: module.delete(entered(), name, if_exists=if_exists, **more))


def list_verb(tool: Group, fields: Sequence[Field[V]], all_: str, help_text: str) -> None:
    """Add `list` to a tool; the function `all_` of net/link_views.py provides the objects."""

    @tool.command("list", help=help_text)
    @output_options(fields)
    def list_(shape: output.Shape) -> None:
        from dumm_tools import statefile

        views = getattr(_domain("link_views"), all_)(statefile.load(entered(make=False)))
        output.emit(views, fields, shape)


def show_verb(
    tool: Group,
    fields: Sequence[Field[V]],
    operands: Decorator,
    one: str,
    help_text: str,
) -> None:
    """Add `show NAME...` to a tool; the function `one` of net/link_views.py finds an object by
    name."""

    @tool.command(help=help_text)
    @operands
    @output_options(fields)
    def show(names: tuple[str, ...], shape: output.Shape) -> int:
        from dumm_tools import statefile

        stored, view = statefile.load(entered(make=False)), getattr(_domain("link_views"), one)
        found: list[V] = []
        status = each(names, lambda name: found.append(view(stored, name)))
        output.emit(found, fields, shape, one_by_one=True)
        return status


def address_verbs(
    tool: Group, domain: str, operand: Decorator, *, group_help: str, add_help: str, del_help: str
) -> Group:
    """Add `address add` and `address del` to a tool; they call the module's `add_addresses` and
    `del_addresses`. Return the group, for more verbs."""
    group = Group(name="address", help=group_help)
    tool.add_command(group)

    @group.command("add", help=add_help)
    @operand
    @addresses_argument
    @repeated.may_exist()
    def address_add(name: str, addresses: tuple[str, ...], may_exist: bool) -> None:
        module = _domain(domain)
        module.add_addresses(entered(), name, addresses, may_exist=may_exist, warn=warn)

    @group.command("del", help=del_help)
    @operand
    @addresses_argument
    @repeated.if_exists()
    def address_del(name: str, addresses: tuple[str, ...], if_exists: bool) -> None:
        _domain(domain).del_addresses(entered(), name, addresses, if_exists=if_exists)

    return group
