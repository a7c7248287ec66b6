"""Which parts of a script matter, so that those that are not understood can be reported.

All of it is found in one pass: a loop of the script may come to the same part often, and parts may
contain each other.
"""

from __future__ import annotations

import ast
from bisect import bisect_left
from collections.abc import Collection

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
#: Methods that change the list or dictionary that they are called on.
_CHANGING = ("append", "extend", "insert", "update", "pop", "remove", "add", "setdefault")
#: In place of a variable, for statements that leave a function, or a round of a loop.
RETURN, BREAK = "return", "break"


class Parts:
    """The parts that use one of some names, and what parts change. Functions and classes of the
    script whose body matters matter by their own names, too: as `NAME`, methods as `.NAME`."""

    def __init__(self, tree: ast.Module, names: Collection[str]) -> None:
        self._parents: dict[ast.AST, ast.AST] = {}
        self._uses: dict[str, list[ast.AST]] = {}
        self._changes: list[tuple[int, int, str]] = []
        self._bound: set[ast.AST] = set()  # by loops
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                self._parents[child] = node
            self._see(node)
        self._changes.sort()
        self._matter: set[ast.AST] = set()
        #: Names that matter, those of methods and attributes with a dot.
        self.names = {*names, *(f".{name}" for name in names)}
        self._spread()

    def _see(self, node: ast.AST) -> None:
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            self._bound.add(node.target)
        elif isinstance(node, ast.Tuple | ast.List) and node in self._bound:
            self._bound.update(node.elts)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                self._uses.setdefault(node.id, []).append(node)
            elif node not in self._bound:
                self._change(node, node.id)
        elif isinstance(node, ast.Attribute | ast.Subscript):
            if isinstance(node, ast.Attribute):
                self._uses.setdefault(f".{node.attr}", []).append(node)
            if not isinstance(node.ctx, ast.Load):
                self._change(node, _root(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in _CHANGING:
                self._change(node, _root(node.func))
        elif isinstance(node, _DEFINITIONS):
            self._change(node, node.name)
        elif isinstance(node, ast.Return):
            self._change(node, RETURN)
        elif isinstance(node, ast.Break | ast.Continue):
            self._change(node, BREAK)

    def _change(self, node: ast.stmt | ast.expr, name: str) -> None:
        if name:
            self._changes.append((node.lineno, node.col_offset, name))

    def _spread(self) -> None:
        """Mark all parts around uses of the names, and around uses of what these define."""
        left = list(self.names)
        while left:
            for use in self._uses.get(left.pop(), ()):
                node: ast.AST | None = use
                while node is not None and node not in self._matter:
                    self._matter.add(node)
                    if isinstance(node, _DEFINITIONS) and not node.name.startswith("__"):
                        is_method = isinstance(self._parents.get(node), ast.ClassDef)
                        name = f".{node.name}" if is_method else node.name
                        if name not in self.names:
                            self.names.add(name)
                            left.append(name)
                    node = self._parents.get(node)

    def matters(self, node: ast.AST) -> bool:
        """Whether a part uses what matters."""
        return node in self._matter

    def changed(self, node: ast.stmt | ast.expr) -> list[str]:
        """The variables that a part assigns to or changes, except for those of loops; RETURN and
        BREAK."""
        begin = (node.lineno, node.col_offset)
        end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
        changes = self._changes
        return [
            name for *_, name in changes[bisect_left(changes, begin) : bisect_left(changes, end)]
        ]


def _root(node: ast.Attribute | ast.Subscript) -> str:
    """The variable that the object belongs to, if it is directly one."""
    return node.value.id if isinstance(node.value, ast.Name) else ""
