"""Packages whose __init__ runs only when it is needed.

`import package.module` first runs the package's __init__, which may import everything else in the
package. Here it runs when somebody uses a name that it defines. This is importlib.util.LazyLoader
for packages: the standard one runs the __init__ as soon as the import system reads __path__, that
is, before any module of the package can be imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

_lock = threading.RLock()
#: Reads a module's real __dict__.
_names: Any = vars(ModuleType)["__dict__"].__get__


class _Package(ModuleType):
    """A package until its __init__ has run; then it is a plain module."""

    def __getattr__(self, name: str) -> Any:
        # For `from package import module`, and because the __init__ may import the module.
        if not name.startswith("__") and importlib.util.find_spec(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        with _lock:
            if self in _running:  # asked by the __init__ itself, which has not defined it yet
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


#: Packages whose __init__ is running, in the thread that holds the lock.
_running: set[ModuleType] = set()


def package(name: str) -> None:
    """Put the package `name` into sys.modules, unless it is there already. ModuleNotFoundError."""
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
    """Run the package's __init__, unless that has been done. Other threads wait."""
    with _lock:
        if type(package) is not _Package or package in _running:
            return
        assert package.__spec__
        assert package.__spec__.loader
        _running.add(package)
        try:
            package.__spec__.loader.exec_module(package)
        finally:
            _running.remove(package)
        package.__class__ = ModuleType  # type: ignore[assignment]
