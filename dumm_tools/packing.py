"""How kernel packs are made: from Debian's packages, from a directory, from a plain binary.

Whatever it comes from, a pack gets the same layout, with only what the kernel needs to run.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from dumm_tools import apt, cache, elf, kernel, names, program, tree
from dumm_tools.errors import DummError, NotFound

Report = Callable[[str], None]

#: Tried in this order when no suite is named: newest first.
SUITES = ("sid", "testing", "stable", "oldstable")
_ALIASES = {"unstable": "sid"}
_PACKAGES = ("user-mode-linux", "libc6", "libgcc-s1")
_RELEASE = re.compile(r"\d+\.\d+\S*")
_LIBRARY_DIRS = (
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "lib64",
    "usr/lib",
    "lib",
)
_MODULE_DIRS = ("usr/lib/uml/modules", "lib/uml/modules", "usr/lib/modules", "lib/modules")


@dataclass(frozen=True, slots=True)
class _Source:
    """A kernel before it is packed. `loader`: its file and the path the binary knows it by."""

    root: str
    binary: str
    loader: tuple[str, str] | None
    release: str
    libraries: tuple[str, ...]


def fetch(
    suite: str | None = None,
    name: str | None = None,
    *,
    mirror: str | None = None,
    allow_expired: bool = False,
    may_exist: bool = False,
    progress: Report | None = None,
    warn: Report | None = None,
) -> str:
    """Make a pack of a Debian suite's user-mode-linux and its libc; returns the pack's name.

    Without a suite it is the newest that can be had; one with an expired Release file is
    passed over with a warning. Conflict when the pack exists, unless `may_exist`.
    """
    if name is not None:
        names.pack(name, "kernel name")
    for each in (suite,) if suite else ():
        apt.check_source(each, mirror or apt.DEFAULT_MIRROR)
    known = name or _known_name(suite, may_exist)
    if known is not None and cache.find("kernels", known):
        with cache.build("kernels", known, may_exist=may_exist):
            return known  # build() has raised the Conflict, or there is nothing to do
    with cache.scratch("kernels", "fetch") as work:
        lists = _open(work, suite, mirror, allow_expired, progress, warn)
        name = name or names.pack(lists.codename, "suite name")
        with cache.build("kernels", name, may_exist=may_exist, progress=progress) as target:
            if target is not None:
                _fetch_into(target, work, lists, progress)
    return name


def import_(path: str, name: str | None = None, *, may_exist: bool = False) -> str:
    """Make a pack of a directory with a UML kernel in it, or of a plain UML binary.

    Returns the pack's name: by default that of the directory, or `linux-RELEASE`.
    """
    if name is not None:
        names.pack(name, "kernel name")
    if not os.path.exists(path):
        raise NotFound(f"no such file '{path}'")
    real = os.path.realpath(path)
    with cache.scratch("kernels", "import") as work:
        if os.path.isdir(real):
            source = _inspect_root(real, work)
            name = name or names.pack(os.path.basename(os.path.abspath(path)), "kernel name")
        else:
            source = _inspect_binary(real)
            name = name or names.pack(f"linux-{source.release}", "kernel name")
        with cache.build("kernels", name, may_exist=may_exist) as target:
            if target is not None:
                facts = {k: v for k, v in _old_facts(real).items() if k != "release"}
                _assemble(source, target, facts)
    return name


def release_of(binary: str) -> str:
    """The release of a plain UML binary of this host: it says so itself."""
    return _inspect_binary(os.path.realpath(binary)).release


def _known_name(suite: str | None, may_exist: bool) -> str | None:
    """The name that a fetch will choose, where that can be told without the network."""
    if suite is not None:
        suite = _ALIASES.get(suite, suite)
        return None if suite in SUITES and suite != "sid" else suite
    if not may_exist:
        return None
    # "Some kernel of Debian's" is what a Makefile asks for that names no suite.
    packs = [p for p in kernel.list_() if p.suite is not None and p.suite == p.name]
    return max(packs, key=kernel.order).name if packs else None


def _open(
    work: str,
    suite: str | None,
    mirror: str | None,
    allow_expired: bool,
    progress: Report | None,
    warn: Report | None,
) -> apt.Tree:
    """The package lists of the suite named, or of the newest usable one that has a UML kernel."""
    mirror = mirror or apt.host_mirror()
    last: DummError | None = None
    for each in (suite,) if suite else SUITES:
        directory = os.path.join(work, f"apt-{each}")
        os.mkdir(directory)
        try:
            lists = apt.open_suite(
                directory,
                _ALIASES.get(each, each),
                mirror=mirror,
                allow_expired=allow_expired,
                progress=progress,
            )
            if apt.has(lists, _PACKAGES[0]):
                return lists
            last = NotFound(f"suite '{each}' has no {_PACKAGES[0]}")
        except (apt.Expired, NotFound) as e:
            last = e
        if suite is not None:
            raise last
        if warn and isinstance(last, apt.Expired):
            warn(f"{last}, trying an older suite; {last.hint}")
    raise last or NotFound("no suite to fetch from")


def _fetch_into(target: str, work: str, lists: apt.Tree, progress: Report | None) -> None:
    debs = apt.download(lists, _PACKAGES, progress)
    root = os.path.join(work, "root")
    os.mkdir(root)
    for deb in debs:
        if progress:
            progress(f"unpacking {os.path.basename(deb)}")
        apt.unpack(deb, root)
    facts = {"suite": lists.codename, "date": lists.date, "version": apt.version(debs[0])}
    _assemble(_inspect_root(root, work), target, facts, move=True)


def _inspect_root(root: str, work: str) -> _Source:
    """Find the kernel in a directory, and what it loads from there."""
    binary = next((b for b in kernel.BINARIES if os.path.isfile(_inside(root, b))), None)
    if binary is None:
        raise DummError(f"'{root}' is no kernel pack: there is no {kernel.BINARIES[0]} in it")
    path = _inside(root, binary)
    wanted = elf.interpreter(path)
    if wanted is None:
        return _Source(root, path, None, _run_for_release([path]), ())
    loader = _inside(root, wanted)
    if not os.path.isfile(loader):  # Debian's libc6 leaves the link /lib64 to another package
        loader = _inside(root, f"usr{wanted}")
    if not os.path.isfile(loader):
        raise DummError(f"'{root}' lacks the kernel's loader, {wanted}")
    elf.interpreter(loader)
    places = [_inside(root, each) for each in _LIBRARY_DIRS]
    search = ":".join(dict.fromkeys(p for p in places if os.path.isdir(p)))
    libs = _search(loader, search, path, wanted)
    for lib in libs:
        if os.path.commonpath([os.path.realpath(root), lib]) != os.path.realpath(root):
            raise DummError(f"'{root}' lacks the library '{os.path.basename(lib)}'")
    libs += [p for p in (f"{place}/{kernel.UNWINDER}" for place in places) if os.path.isfile(p)][:1]
    release = _run_for_release([loader, "--library-path", search, path])
    return _Source(root, path, (loader, wanted), release, tuple(libs))


def _search(loader: str, search: str, binary: str, wanted: str) -> list[str]:
    """The libraries that `binary` needs, by the loader's own account."""
    found = []
    for line in program.run([loader, "--library-path", search, "--list", binary]).splitlines():
        name, arrow, place = line.strip().partition(" => ")
        path = place.rpartition(" (0x")[0]
        if place == "not found":
            raise DummError(f"the kernel lacks the library '{name}'")
        if arrow and name != wanted:
            found.append(os.path.join(os.path.realpath(os.path.dirname(path)), name))
    return found


