"""Evaluation of a small part of Python: enough for scripts that build networks in loops, and
nothing that could reach anything else."""

from __future__ import annotations

import ast
from typing import Any

from dumm_tools.errors import Usage
from dumm_tools.importing.expressions import Expressions
from dumm_tools.importing.pyvalues import (
    UNKNOWN,
    Builtin,
    Class,
    Function,
    Parent,
    Scope,
    World,
    truth,
)

_DEEPEST = 40
#: Where a scope has the names that its function declares as those of the scope around it.
_OUTER = "global"


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Evaluator(Expressions):
    """Runs statements."""

    def __init__(self, world: World, where: str) -> None:
        super().__init__(world, where)
        self._depth = 0

    def run(self, body: list[ast.stmt], scope: Scope) -> None:
        """Run statements."""
        for statement in body:
            self._step(statement)
            self._statement(statement, scope)

    def _statement(self, node: ast.stmt, scope: Scope) -> None:
        if isinstance(node, ast.Expr):
            self.value(node.value, scope)
        elif isinstance(node, ast.Assign):
            value = self.value(node.value, scope)
            for target in node.targets:
                self._assign(target, value, scope)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._assign(node.target, self.value(node.value, scope), scope)
        elif isinstance(node, ast.AugAssign):
            old = self.value(ast.copy_location(_loaded(node.target), node), scope)
            self._assign(
                node.target, self._computed(node.op, old, self.value(node.value, scope)), scope
            )
        elif isinstance(node, ast.FunctionDef):
            scope[node.name] = Function(node, scope)
        elif isinstance(node, ast.ClassDef):
            self.cost(len(node.body))
            methods = {
                f.name: Function(f, scope) for f in node.body if isinstance(f, ast.FunctionDef)
            }
            bases = tuple(self.value(base, scope) for base in node.bases)
            scope[node.name] = Class(node, methods, bases)
        elif isinstance(node, ast.For):
            self._for(node, scope)
        elif isinstance(node, ast.If):
            self._if(node, scope)
        elif isinstance(node, ast.While):
            self._while(node, scope)
        elif isinstance(node, ast.Try):
            self._try_finally(node, scope)
        elif isinstance(node, ast.With):
            for item in node.items:
                value = self.value(item.context_expr, scope)
                if item.optional_vars is not None:
                    self._assign(item.optional_vars, value, scope)
            self.run(node.body, scope)
        elif isinstance(node, ast.Assert):
            self.value(node.test, scope)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            self.cost(len(node.names))
            scope.setdefault(_OUTER, set()).update(node.names)
        elif isinstance(node, ast.Return):
            raise _Return(None if node.value is None else self.value(node.value, scope))
        elif isinstance(node, ast.Break):
            raise _Break
        elif isinstance(node, ast.Continue):
            raise _Continue
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.cost(len(node.names))
            for name in node.names:
                scope.setdefault((name.asname or name.name).partition(".")[0], UNKNOWN)
        elif not isinstance(node, ast.Pass | ast.Delete | ast.AnnAssign):
            self._world.skipped(node, scope)

    def _for(self, node: ast.For, scope: Scope) -> None:
        values = self._iterable(self.value(node.iter, scope))
        if values is None:
            self._world.skipped(node, scope)
            return
        for value in values:
            self._step(node)
            self._assign(node.target, value, scope)
            if not self._round(node, scope):
                return
        self.run(node.orelse, scope)

    def _round(self, node: ast.For | ast.While, scope: Scope) -> bool:
        """Run the body of a loop once; False if it has left the loop."""
        try:
            self.run(node.body, scope)
        except _Break:
            return False
        except _Continue:
            pass
        return True

    def _try_finally(self, node: ast.Try, scope: Scope) -> None:
        """Run what is run if there is no exception."""
        try:
            self.run(node.body, scope)
            self.run(node.orelse, scope)
        except (_Return, _Break, _Continue):
            self.run(node.finalbody, scope)
            raise
        self.run(node.finalbody, scope)

    def _if(self, node: ast.If, scope: Scope) -> None:
        test = truth(self.value(node.test, scope))
        if test is not UNKNOWN:
            self.run(node.body if test else node.orelse, scope)
        elif self._world.skipped(node, scope):
            self.run(node.body, scope)

    def _while(self, node: ast.While, scope: Scope) -> None:
        while True:
            self._step(node)
            test = truth(self.value(node.test, scope))
            if test is UNKNOWN:
                self._world.skipped(node, scope)
                return
            if not test:
                self.run(node.orelse, scope)
                return
            if not self._round(node, scope):
                return

    def call(self, function: Function, values: list[Any], named: dict[str, Any]) -> Any:
        """Call a function of the script."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Usage(f"{self._where}:{function.node.lineno}: functions are nested too deeply")
        self.cost(len(function.scope))
        scope = {**function.scope, **self._parameters(function, values, named)}
        scope.pop(_OUTER, None)
        if function.first is not None:
            parent = Parent(function.first, function.rank)
            scope["super"] = Builtin(lambda _node, _values, _named: parent)
        try:
            if isinstance(function.node, ast.Lambda):
                return self.value(function.node.body, scope)
            self.run(function.node.body, scope)
            return None
        except _Return as e:
            return e.value
        finally:
            self._depth -= 1
            for name in scope.get(_OUTER, ()):
                function.scope[name] = scope.get(name, UNKNOWN)

    def _parameters(self, function: Function, values: list[Any], named: dict[str, Any]) -> Scope:
        parameters = function.node.args
        if function.first is not None:
            values = [function.first, *values]
        names = [each.arg for each in (*parameters.posonlyargs, *parameters.args)]
        self.cost(len(names) + len(parameters.kwonlyargs) + len(named))
        scope: Scope = {name: UNKNOWN for name in names}
        for name, default in zip(reversed(names), reversed(parameters.defaults), strict=False):
            scope[name] = self.value(default, function.scope)
        for each, wanted in zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True):
            scope[each.arg] = UNKNOWN if wanted is None else self.value(wanted, function.scope)
        scope.update(zip(names, values, strict=False))
        if parameters.vararg is not None:
            scope[parameters.vararg.arg] = tuple(values[len(names) :])
        rest = {name: value for name, value in named.items() if name not in scope}
        scope.update({name: value for name, value in named.items() if name in scope})
        if parameters.kwarg is not None:
            scope[parameters.kwarg.arg] = rest
        return scope


def _loaded(target: ast.expr) -> ast.expr:
    """The target of an assignment as an expression."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    if isinstance(target, ast.Attribute):
        return ast.Attribute(target.value, target.attr, ast.Load())
    if isinstance(target, ast.Subscript):
        return ast.Subscript(target.value, target.slice, ast.Load())
    return target
