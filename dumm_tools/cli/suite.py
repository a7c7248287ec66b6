"""The five tools by their names."""

from __future__ import annotations

import click

TOOLS = ("guest", "iface", "bridge", "fs", "console")


def named(tool: str) -> click.Group:
    """The group of a tool."""
    import importlib

    group = importlib.import_module(f"dumm_tools.cli.{tool}").cli
    assert isinstance(group, click.Group)
    return group
