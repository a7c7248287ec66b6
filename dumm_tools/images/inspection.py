"""Inspection of a kernel before it is packed: found in a directory, or a binary of this host.

A directory may come from anybody. Paths are resolved as if it were the root directory, so no link
in it leads out; files are copied later from the same descriptors that were inspected. None of it is
run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from dumm_tools.errors import DummError
from dumm_tools.images import elf, kernel, kernel_banner, libraries

LICENSED = ("user-mode-linux", "libc6", "libgcc-s1")
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR})
_LIBRARY_DIRS = (
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
)
_MODULE_DIRS = ("usr/lib/uml/modules", "lib/uml/modules", "usr/lib/modules", "lib/modules")


class Source(NamedTuple):
    """Descriptors of all parts of a pack. `loader` comes with the path by which the binary refers
    to it; `libraries` and `licences` are by name; `facts` are those of an existing pack."""

    binary: int
    loader: tuple[int, str] | None
    release: str
    libraries: dict[str, int]
    modules: int | None
    licences: dict[str, int]
    facts: dict[str, str]


class _Root:
    """A directory treated as the root directory; descriptors opened in it are closed with it."""

    def __init__(self, path: str, stack: contextlib.ExitStack) -> None:
        self.path = path
        self._stack = stack
        self._fd = self.own(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def own(self, fd: int) -> int:
        """Have a descriptor closed at the end."""
        self._stack.callback(os.close, fd)
        return fd

    def directory(self, path: str) -> int | None:
        """A directory in it, or None."""
        return self._open(path, os.O_RDONLY | os.O_DIRECTORY)

    def file(self, path: str) -> int | None:
        """A regular file in it, or None."""
        fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        return fd if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode) else None

    def _open(self, path: str, flags: int) -> int | None:
        from dumm_tools.linux import openat2

        try:
            return self.own(openat2.open_in_root(self._fd, path, flags))
        except OSError as e:
            if e.errno not in _NOT_THERE:
                e.filename = os.path.join(self.path, path)
                raise
            return None


@contextlib.contextmanager
def of_directory(path: str) -> Iterator[Source]:
    """The kernel in a directory, and the libraries it loads from there. DummError if there
    is none."""
    with contextlib.ExitStack() as stack:
        root = _Root(path, stack)
        found = ((place, root.file(place)) for place in kernel.BINARIES)
        place, binary = next((f for f in found if f[1] is not None), ("", None))
        if binary is None:
            raise DummError(f"'{path}' is not a kernel pack: it contains no {kernel.BINARIES[0]}")
        shown = os.path.join(path, place)
        image = elf.image(binary, shown)
        release = kernel_banner.release(binary, shown)
        name = libraries.loader(image, shown)
        loader = _loader(root, name) if name is not None else None
        facts = root.file("pack.json")
        yield Source(
            binary,
            loader,
            release,
            _libraries(root, image, shown) if loader is not None else {},
            _first(root.directory(f"{place}/{release}") for place in _MODULE_DIRS),
            _licences(root),
            kernel.read_facts(facts) if facts is not None else {},
        )


@contextlib.contextmanager
def of_binary(path: str) -> Iterator[Source]:
    """A plain UML binary, and the libraries of this host it loads. DummError if it is not a
    kernel."""
    with contextlib.ExitStack() as stack:
        binary = elf.opened(path)
        stack.callback(os.close, binary)
        image = elf.image(binary, path)
        release = kernel_banner.release(binary, path)
        name = libraries.loader(image, path)
        if not os.access(path, os.X_OK):
            raise DummError(f"'{path}' is not executable", hint=f"chmod +x {path}")
        # Accompanying files are searched for there and nowhere else.
        root = _Root("/", stack)
        beside = _Root(os.path.dirname(os.path.dirname(path)), stack)
        loader, found = None, {}
        if name is not None:
            loader = (root.own(elf.opened(libraries.loader_file(name, path))), name)
            for library in libraries.of_host(image, path):
                found[os.path.basename(library)] = root.own(elf.opened(library))
        yield Source(
            binary,
            loader,
            release,
            found,
            _first(
                each.directory(f"{place}/{release}")
                for each, place in ((beside, "lib/uml/modules"), (root, kernel.MODULES))
            ),
            _licences(root),
            {},
        )


def _first(found: Iterator[int | None]) -> int | None:
    return next((fd for fd in found if fd is not None), None)


def _loader(root: _Root, name: str) -> tuple[int, str]:
    # Debian's libc6 leaves the link /lib64 to another package.
    fd = _first(root.file(place) for place in (name, f"/usr{name}"))
    if fd is None:
        raise DummError(f"'{root.path}' lacks the kernel's loader, {name}")
    elf.image(fd, f"{root.path}{name}")
    return fd, name


def _libraries(root: _Root, image: elf.Image, shown: str) -> dict[str, int]:
    found: dict[str, int] = {}

    def find(name: str) -> tuple[str, elf.Image] | None:
        for place in _LIBRARY_DIRS:
            fd = root.file(f"{place}/{name}")
            if fd is not None:
                found[name] = fd
                return name, elf.image(fd, f"{root.path}/{place}/{name}")
        return None

    libraries.closure(image, shown, find)
    if found:
        find(libraries.UNWINDER)
    return found


def _licences(root: _Root) -> dict[str, int]:
    found = {p: root.file(f"usr/share/doc/{p}/copyright") for p in LICENSED}
    return {package: fd for package, fd in found.items() if fd is not None}
