"""Imports of libraries without what they import and we do not use."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def stand_ins(wanted: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Let imports inside find stand-ins for modules, with these attributes; one that is imported
    already is itself. A stand-in that is asked for anything else has it from the true module."""
    standing = {
        name: _stand_in(name, attributes)
        for name, attributes in wanted.items()
        if name not in sys.modules
    }
    sys.modules.update(standing)
    try:
        yield
    finally:
        for name, module in standing.items():
            _step_aside(name, module)


def _stand_in(name: str, attributes: Mapping[str, Any]) -> types.ModuleType:
    module = types.ModuleType(name)

    def other(attribute: str) -> object:
        if attribute.startswith("__"):  # the import system's own questions
            raise AttributeError(attribute)
        _step_aside(name, module)
        return getattr(importlib.import_module(name), attribute)

    vars(module).update(attributes, __getattr__=other)
    return module


def _step_aside(name: str, module: types.ModuleType) -> None:
    if sys.modules.get(name) is module:
        del sys.modules[name]
