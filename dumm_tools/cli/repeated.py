"""The options of commands that can be run twice: --may-exist for verbs that make something,
--if-exists for those that remove something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def may_exist(help_text: str = "Do not fail if it already exists.") -> Callable[[F], F]:
    """--may-exist: an existing object becomes the one that is asked for, or the error says what
    differs."""
    return click.option("--may-exist", is_flag=True, help=help_text)


def if_exists(help_text: str = "Do not fail if it does not exist.") -> Callable[[F], F]:
    """--if-exists: there may be nothing to remove, nor what it would belong to."""
    return click.option("--if-exists", is_flag=True, help=help_text)