def _inspect_binary(path: str) -> _Source:
    wanted = elf.interpreter(path)
    if not os.access(path, os.X_OK):
        raise DummError(f"'{path}' is not executable", hint=f"chmod +x {path}")
    release = _run_for_release([path])
    libs = kernel.libraries(wanted, path) if wanted else []
    loader = (os.path.realpath(wanted), wanted) if wanted else None
    return _Source("/", path, loader, release, tuple(host for _, host in libs))


def _run_for_release(argv: list[str]) -> str:
    """Run a kernel with --version: proof that it runs here, and its release."""
    try:
        text = program.run([*argv, "--version"], no_aslr=True).strip()
    except program.ProgramFailed as e:
        raise DummError(f"the kernel '{argv[-1]}' does not run: {e}") from None
    if not _RELEASE.fullmatch(text):
        raise DummError(f"'{argv[-1]}' is no UML kernel")
    return text


def _assemble(source: _Source, target: str, facts: dict[str, str], *, move: bool = False) -> None:
    """Lay the pack out in the empty directory `target`."""
    import json

    usr_bin = os.path.join(target, "usr/bin")
    libs = os.path.join(target, "usr/lib/x86_64-linux-gnu")
    os.makedirs(usr_bin)
    os.makedirs(libs)
    _copy_program(source.binary, os.path.join(usr_bin, "linux.uml"))
    for lib in source.libraries:
        _copy_program(lib, os.path.join(libs, os.path.basename(lib)))
    if source.loader:
        # Where the binary looks for it, seen through the links below.
        place = os.path.join(target, "usr", source.loader[1].removeprefix("/usr").lstrip("/"))
        os.makedirs(os.path.dirname(place), exist_ok=True)
        _copy_program(source.loader[0], place)
    modules = os.path.join(target, "usr/lib/uml/modules", source.release)
    os.makedirs(os.path.dirname(modules))
    found = _modules(source)
    if found and move:
        os.rename(found, modules)
    elif found:
        os.mkdir(modules)
        tree.copy(found, modules)
    else:
        os.mkdir(modules)
    os.makedirs(os.path.join(target, "usr/lib64"), exist_ok=True)
    for link in ("bin", "lib", "lib64"):
        os.symlink(f"usr/{link}", os.path.join(target, link))
    _copy_licences(source.root, target)
    with open(os.path.join(target, "pack.json"), "x", encoding="utf-8") as file:
        json.dump({"release": source.release, **facts}, file, indent=1, sort_keys=True)
        file.write("\n")
    _verify(source, target)


