"""A package whose own code runs when it is first needed, for those who want one module of it.

To import `package.module` is to run the package's __init__ first, and that may import everything
else in it. This is importlib.util.LazyLoader for packages: the standard one runs the __init__ as
soon as the import system asks for __path__, before any module in it can be imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

_lock = threading.RLock()
#: What a module's __dict__ is, for those that have another one in front of it.
_names: Any = vars(ModuleType)["__dict__"].__get__


class _Package(ModuleType):
    """A package until its __init__ has run; then it is a plain module."""

    def __getattr__(self, name: str) -> Any:
        # `from package import module`, and `package.module` as the __init__ would have left it.
        if not name.startswith("__") and importlib.util.find_spec(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        with _lock:
            if self in _beginning:  # the __init__ itself asks for what it has not made yet
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            _run(self)
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        _run(self)
        return list(self.__dict__)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        _run(self)
        names: dict[str, Any] = _names(self)
        return names


#: Those whose __init__ runs now, in the thread that holds the lock.
_beginning: set[ModuleType] = set()


def package(name: str) -> None:
    """Have sys.modules hold the package `name`; what is there already stays as it is.
    ModuleNotFoundError."""
    with _lock:
        if name in sys.modules:
            return
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        made = importlib.util.module_from_spec(spec)
        made.__class__ = _Package
        sys.modules[name] = made


def _run(package: _Package) -> None:
    """Run the package's __init__. Other threads that want something of it wait for its end."""
    with _lock:
        if type(package) is not _Package or package in _beginning:
            return
        assert package.__spec__
        assert package.__spec__.loader
        _beginning.add(package)
        try:
            package.__spec__.loader.exec_module(package)
        finally:
            _beginning.remove(package)
        package.__class__ = ModuleType  # type: ignore[assignment]
