"""YAML from others, with the line of each value, and without tags, bombs and surprises.

Scalars stay as they are written: `no` and `1.10` are text, and only null is None.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dumm_tools.errors import DummError, Usage

#: The parser in Python reads some 100 KB a second.
SIZE_MAX = 1 << 20
#: Values and characters, with those that aliases repeat.
_VALUES_MAX = 100_000
_TEXT_MAX = 16 * SIZE_MAX
_DEEPEST = 60
_NULL = "tag:yaml.org,2002:null"


class Value(NamedTuple):
    """A value: text, None, a list of values, or a dictionary of them by name."""

    data: Any
    line: int

    @property
    def text(self) -> str:
        """The value as text; nothing for null."""
        return self.data if isinstance(self.data, str) else ""

    @property
    def items(self) -> list[Value]:
        """The values of a list; a single one counts as a list."""
        if self.data is None:
            return []
        return self.data if isinstance(self.data, list) else [self]

    @property
    def keys(self) -> dict[str, Value]:
        """The values of a dictionary; none for everything else."""
        return self.data if isinstance(self.data, dict) else {}

    def get(self, *names: str) -> Value:
        """A value in nested dictionaries; null if there is none."""
        found = self
        for name in names:
            found = found.keys.get(name, Value(None, found.line))
        return found


def parse(text: str, where: str) -> Value:
    """Read one document. Usage names the line of an error, DummError a missing library."""
    if len(text) > SIZE_MAX:
        raise Usage(f"'{where}' is larger than {SIZE_MAX >> 10} KiB")
    try:
        import yaml
    except ImportError:
        raise DummError(
            "reading YAML needs PyYAML",
            hint="apt install python3-yaml, or pip install 'dumm-tools[import]'",
        ) from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        problem = getattr(e, "problem", None) or str(e).partition("\n")[0]
        raise Usage(f"{place}: {problem}") from None
    except (RecursionError, ValueError, OverflowError):
        raise Usage(f"{where}: nested too deeply, or not YAML") from None
    if node is None:
        return Value(None, 1)
    return _Converter(where).value(node, 0)


def length(value: Value) -> int:
    """The characters of a value, and some for each value in it."""
    inner = value.data if isinstance(value.data, list) else value.keys.values()
    return 16 + len(value.text) + sum(map(length, inner)) + sum(map(len, value.keys))


class _Converter:
    def __init__(self, where: str) -> None:
        self._where = where
        self._count = self._length = 0

    def value(self, node: Any, depth: int) -> Value:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > _VALUES_MAX or depth > _DEEPEST:
            raise Usage(f"{self._where}:{line}: too many values, or nested too deeply")
        if node.id == "scalar":
            empty = node.tag == _NULL and not node.style
            return Value(None if empty else self._text(str(node.value), line), line)
        if node.id == "sequence":
            return Value([self.value(each, depth + 1) for each in node.value], line)
        return Value(self._pairs(node, depth), line)

    def _text(self, text: str, line: int) -> str:
        """Text that can be written to a file, and become an argument of a program."""
        self._length += len(text)
        if self._length > _TEXT_MAX:
            raise Usage(f"{self._where}:{line}: too much text, or the same too often")
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            text = "\0"
        if "\0" in text:
            raise Usage(f"{self._where}:{line}: characters that no file can have")
        return text

    def _pairs(self, node: Any, depth: int) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        own: dict[str, Value] = {}
        for key, each in node.value:
            name = self._text(key.value, key.start_mark.line + 1) if key.id == "scalar" else None
            if name is None:
                raise Usage(f"{self._where}:{key.start_mark.line + 1}: a key that is not text")
            found = self.value(each, depth + 1)
            if name == "<<" and not key.style:
                for other in found.items:
                    for name, value in other.keys.items():
                        merged.setdefault(name, value)
            elif name in own:
                raise Usage(f"{self._where}:{key.start_mark.line + 1}: there are two keys '{name}'")
            else:
                own[name] = found
        return {**merged, **own}