def _verify(source: _Source, target: str) -> None:
    """Nothing gets a name in the cache that does not run."""
    argv = [os.path.join(target, "usr/bin/linux.uml")]
    if source.loader:
        loader = os.path.join(target, source.loader[1].lstrip("/"))
        libs = os.path.join(target, "usr/lib/x86_64-linux-gnu")
        argv = [loader, "--library-path", libs, *argv]
    if _run_for_release(argv) != source.release:
        raise DummError("the packed kernel does not run as the original does")


def _copy_program(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)


def _modules(source: _Source) -> str | None:
    """The directory with the modules of the kernel's release."""
    places = [os.path.join(source.root, each) for each in _MODULE_DIRS]
    if source.root == "/":
        beside = os.path.join(os.path.dirname(source.binary), "../lib/uml/modules")
        places = [os.path.normpath(beside), kernel.MODULES]
    for place in places:
        path = os.path.join(_inside(source.root, place.removeprefix(source.root)), source.release)
        if os.path.isdir(path):
            return path
    return None


def _copy_licences(root: str, target: str) -> None:
    for package in _PACKAGES:
        path = _inside(root, f"usr/share/doc/{package}/copyright")
        if os.path.isfile(path):
            place = os.path.join(target, "usr/share/doc", package)
            os.makedirs(place)
            shutil.copyfile(path, os.path.join(place, "copyright"))


def _old_facts(path: str) -> dict[str, str]:
    return kernel.facts(path) if os.path.isdir(path) else {}


def _inside(root: str, path: str) -> str:
    """`path` below `root` with its links resolved as if `root` were the root directory."""
    if root == "/":
        return os.path.realpath(os.path.join("/", path))
    rest = path.split("/")[::-1]
    at: list[str] = []
    links = 0
    while rest:
        part = rest.pop()
        if part == "..":
            del at[-1:]
        elif part not in ("", "."):
            here = os.path.join(root, *at, part)
            if not os.path.islink(here):
                at.append(part)
                continue
            links += 1
            if links > 40:
                raise DummError(f"too many symbolic links in '{path}'")
            to = os.readlink(here)
            if to.startswith("/"):
                at.clear()
            rest += to.split("/")[::-1]
    return os.path.join(root, *at)
