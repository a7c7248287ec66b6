"""Expressions in scripts that are evaluated: nothing in here can reach anything outside."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from dumm_tools.errors import Usage
from dumm_tools.importing import pyvalues as known
from dumm_tools.importing.pyvalues import UNKNOWN, Builtin, Class, Function, Object, Scope

#: Each 16 characters or elements of a result count as a step, too.
STEPS_MAX = 300_000


class Expressions:
    """Works out values. `attribute` gives the attributes of the caller's objects, `make` creates
    objects of classes, and `lost` is told of arguments of a call whose names are unknown."""

    def __init__(
        self,
        attribute: Callable[[Any, str], Any],
        make: Callable[[ast.Call, Class, list[Any], dict[str, Any]], Any],
        lost: Callable[[ast.Call], None],
        where: str,
    ) -> None:
        self._attribute, self._make, self._lost = attribute, make, lost
        self._where = where
        self._steps = 0

    def _step(self, node: ast.AST) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            line = getattr(node, "lineno", 0)
            raise Usage(f"{self._where}:{line}: this takes too many steps")

    def cost(self, elements: int) -> None:
        """Count what takes as long as a number of elements."""
        self._steps += elements // 16

    def call(self, function: Function, values: list[Any], named: dict[str, Any]) -> Any:
        """Call a function of the script."""
        raise NotImplementedError

    def value(self, node: ast.expr, scope: Scope) -> Any:
        """The value of an expression."""
        self._step(node)
        if isinstance(node, ast.Constant):
            return self._bounded(node.value)
        if isinstance(node, ast.Name):
            return scope.get(node.id, UNKNOWN)
        if isinstance(node, ast.List | ast.Tuple):
            values = [self.value(each, scope) for each in node.elts]
            return values if isinstance(node, ast.List) else tuple(values)
        if isinstance(node, ast.Dict):
            return self._dictionary(node, scope)
        if isinstance(node, ast.BinOp):
            return self._binary(node.op, self.value(node.left, scope), node.right, scope)
        if isinstance(node, ast.Call):
            return self._call(node, scope)
        if isinstance(node, ast.Attribute):
            return self._member(self.value(node.value, scope), node.attr)
        if isinstance(node, ast.Subscript):
            return self._item(node, scope)
        if isinstance(node, ast.JoinedStr):
            return self._joined(node, scope)
        if isinstance(node, ast.Lambda):
            return Function(node, scope)
        if isinstance(node, ast.ListComp | ast.GeneratorExp) and len(node.generators) == 1:
            return self._comprehension(node, scope)
        return self._logic(node, scope)

    def _logic(self, node: ast.expr, scope: Scope) -> Any:
        if isinstance(node, ast.IfExp):
            test = self.value(node.test, scope)
            if test is UNKNOWN:
                return UNKNOWN
            return self.value(node.body if test else node.orelse, scope)
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            one, other = self.value(node.left, scope), self.value(node.comparators[0], scope)
            held = isinstance(node.ops[0], ast.In | ast.NotIn) and isinstance(other, list | dict)
            if not known.is_scalar(one) or not (held or known.is_scalar(other)):
                return UNKNOWN
            self.cost(len(other) if isinstance(other, str | list | dict) else 0)
            return self._try(known.COMPARE[type(node.ops[0])], one, other)
        if isinstance(node, ast.BoolOp):
            value: Any = None
            for each in node.values:
                value = self.value(each, scope)
                if value is UNKNOWN or bool(value) is isinstance(node.op, ast.Or):
                    break
            return value
        if isinstance(node, ast.UnaryOp):
            value = self.value(node.operand, scope)
            if isinstance(node.op, ast.Not):
                return UNKNOWN if value is UNKNOWN else not value
            if isinstance(node.op, ast.USub) and isinstance(value, int | float):
                return -value
        return UNKNOWN

    def _try(self, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
        if any(value is UNKNOWN for value in (*values, *named.values())):
            return UNKNOWN
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
            most = known.LENGTH_MAX if isinstance(value, str) else 10 * known.LENGTH_MAX
            return value if len(value) <= most else UNKNOWN
        return value if isinstance(value, Function | Class | Builtin) else UNKNOWN

    def _binary(self, op: ast.operator, one: Any, right: ast.expr, scope: Scope) -> Any:
        other = self.value(right, scope)
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

    def _dictionary(self, node: ast.Dict, scope: Scope) -> Any:
        found: dict[Any, Any] = {}
        for key, each in zip(node.keys, node.values, strict=True):
            value = self.value(each, scope)
            if key is None:
                if not isinstance(value, dict):
                    return UNKNOWN
                found.update(value)
                continue
            name = self.value(key, scope)
            if known.is_plain(name):
                found[name] = value
        return found

    def _joined(self, node: ast.JoinedStr, scope: Scope) -> Any:
        parts: list[Any] = []
        for each in node.values:
            if isinstance(each, ast.Constant):
                parts.append(str(each.value))
                continue
            assert isinstance(each, ast.FormattedValue)
            value = self.value(each.value, scope)
            spec = "" if each.format_spec is None else self.value(each.format_spec, scope)
            if (
                not isinstance(value, str | int | float)
                or spec is UNKNOWN
                or known.WIDE.search(spec)
            ):
                return UNKNOWN
            parts.append(self._try(format, value, spec))
        if any(part is UNKNOWN for part in parts):
            return UNKNOWN
        return self._bounded("".join(parts))

    def _item(self, node: ast.Subscript, scope: Scope) -> Any:
        owner = self.value(node.value, scope)
        if isinstance(node.slice, ast.Slice):
            return self._slice(owner, node.slice, scope)
        key = self.value(node.slice, scope)
        if isinstance(owner, Object):
            return self._attribute(owner, f"[{key}]") if isinstance(key, str) else UNKNOWN
        if isinstance(owner, list | tuple | dict | str) and known.is_plain(key):
            try:
                return owner[key]
            except (TypeError, KeyError, IndexError):
                return UNKNOWN
        return UNKNOWN

    def _slice(self, owner: Any, node: ast.Slice, scope: Scope) -> Any:
        parts = (node.lower, node.upper, node.step)
        bounds = [None if part is None else self.value(part, scope) for part in parts]
        if not isinstance(owner, list | tuple | str):
            return UNKNOWN
        return self._try(lambda *values: owner[slice(*values)], *bounds)

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp, scope: Scope) -> Any:
        (loop,) = node.generators
        values = self._iterable(self.value(loop.iter, scope))
        if values is None:
            return UNKNOWN
        self.cost(len(scope))
        inner, found = dict(scope), []
        for value in values:
            self._assign(loop.target, value, inner)
            if all(self.value(test, inner) is True for test in loop.ifs):
                found.append(self.value(node.elt, inner))
        return found

    # ---- names ----

    def _iterable(self, value: Any) -> list[Any] | None:
        if isinstance(value, list | tuple | str | dict) and not isinstance(value, Object):
            self.cost(len(value))
            return list(value)
        return None

    def _assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            values = self._iterable(value)
            if values is None or len(values) != len(target.elts):
                values = [UNKNOWN] * len(target.elts)
            for each, one in zip(target.elts, values, strict=True):
                self._assign(each, one, scope)
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value, scope)
            if isinstance(owner, Object) and len(owner) < known.LENGTH_MAX:
                owner[target.attr] = value
        elif isinstance(target, ast.Subscript):
            owner, key = self.value(target.value, scope), self.value(target.slice, scope)
            if isinstance(owner, Object) or not known.is_plain(key):
                return
            if isinstance(owner, dict | list) and len(owner) < known.LENGTH_MAX:
                try:
                    owner[key] = value
                except (TypeError, IndexError):
                    return

    # ---- calls ----

    def _member(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Object):
            return owner[name] if name in owner else self._attribute(owner, name)
        for kind, methods in known.METHODS.items():
            if isinstance(owner, kind):
                return self._method(owner, name) if name in methods else UNKNOWN
        return self._attribute(owner, name)

    def _method(self, owner: Any, name: str) -> Builtin:
        def call(_node: ast.Call, values: list[Any], named: dict[str, Any]) -> Any:
            if name == "append":
                if len(owner) < known.LENGTH_MAX:
                    owner.append(values[0] if values else UNKNOWN)
                return None
            if not all(map(known.is_plain, (*values, *named.values()))) and name in known.PLAIN:
                return UNKNOWN
            if name == "format" and known.WIDE_BRACES.search(owner):
                return UNKNOWN
            if name in ("keys", "values", "items"):
                return [*getattr(owner, name)()]
            if name in ("extend", "update") and values:
                more = self._try(len, values[0])
                if not isinstance(more, int) or more + len(owner) > known.LENGTH_MAX:
                    return UNKNOWN
            return self._try(getattr(owner, name), *values, **named)

        return Builtin(call)

    def _call(self, node: ast.Call, scope: Scope) -> Any:
        function = self.value(node.func, scope)
        is_lost = False
        values: list[Any] = []
        for each in node.args:
            if isinstance(each, ast.Starred):
                more = self._iterable(self.value(each.value, scope))
                is_lost |= more is None
                values += more or []
            else:
                values.append(self.value(each, scope))
        named: dict[str, Any] = {}
        for word in node.keywords:
            value = self.value(word.value, scope)
            if word.arg is not None:
                named[word.arg] = value
            elif isinstance(value, dict) and not isinstance(value, Object):
                self.cost(len(value))
                named |= {key: one for key, one in value.items() if isinstance(key, str)}
            else:
                is_lost = True
        if is_lost and isinstance(function, Builtin | Class | Function):
            self._lost(node)
        if isinstance(node.func, ast.Name) and function is UNKNOWN and node.func.id in known.SIMPLE:
            return self._try(known.SIMPLE[node.func.id], *values, **named)
        if isinstance(function, Builtin):
            return function.function(node, values, named)
        if isinstance(function, Class):
            return self._make(node, function, values, named)
        if isinstance(function, Function):
            return self.call(function, values, named)
        return UNKNOWN
