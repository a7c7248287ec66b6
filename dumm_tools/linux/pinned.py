"""Import Python modules from where they were when this process started, whatever is mounted there
later.

In another mount namespace, the paths in sys.path may show anything. A directory that was opened
before stays on the mount that it was opened on, and so do files opened relative to it (openat(2)).
`pin` makes all later imports use such directories. C extensions are loaded by the dynamic loader,
which takes paths only; it gets the root directory of before while it does so (chroot(2)).
"""

from __future__ import annotations

import _imp
import os
import signal
import stat
import sys
from importlib import machinery
from types import ModuleType
from typing import Any


def pin() -> None:
    """Resolve later imports to the modules that would be imported now. The first call counts."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
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

    def open(self, path: str) -> int:
        """Open a file as it was; FileNotFoundError also if it is in none of the directories."""
        found = self.find(path)
        if found is None:
            raise FileNotFoundError(path)
        return os.open(found[1], os.O_RDONLY | os.O_CLOEXEC, dir_fd=found[0])

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
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

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
                    loader: Any = _Extension(self._root, base + suffix)
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
    """A loader of C extensions, and of the libraries that they depend on.

    dlopen(3) would find them by a path relative to a directory, too. But it makes that absolute. If
    the directory is unreachable from the root, glibc reads all directories above it for that, and
    since 2.41 waits forever for a lock that it has not initialized.
    """

    def __init__(self, root: int, path: str) -> None:
        self._root = root
        self._path = path

    def create_module(self, spec: machinery.ModuleSpec) -> ModuleType:
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # A signal handler that raises an exception must not leave us in the wrong root.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            os.fchdir(self._root)
            path = self._path if _chroot() else f".{self._path}"
            return _imp.create_dynamic(machinery.ModuleSpec(spec.name, None, origin=path))
        finally:
            os.fchdir(root)
            _chroot()
            os.fchdir(here)
            os.close(root)
            os.close(here)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def exec_module(self, module: ModuleType) -> None:
        _imp.exec_dynamic(module)


def _chroot() -> bool:
    """Make the current directory the root; False without the right to. Then no mount namespace has
    been entered, which takes the same right (setns(2)), and the root is still the same."""
    try:
        os.chroot(".")
    except PermissionError:
        return False
    return True
