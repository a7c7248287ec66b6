"""The configuration of a kernel that is built: the project's own (kernel.config), the fragments of
the user, and what the kernel's Kconfig made of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dumm_tools.errors import DummError, NotFound, Usage
from dumm_tools.images import features, kernel

#: The project's configuration.
OWN = os.path.join(os.path.dirname(__file__), "kernel.config")
#: The kernel's built-in parameters, in the directory of objects (CONFIG_BOOT_CONFIG_EMBED_FILE).
PARAMETERS = "guest.bootconfig"
_PARAMETERS = """kernel {
	bonding.max_bonds = 0
	dummy.numdummies = 0
	ifb.numifbs = 0
	fb_tunnels = none
}
"""
#: Options of ours that exclude others, one of which a fragment may prefer.
_CHOICES = frozenset({"CC_OPTIMIZE_FOR_SIZE", "DEBUG_INFO_NONE"})

_SET = re.compile(r'CONFIG_(\w+)=(y|m|n|-?\d+|0[xX][0-9a-fA-F]+|"(?:[^"\\]|\\.)*")')
_UNSET = re.compile(r"# CONFIG_(\w+) is not set")
_VERSIONS = re.compile(r"# Linux (\d+\.\d+) and (newer|older):")
_MODULES = "# With --modules:"
_FRAGMENT_MAX = 4 << 20


class Option(NamedTuple):
    """The value of an option, and the file that asks for it (None: ours)."""

    value: str
    file: str | None = None


def own(release: str, modules: bool) -> dict[str, str]:
    """Our options for a release of the kernel, without those that only other versions have, and
    with those that are `modules` or not."""
    number = kernel.release_number(release)[:2]
    applies, text = True, ""
    with open(OWN, encoding="utf-8") as file:
        for line in file:
            stripped = line.strip()
            if condition := _VERSIONS.fullmatch(stripped):
                limit = kernel.release_number(condition[1])
                applies = number >= limit if condition[2] == "newer" else number <= limit
            elif stripped == _MODULES:
                applies = modules
            elif not (_SET.fullmatch(stripped) or _UNSET.fullmatch(stripped)):
                applies = True
            text += line if applies else ""
    return parse(text, OWN)


def read(path: str) -> dict[str, str]:
    """The options in a file, without `CONFIG_`; those that are not set have the value `n`. Usage
    if it is not a configuration, NotFound if there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_FRAGMENT_MAX)
    except FileNotFoundError:
        raise NotFound(f"no such file '{path}'") from None
    except IsADirectoryError:
        raise Usage(f"'{path}' is a directory, not a file with options of the kernel") from None
    return parse(text, path)


def parse(text: str, path: str) -> dict[str, str]:
    """The options in the text of the file `path`. Usage if it is not a configuration."""
    options = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        found = _SET.fullmatch(line)
        if found:
            options[found[1]] = found[2]
        elif unset := _UNSET.fullmatch(line):
            options[unset[1]] = "n"
        elif line and not line.startswith("#"):
            raise Usage(
                f"{path}:{number}: not an option of the kernel: {line[:60]!r}",
                hint="a line is CONFIG_NAME=VALUE, or '# CONFIG_NAME is not set'",
            )
    return options


def fragments(paths: Sequence[str], modules: bool) -> dict[str, Option]:
    """The options in the user's files, of which the last wins. DummError if no guest could run
    with them, or if they ask for `modules` that will not be built."""
    options: dict[str, Option] = {}
    for path in paths:
        for name, value in read(path).items():
            options.pop(name, None)  # the order decides between members of a choice
            options[name] = Option(value, path)
    smp = options.get("SMP")
    if smp and smp.value == "y":
        raise DummError(
            f"{smp.file}: CONFIG_SMP=y: a guest's network interfaces do not work with it",
            hint="see SMP in dumm-fs(1)",
        )
    for name, option in options.items():
        if option.value == "m" and not modules:
            raise DummError(
                f"{option.file}: CONFIG_{name}=m: modules are only built with --modules"
            )
    for name in features.NEEDED:
        needed = options.get(name)
        if needed and needed.value != "y":
            raise DummError(f"{needed.file}: no guest can run without CONFIG_{name}=y")
    return options


