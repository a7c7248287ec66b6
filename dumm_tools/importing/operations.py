"""Operations on the values of a script. Their work is counted, and bounded."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from dumm_tools.errors import Usage
from dumm_tools.importing import pyvalues as known
from dumm_tools.importing.pyvalues import UNKNOWN, Builtin, Class, Function, Object, World

#: Statements, expressions, assignments. Work on many elements counts as steps, too: 16 are a step.
STEPS_MAX = 300_000
_STEP = 16


class Operations:
    """Results of operators and functions."""

    def __init__(self, world: World, where: str) -> None:
        self._world, self._where = world, where
        self._steps = self._line = 0

    def _step(self, node: ast.AST) -> None:
        self._line = getattr(node, "lineno", self._line)
        self.cost(_STEP)

    def cost(self, elements: int) -> None:
        """Count what takes as long as a number of elements. Usage if it is too much in all."""
        self._steps += elements
        if self._steps > _STEP * STEPS_MAX:
            raise Usage(f"{self._where}:{self._line}: this takes too many steps")

    def _compared(self, op: ast.cmpop, one: Any, other: Any) -> Any:
        """The result of a comparison."""
        if None in (one, other) and isinstance(op, ast.Is | ast.IsNot):
            if UNKNOWN in (one, other) or any(isinstance(v, Builtin) for v in (one, other)):
                return UNKNOWN
            return (one is other) is isinstance(op, ast.Is)
        held = isinstance(op, ast.In | ast.NotIn) and isinstance(other, list | tuple | dict)
        if isinstance(other, Object) or not known.is_scalar(one):
            return UNKNOWN
        if not (held or known.is_scalar(other)):
            return UNKNOWN
        self.cost(len(other) if isinstance(other, str | list | tuple | dict) else 0)
        return self._try(known.COMPARE[type(op)], one, other)

    def _try(self, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """The result of a function; UNKNOWN if it fails, or is given something unknown."""
        if any(value is UNKNOWN for value in (*values, *named.values())):
            return UNKNOWN
        for value in values:
            self.cost(len(value) if isinstance(value, str | list | tuple | dict) else 0)
        try:
            return self._bounded(function(*values, **named))
        except Usage:
            raise
        except Exception:  # whatever the script has done wrong
            return UNKNOWN

    def _bounded(self, value: Any) -> Any:
        """The value, unless it is too large or of a type that scripts need not have."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return value if -known.NUMBER_MAX < value < known.NUMBER_MAX else UNKNOWN
        if isinstance(value, str | list | tuple | dict):
            self.cost(len(value))
            most = known.LENGTH_MAX if isinstance(value, str) else known.ELEMENTS_MAX
            return value if len(value) <= most else UNKNOWN
        return value if isinstance(value, Function | Class | Builtin) else UNKNOWN

    def _computed(self, op: ast.operator, one: Any, other: Any) -> Any:
        """The result of an operator."""
        function = known.BINARY.get(type(op))
        if function is None or one is UNKNOWN or other is UNKNOWN:
            return UNKNOWN
        if isinstance(op, ast.Mod) and isinstance(one, str):
            if known.WIDE_PERCENT.search(one) or not known.is_plain(other):
                return UNKNOWN
            return self._try(function, one, other)
        if isinstance(op, ast.Mult) and not known.is_number(one) | known.is_number(other):
            return UNKNOWN
        if isinstance(op, ast.Mult) and not (known.is_number(one) and known.is_number(other)):
            count, values = (one, other) if known.is_number(one) else (other, one)
            if not isinstance(values, str | list | tuple) or count * len(values) > known.LENGTH_MAX:
                return UNKNOWN
        return self._try(function, one, other)
