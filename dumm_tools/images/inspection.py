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
from dumm_tools.images import elf, kernel, kernel_banner, kernel_config, libraries, virtiofsd

#: The Debian packages of a kernel and of virtiofsd with their libraries.
LICENSED = ("user-mode-linux", "libc6", "libgcc-s1")
SERVER_LICENSED = ("virtiofsd", "libc6", "libgcc-s1", "libcap-ng0", "libseccomp2")
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


class Program(NamedTuple):
    """Descriptors of a program's files. `loader` comes with the path by which the binary refers to
    it; `libraries` and `licences` are by name."""

    binary: int
    loader: tuple[int, str] | None
    libraries: dict[str, int]
    licences: dict[str, int]


class Source(NamedTuple):
    """All parts of a pack: the kernel, the descriptor of its modules, the pack's virtiofsd if it
    has one. `config` is the kernel's configuration, if known, `facts` are those of an existing
    pack."""

    program: Program
    release: str
    modules: int | None
    config: dict[str, str] | None
    facts: dict[str, str]
    server: Program | None = None


class _Root:
    """A directory treated as the root directory; descriptors opened in it are closed with it."""

    def __init__(self, path: str, stack: contextlib.ExitStack, place: str | None = None) -> None:
        self.path = path
        self._stack = stack
        self._fd = self.own(os.open(place or path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def own(self, fd: int) -> int:
        """Have a descriptor closed at the end."""
        self._stack.callback(os.close, fd)
        return fd

    def directory(self, path: str) -> int | None:
        """A directory in it, or None."""
        return self._open(path, os.O_RDONLY | os.O_DIRECTORY)

    def below(self, path: str) -> _Root | None:
        """A directory in it as a root directory of its own, or None."""
        fd = self.directory(path)
        if fd is None:
            return None
        return _Root(os.path.join(self.path, path), self._stack, f"/proc/self/fd/{fd}")

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
        release = kernel_banner.release(binary, shown)
        facts = root.file("pack.json")
        modules = _first(root.directory(f"{place}/{release}") for place in _MODULE_DIRS)
        yield Source(
            _program(root, binary, shown, LICENSED),
            release,
            modules,
            _config(stack, binary, modules, root.file(kernel_config.FILE)),
            kernel.read_facts(facts) if facts is not None else {},
            _server(root),
        )


@contextlib.contextmanager
def of_server(path: str) -> Iterator[Program | None]:
    """The virtiofsd in the subdirectory of that name, None if there is none."""
    with contextlib.ExitStack() as stack:
        yield _server(_Root(path, stack))


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
        modules = _first(
            each.directory(f"{place}/{release}")
            for each, place in ((beside, "lib/uml/modules"), (root, kernel.MODULES))
        )
        file = beside.file(kernel_config.FILE.removeprefix("usr/"))
        yield Source(
            Program(binary, loader, found, _licences(root, LICENSED)),
            release,
            modules,
            _config(stack, binary, modules, file),
            {},
        )


def _config(
    stack: contextlib.ExitStack, binary: int, modules: int | None, file: int | None
) -> dict[str, str] | None:
    """The kernel's configuration; `file` is a copy of it from Debian's package."""
    inside = _Root("", stack, f"/proc/self/fd/{modules}") if modules is not None else None
    return kernel_config.find(binary, inside.file if inside else lambda _: None, file)


def _server(root: _Root) -> Program | None:
    below = root.below(virtiofsd.PLACE)
    binary = below.file(virtiofsd.BINARY) if below is not None else None
    if below is None or binary is None:
        return None
    shown = below.path + virtiofsd.BINARY
    if not virtiofsd.is_server(binary):
        raise DummError(f"'{shown}' is not a virtiofsd")
    return _program(below, binary, shown, SERVER_LICENSED)


def _program(root: _Root, binary: int, shown: str, licensed: tuple[str, ...]) -> Program:
    """A program in a directory, and what it loads from there. DummError if something is missing."""
    image = elf.image(binary, shown)
    name = libraries.loader(image, shown)
    loader = _loader(root, name) if name is not None else None
    found = _libraries(root, image, shown) if loader is not None else {}
    return Program(binary, loader, found, _licences(root, licensed))


def _first(found: Iterator[int | None]) -> int | None:
    return next((fd for fd in found if fd is not None), None)


def _loader(root: _Root, name: str) -> tuple[int, str]:
    # Debian's libc6 leaves the link /lib64 to another package.
    fd = _first(root.file(place) for place in (name, f"/usr{name}"))
    if fd is None:
        raise DummError(f"'{root.path}' lacks its program's loader, {name}")
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


def _licences(root: _Root, packages: tuple[str, ...]) -> dict[str, int]:
    found = {p: root.file(f"usr/share/doc/{p}/copyright") for p in packages}
    return {package: fd for package, fd in found.items() if fd is not None}
