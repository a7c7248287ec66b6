"""Import Python modules from where they were when this process started, whatever is mounted there
later.

In another mount namespace, the paths in sys.path may show anything. A directory that was opened
before stays on the mount that it was opened on, and so do files opened relative to it (openat(2)).
`pin` makes all later imports use such directories.
"""

from __future__ import annotations

import _imp
import os
import re
import stat
import sys
from importlib import machinery
from types import ModuleType
from typing import Any

#: Libraries that a C extension may depend on, because the process has loaded them already. The
#: loader would look up any others by path.
_LOADED = re.compile(rb"(libc|libm|libdl|libpthread|librt|libutil|libpython[\d.]+|ld-linux[\w-]*)")
_LIBRARY = re.compile(rb"[\w+.-]+?\.so[.\d]*(?=\0)")


def pin() -> None:
    """Resolve later imports to the modules that would be imported now."""
    # These depend on libraries, and modules imported later need them.
    import _ctypes  # noqa: F401
    import binascii  # noqa: F401
    import zlib  # noqa: F401

    sys.meta_path[:] = [machinery.BuiltinImporter, machinery.FrozenImporter, _Finder()]


class _Places:
    """The directories that modules come from, opened."""

    def __init__(self) -> None:
        self._opened: dict[str, int] = {}
        packages = (getattr(m, "__path__", None) for m in list(sys.modules.values()))
        wanted = {p for p in sys.path if p}
        wanted.update(p for path in packages if isinstance(path, list) for p in path)
        for path in sorted(map(os.path.abspath, wanted)):
            if self.find(path) is None:
                try:
                    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                    self._opened[path] = os.open(path, flags)
                except OSError:
                    continue  # a missing path, or an archive

    def find(self, path: str) -> tuple[int, str] | None:
        """A descriptor, and `path` relative to it."""
        place = path
        while place != "/":
            if place in self._opened:
                return self._opened[place], os.path.relpath(path, place)
            place = os.path.dirname(place)
        return None

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """Open a file as it was; FileNotFoundError also if it is in none of the directories."""
        found = self.find(path)
        if found is None:
            raise FileNotFoundError(path)
        return os.open(found[1], flags | os.O_CLOEXEC, dir_fd=found[0])

    def is_file(self, path: str) -> bool:
        """Whether there is a file with this name."""
        found = self.find(path)
        try:
            return found is not None and stat.S_ISREG(os.stat(found[1], dir_fd=found[0]).st_mode)
        except OSError:
            return False

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        with open(self.open(path), "rb") as file:
            return file.read()


class _Finder:
    """A finder for sys.meta_path (importlib.abc.MetaPathFinder)."""

    def __init__(self) -> None:
        self._places = _Places()

    def find_spec(
        self, name: str, path: Any = None, _target: ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        """Find a module; None if it does not exist."""
        tail = name.rpartition(".")[2]
        for directory in sys.path if path is None else path:
            base = os.path.join(os.path.abspath(directory), tail)
            package = f"{base}/__init__.py"
            if self._places.is_file(package):
                spec = self._source(name, package)
                spec.submodule_search_locations = [base]
                return spec
            for suffix in machinery.EXTENSION_SUFFIXES:
                if self._places.is_file(base + suffix):
                    loader: Any = _Extension(self._places, base + suffix)
                    return machinery.ModuleSpec(name, loader, origin=base + suffix)
            if self._places.is_file(f"{base}.py"):
                return self._source(name, f"{base}.py")
        return None

    def _source(self, name: str, path: str) -> machinery.ModuleSpec:
        spec = machinery.ModuleSpec(name, _Source(self._places, name, path), origin=path)
        spec.has_location = True
        return spec


class _Source(machinery.SourceFileLoader):
    """Python's own loader of sources and bytecode, except for how files are read."""

    def __init__(self, places: _Places, name: str, path: str) -> None:
        super().__init__(name, path)
        self._places = places

    def get_data(self, path: Any) -> bytes:
        return self._places.read(os.fspath(path))

    def path_stats(self, path: Any) -> Any:
        fd = self._places.open(os.fspath(path))
        try:
            found = os.fstat(fd)
        finally:
            os.close(fd)
        return {"mtime": found.st_mtime, "size": found.st_size}

    def set_data(self, path: Any, data: Any, *, _mode: int = 0o666) -> None:
        """Do not write bytecode."""


class _Extension:
    """A loader of C extensions without further dependencies."""

    def __init__(self, places: _Places, path: str) -> None:
        self._places = places
        self._path = path

    def create_module(self, spec: machinery.ModuleSpec) -> ModuleType:
        needed = set(_LIBRARY.findall(self._places.read(self._path)))
        own = os.fsencode(os.path.basename(self._path))
        if foreign := [n for n in needed if n != own and not _LOADED.match(n)]:
            text = foreign[0].decode(errors="replace")
            raise ImportError(f"{spec.name} needs {text}, which is not loaded", name=spec.name)
        # The loader takes a path; a relative one starts at the current directory.
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        directory, name = os.path.split(self._path)
        place = self._places.open(directory, os.O_PATH | os.O_DIRECTORY)
        try:
            os.fchdir(place)
            near = machinery.ModuleSpec(spec.name, None, origin=f"./{name}")
            return _imp.create_dynamic(near)
        finally:
            os.fchdir(here)
            os.close(place)
            os.close(here)

    def exec_module(self, module: ModuleType) -> None:
        _imp.exec_dynamic(module)