def wanted(release: str, theirs: Mapping[str, Option], modules: bool) -> dict[str, Option]:
    """Our options for a release of the kernel, overridden by those of the user's files."""
    ours = own(release, modules).items()
    return {**{n: Option(value) for n, value in ours if n not in theirs}, **theirs}


def text(options: Mapping[str, Option]) -> str:
    """The options as a file for the kernel's `make alldefconfig`."""
    return "".join(f"CONFIG_{name}={option.value}\n" for name, option in options.items())


def write_parameters(objects: str) -> None:
    """Put our parameters for the kernel where make looks for them, unless they are there."""
    path = os.path.join(objects, PARAMETERS)
    try:
        with open(path, encoding="ascii") as file:
            if file.read() == _PARAMETERS:
                return
    except FileNotFoundError:
        pass
    with open(path, "w", encoding="ascii") as file:
        file.write(_PARAMETERS)


def failed(options: Mapping[str, Option], result: str) -> dict[str, Option]:
    """The options that have another value in the configuration file `result`, with that value."""
    actual = read(result)
    choices = _CHOICES if any(o.file for o in options.values()) else frozenset()
    return {
        name: Option(actual.get(name, "n"), option.file)
        for name, option in options.items()
        if actual.get(name, "n") != option.value and (option.file or name not in choices)
    }


def check(options: Mapping[str, Option], result: str, tree: str) -> list[str]:
    """Raise DummError, with a reason, for options of fragments that have not taken effect; return
    the names of ours that have not."""
    wrong = failed(options, result)
    theirs = {name: option for name, option in wrong.items() if option.file}
    if theirs:
        reasons = _reasons(theirs, options, tree)
        name, *others = theirs
        more = f" (nor did {', '.join(others)})" if others else ""
        raise DummError(
            f"{theirs[name].file}: CONFIG_{name}={options[name].value} did not take effect: "
            f"{reasons[name]}{more}"
        )
    return list(wrong)


def _reasons(
    wrong: Mapping[str, Option], options: Mapping[str, Option], tree: str
) -> dict[str, str]:
    depends = dict(_dependencies(tree, wrong))
    reasons = {}
    for name, actual in wrong.items():
        if name not in depends:
            reason = "this kernel has no such option"
        elif options[name].value == "n":
            reason = "another option selects it"
        elif actual.value not in ("n", "m"):
            reason = f"it is {actual.value}"
        elif depends[name]:
            reason = f"it depends on {depends[name]}"
        else:
            reason = "the kernel does not offer it here"
        reasons[name] = reason
    return reasons


def _dependencies(tree: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Those of the options that the Kconfig files of a tree define, and their own `depends on`."""
    heads = re.compile(rf"^(?:menu)?config ({'|'.join(map(re.escape, names))})$", re.M)
    for path in _kconfig_files(tree):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        for head in heads.finditer(text):
            body = re.split(r"^(?=\S)", text[head.end() + 1 :], maxsplit=1, flags=re.M)[0]
            body = body.partition("\thelp\n")[0].replace("\\\n", " ")
            found = re.findall(r"^\s+depends on (.+)$", body, re.M)
            yield head[1], " && ".join(" ".join(each.split()) for each in found)


def _kconfig_files(tree: str) -> Iterator[str]:
    for directory, folders, files in os.walk(tree):
        folders[:] = [f for f in folders if f not in (".git", "Documentation")]
        if directory == os.path.join(tree, "arch"):
            folders[:] = [f for f in folders if f in ("um", "x86")]
        yield from (os.path.join(directory, f) for f in files if f.startswith("Kconfig"))
