"""The values of scripts that are evaluated, and what can be done with them.

Values are numbers, text, lists, tuples, dictionaries, and objects of the caller. Everything else is
UNKNOWN: names that are not defined, calls of what is not known, results that would be large.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

#: Maximum length of text, and of lists and dictionaries.
LENGTH_MAX = 1000
ELEMENTS_MAX = 10 * LENGTH_MAX
NUMBER_MAX = 1 << 64
#: Widths of more than two digits, or from a value, in the three notations of formats.
WIDE = re.compile(r"[0-9]{3}")
WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*([0-9]{3}|\*)")
WIDE_BRACES = re.compile(r"\{[^}]*([0-9]{3}|[.\[!{])")


class Unknown:
    """The type of UNKNOWN."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()
Scope = dict[str, Any]


class Function(NamedTuple):
    """A function or a lambda, and the names around it. A method has its object as `first`, and the
    place of its class among those of the object."""

    node: ast.FunctionDef | ast.Lambda
    scope: Scope
    first: Any = None
    rank: int = 0


class Class(NamedTuple):
    """A class with its methods."""

    node: ast.ClassDef
    methods: dict[str, Function]
    bases: tuple[Any, ...]


class Object(dict[str, Any]):
    """An object of the caller, with the attributes that the script has set."""

    def __bool__(self) -> bool:
        return True


class Parent(NamedTuple):
    """The value of super() in a method: the object, as seen by the classes after the method's."""

    first: Any
    rank: int


class Builtin(NamedTuple):
    """A function of the caller: it gets the call, its arguments, and those with names."""

    function: Callable[[ast.Call, list[Any], dict[str, Any]], Any]


class World(Protocol):
    """The surroundings of a script that is evaluated."""

    def attribute(self, owner: Any, name: str) -> Any:
        """An attribute of an object of the caller; `[KEY]` is an item."""

    def make(self, node: ast.Call, made: Class, values: list[Any], named: dict[str, Any]) -> Any:
        """A new object of a class."""

    def lost(self, node: ast.AST) -> None:
        """Something that was understood cannot be done."""

    def skipped(self, node: ast.stmt | ast.expr, scope: Scope) -> bool:
        """A part is not understood. Whether it matters: the first branch of a condition that does
        is taken."""

    def strange(self, node: ast.Call) -> None:
        """Something is called that is not known."""


#: Operators by their nodes.
BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
#: Functions of Python that are known.
SIMPLE: dict[str, Callable[..., Any]] = {
    "str": lambda value: str(_scalar(value)),
    "int": int,
    "float": float,
    "bool": bool,
    "len": len,
    "min": lambda *values: min(_scalars(*values)),
    "max": lambda *values: max(_scalars(*values)),
    "sum": lambda values: sum(_scalars(values)),
    "abs": abs,
    "list": lambda values=(): list(values),
    "tuple": lambda values=(): tuple(values),
    "dict": lambda **values: values,
    "sorted": lambda values: sorted(_scalars(values)),
    "reversed": lambda values: list(reversed(values)),
    "enumerate": lambda values, start=0: list(enumerate(values, start)),
    "zip": lambda *values: list(zip(*values, strict=False)),
    "irange": lambda first, last: _range(first, last + 1),
    "range": lambda *bounds: _range(*bounds),
}
#: Methods that are known, by the type of the object.
METHODS = {
    str: ("format", "join", "split", "strip", "replace", "startswith", "endswith", "upper"),
    list: ("append", "extend", "index", "pop"),
    dict: ("get", "items", "keys", "values", "update"),
}

#: Methods whose arguments are compared or printed.
PLAIN = ("format", "index", "pop", "get")


def _range(*bounds: int) -> list[int]:
    found = range(*bounds)
    if len(found) > ELEMENTS_MAX:
        raise OverflowError
    return list(found)


def _scalar(value: Any) -> Any:
    """The value, which may not contain others: lists in lists could be endless to look at."""
    if not is_scalar(value):
        raise TypeError
    return value


def _scalars(*values: Any) -> list[Any]:
    """The elements of a list, or all values."""
    found = values[0] if len(values) == 1 else values
    return [_scalar(each) for each in found]


def is_scalar(value: Any) -> bool:
    """Whether it contains no other values."""
    return value is None or isinstance(value, bool | int | float | str)


def is_plain(value: Any) -> bool:
    """Whether it is a scalar or a tuple of them."""
    return is_scalar(value) or (
        isinstance(value, tuple) and len(value) <= 16 and all(map(is_scalar, value))
    )


def truth(value: Any) -> Any:
    """Whether it is true; UNKNOWN if that is not known."""
    return UNKNOWN if value is UNKNOWN or isinstance(value, Builtin) else bool(value)


def is_number(value: Any) -> bool:
    """Whether it is a number, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)
