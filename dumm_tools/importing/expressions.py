"""Expressions in scripts that are evaluated: nothing in here can reach anything outside."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from dumm_tools.importing import pyvalues as known
from dumm_tools.importing.operations import Operations
from dumm_tools.importing.pyvalues import UNKNOWN, Builtin, Class, Function, Object, Scope

_Comprehension = ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp


class Expressions(Operations):
    """Works out values."""

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
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            values, is_whole = self._elements(node.elts, scope)
            if not is_whole:
                return UNKNOWN
            return tuple(values) if isinstance(node, ast.Tuple) else values
        if isinstance(node, ast.Dict):
            return self._dictionary(node, scope)
        if isinstance(node, ast.BinOp):
            return self._computed(
                node.op, self.value(node.left, scope), self.value(node.right, scope)
            )
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
        if isinstance(node, ast.NamedExpr):
            value = self.value(node.value, scope)
            self._assign(node.target, value, scope)
            return value
        if isinstance(node, _Comprehension):
            return self._comprehension(node, scope)
        return self._logic(node, scope)

    def _elements(self, nodes: Sequence[ast.expr], scope: Scope) -> tuple[list[Any], bool]:
        """The values of a list's elements or a call's arguments, and whether these are all."""
        values, is_whole = [], True
        for node in nodes:
            if isinstance(node, ast.Starred):
                more = self._iterable(self.value(node.value, scope))
                is_whole &= more is not None
                values += more or []
            else:
                values.append(self.value(node, scope))
        return values, is_whole

    def _logic(self, node: ast.expr, scope: Scope) -> Any:
        if isinstance(node, ast.IfExp):
            test = known.truth(self.value(node.test, scope))
            if test is not UNKNOWN:
                return self.value(node.body if test else node.orelse, scope)
            self._world.skipped(node, scope)
        elif isinstance(node, ast.Compare):
            return self._comparison(node, scope)
        elif isinstance(node, ast.BoolOp):
            return self._and_or(node, scope)
        elif isinstance(node, ast.UnaryOp):
            value = self.value(node.operand, scope)
            if isinstance(node.op, ast.Not):
                test = known.truth(value)
                return UNKNOWN if test is UNKNOWN else not test
            if isinstance(node.op, ast.USub) and isinstance(value, int | float):
                return -value
        else:
            self._world.skipped(node, scope)
        return UNKNOWN

    def _and_or(self, node: ast.BoolOp, scope: Scope) -> Any:
        value: Any = None
        for number, each in enumerate(node.values, 1):
            value = self.value(each, scope)
            test = known.truth(value)
            if test is UNKNOWN:
                self.cost(16 * (len(node.values) - number))
                for other in node.values[number:]:
                    self._world.skipped(other, scope)
                return UNKNOWN
            if test is isinstance(node.op, ast.Or):
                break
        return value

    def _comparison(self, node: ast.Compare, scope: Scope) -> Any:
        one = self.value(node.left, scope)
        for op, right in zip(node.ops, node.comparators, strict=True):
            other = self.value(right, scope)
            result = self._compared(op, one, other)
            if result is not True:
                return result
            one = other
        return True

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
            if not known.is_plain(name):
                return UNKNOWN
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
            return self._world.attribute(owner, f"[{key}]") if isinstance(key, str) else UNKNOWN
        if type(owner) in (list, tuple, dict, str) and known.is_plain(key):
            try:
                return owner[key]
            except (TypeError, KeyError, IndexError):
                return UNKNOWN
        return UNKNOWN

    def _slice(self, owner: Any, node: ast.Slice, scope: Scope) -> Any:
        parts = (node.lower, node.upper, node.step)
        bounds = [None if part is None else self.value(part, scope) for part in parts]
        if type(owner) not in (list, tuple, str):
            return UNKNOWN
        return self._try(lambda *values: owner[slice(*values)], *bounds)

    def _comprehension(self, node: _Comprehension, scope: Scope) -> Any:
        self.cost(len(scope))
        found: list[Any] = []
        if not self._rounds(node, 0, dict(scope), found):
            return UNKNOWN
        if not isinstance(node, ast.DictComp):
            return found
        return dict(found) if all(known.is_plain(key) for key, _ in found) else UNKNOWN

    def _rounds(self, node: _Comprehension, depth: int, scope: Scope, found: list[Any]) -> bool:
        """The rounds of a comprehension's loop at this depth; False if something is unknown."""
        if depth == len(node.generators):
            if isinstance(node, ast.DictComp):
                found.append((self.value(node.key, scope), self.value(node.value, scope)))
            else:
                found.append(self.value(node.elt, scope))
            return True
        loop = node.generators[depth]
        values = self._iterable(self.value(loop.iter, scope))
        for value in values or ():
            self._assign(loop.target, value, scope)
            test: Any = True
            for each in loop.ifs:
                test = known.truth(self.value(each, scope))
                if test is not True:
                    break
            if test is UNKNOWN:
                values = None
                break
            if test and not self._rounds(node, depth + 1, scope, found):
                return False
        if values is None:
            self._world.skipped(node, scope)
        return values is not None

    # ---- names ----

    def _iterable(self, value: Any) -> list[Any] | None:
        if type(value) in (list, tuple, str, dict):
            self.cost(len(value))
            return list(value)
        return None

    def _assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        self._step(target)
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
            elif owner is not UNKNOWN:
                self._world.lost(target)
        elif isinstance(target, ast.Subscript):
            owner, key = self.value(target.value, scope), self.value(target.slice, scope)
            if owner is not UNKNOWN and not self._put(owner, key, value):
                self._world.lost(target)

    def _put(self, owner: Any, key: Any, value: Any) -> bool:
        """Set an item; False if that is not possible."""
        if isinstance(owner, Object) or not known.is_plain(key):
            return False
        if not isinstance(owner, dict | list) or len(owner) >= known.ELEMENTS_MAX:
            return False
        try:
            owner[key] = value
        except (TypeError, IndexError):
            return False
        return True

    # ---- calls ----

    def _member(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Object):
            return owner[name] if name in owner else self._world.attribute(owner, name)
        for kind, methods in known.METHODS.items():
            if isinstance(owner, kind):
                return self._method(owner, name) if name in methods else self._no_method(owner)
        return self._world.attribute(owner, name)

    def _no_method(self, owner: Any) -> Any:
        """A method that is not known; one of a list or dictionary might have changed it."""

        def call(node: ast.Call, _values: list[Any], _named: dict[str, Any]) -> Any:
            self._world.lost(node)
            return UNKNOWN

        return UNKNOWN if isinstance(owner, str) else Builtin(call)

    def _method(self, owner: Any, name: str) -> Builtin:
        def call(node: ast.Call, values: list[Any], named: dict[str, Any]) -> Any:
            if name == "append":
                if len(owner) < known.ELEMENTS_MAX:
                    owner.append(values[0] if values else UNKNOWN)
                else:
                    self._world.lost(node)
                return None
            if name in ("extend", "update"):
                more = self._try(len, values[0]) if len(values) == 1 else len(named)
                if not isinstance(more, int) or more + len(owner) > known.ELEMENTS_MAX:
                    self._world.lost(node)
                    return UNKNOWN
                return self._try(getattr(owner, name), *values, **named)
            if not all(map(known.is_plain, (*values, *named.values()))) and name in known.PLAIN:
                return UNKNOWN
            if name == "format" and known.WIDE_BRACES.search(owner):
                return UNKNOWN
            if name not in ("get", "pop"):
                self.cost(len(owner))
            if name in ("keys", "values", "items"):
                return [*getattr(owner, name)()]
            return self._try(getattr(owner, name), *values, **named)

        return Builtin(call)

    def _call(self, node: ast.Call, scope: Scope) -> Any:
        function = self.value(node.func, scope)
        values, is_whole = self._elements(node.args, scope)
        named: dict[str, Any] = {}
        for word in node.keywords:
            value = self.value(word.value, scope)
            if word.arg is not None:
                named[word.arg] = value
            elif isinstance(value, dict) and not isinstance(value, Object):
                self.cost(len(value))
                named |= {key: one for key, one in value.items() if isinstance(key, str)}
            else:
                is_whole = False
        if not is_whole and isinstance(function, Builtin | Class | Function):
            self._world.lost(node)
        if isinstance(node.func, ast.Name) and function is UNKNOWN and node.func.id in known.SIMPLE:
            return self._try(known.SIMPLE[node.func.id], *values, **named)
        if isinstance(function, Builtin):
            return function.function(node, values, named)
        if isinstance(function, Class):
            return self._world.make(node, function, values, named)
        if isinstance(function, Function):
            return self.call(function, values, named)
        self._world.strange(node)
        return UNKNOWN
