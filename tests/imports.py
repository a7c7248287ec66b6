"""The imports within dumm_tools, read from the sources, and a drawing of them:

python tests/imports.py [--modules] | dot -Tsvg -o imports.svg
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "dumm_tools"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
#: The folders, from the ground up: a module imports from its own floor and from lower ones. Modules
#: that are not in a folder are on floor ".".
FLOORS = (
    *("linux", ".", "trees", "importing", "agent", "running"),
    *("images", "net", "files", "guests", "labs", "session", "cli", "api", "testing", "_docs"),
)


def floor(module: str) -> str:
    """The folder of a module, "." for none; `_docs` is above all."""
    folders = module.split(".")[1:]
    if folders and ((PACKAGE / folders[0]).is_dir() or folders[0] == "_docs"):
        return folders[0]
    return "."


def imports(path: Path, *, types: bool = False) -> Iterator[str]:
    """The full names of everything that a module imports, anywhere in it; those for type checking
    only with `types`."""
    tree = ast.parse(path.read_text())
    unseen = [
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types
        for statement in node.body
        for inner in ast.walk(statement)
    ]
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES or f"{inner}.__init__" in MODULES else node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("importlib."):
            constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
            yield from (name for name in constants if isinstance(name, str))


def ours(module: str) -> str:
    """The name of a module, with `dumm_tools.agent.__init__` as `dumm_tools.agent`."""
    return module.removesuffix(".__init__")


def ours_among(path: Path) -> set[str]:
    """The modules of the package that a module imports, also those for type checking only. The
    package itself has the names of the library, which it imports when they are used."""
    if path == PACKAGE / "__init__.py":
        return set()
    return {ours(name) for name in imports(path, types=True) if name.split(".")[0] == "dumm_tools"}


def dot(modules: bool) -> str:
    """The graph of the folders or modules for dot(1), lower floors below. Imports from a higher
    floor are red."""
    edges = {
        (ours(module), name)
        for module, path in MODULES.items()
        for name in ours_among(path)
        if name != "dumm_tools"
    }
    if not modules:
        edges = {(floor(a), floor(b)) for a, b in edges if floor(a) != floor(b)}
    lines = ["digraph imports {", '  node [shape=box, fontname="sans-serif"]; rankdir=TB;']
    lines += ["  edge [style=invis];", f"  {' -> '.join(map(_quoted, reversed(FLOORS)))};"]
    lines += ["  edge [style=solid];"]
    if modules:
        lines[2:] = ["  edge [style=solid];"]
        for each in FLOORS:
            inside = sorted(m for m in map(ours, MODULES) if floor(m) == each and m != "dumm_tools")
            lines.append(f"  subgraph {_quoted(f'cluster {each}')} {{ label={_quoted(each)};")
            lines += [f"    {_quoted(m)} [label={_quoted(m.rpartition('.')[2])}];" for m in inside]
            lines.append("  }")
    for a, b in sorted(edges):
        up = FLOORS.index(b if not modules else floor(b)) > FLOORS.index(
            a if not modules else floor(a)
        )
        lines.append(f"  {_quoted(a)} -> {_quoted(b)}{' [color=red]' if up else ''};")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return f'"{text}"'


if __name__ == "__main__":
    sys.stdout.write(dot("--modules" in sys.argv[1:]))
