"""Running the kernel's make: out of tree, with its output in a log file, from which errors and
progress are shown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dumm_tools import proc
from dumm_tools.errors import DummError
from dumm_tools.images import toolchain

Report = Callable[[str], None]

#: Variables that would have make build something else, or elsewhere.
_NOT_TAKEN = re.compile(
    r"(KBUILD|KCONFIG|INSTALL|KDEB)_.*|ARCH|SUBARCH|CROSS_COMPILE|O|V|W|C|M|MO"
    r"|MAKEFLAGS|MFLAGS|GNUMAKEFLAGS|MAKELEVEL|MAKEOVERRIDES|LOCALVERSION"
)
_STEP = re.compile(r"  CC(?: \[M\])? +(\S+)")
_PLANNED = "echo '  CC "
_QUESTION = "Error in reading or end of file"
_ERROR = re.compile(r":\d+: (fatal )?error: |undefined reference to|multiple definition of")
_STOP = re.compile(rf"make(\[\d+\])?: \*\*\* |^ERROR: |^error: |{_QUESTION}")
_WARNING = re.compile(r":\d+: warning: |^WARNING: ")
_SHOWN = 20
_MAKER = {"KBUILD_BUILD_USER": "dumm-fs", "KBUILD_BUILD_HOST": "localhost"}


class Unconfigured(DummError):
    """make has a question about the configuration."""


class Tree(NamedTuple):
    """A kernel's source and the directory for what is made of it."""

    source: str
    objects: str
    log: str


def run(
    tree: Tree,
    targets: Sequence[str],
    *,
    jobs: int = 1,
    environment: Mapping[str, str] | None = None,
    progress: Report | None = None,
    show: Report | None = None,
    warnings: bool = False,
    total: int = 0,
) -> None:
    """Run make for some targets. Its errors (and `warnings`) are passed to `show`; DummError if it
    fails. Ctrl-C and SIGTERM end it, and leave a state from which it continues. `total`: how many
    files it will compile, if that is known."""
    compiled = 0
    errors: list[str] = []
    stops: list[str] = []
    argv = [*command(tree), f"-j{jobs}", *targets]

    def line(text: str) -> None:
        nonlocal compiled
        if step := _STEP.match(text):
            compiled += 1
            if progress:
                of = f" of {max(total, compiled)}" if total else ""
                progress(f"compiling ({compiled}{of}) {step[1]}")
        elif _ERROR.search(text):
            errors.append(text)
        elif _STOP.search(text):
            stops.append(text)
        elif warnings and show and _WARNING.search(text):
            show(text)

    status = proc.follow(argv, tree.log, line, env=_environment(environment or {}))
    if status == 0:
        return
    lines = errors or stops
    if show:
        for text in lines[:_SHOWN]:
            show(text)
    if any(_QUESTION in text for text in stops):
        raise Unconfigured("the configuration lacks an answer")
    if any("No space left on device" in text for text in lines):
        raise DummError("make failed: No space left on device")
    count = len(lines) - _SHOWN
    more = f"{count} more errors" if count > 0 else "all output"
    raise DummError("make failed", hint=f"{more}: {tree.log}")


def count(tree: Tree) -> int:
    """The number of files that `make linux` would compile, roughly."""
    found = 0

    def line(text: str) -> None:
        nonlocal found
        found += _PLANNED in text

    plan = f"{tree.log}.plan"
    try:
        proc.follow([*command(tree), "-n", "linux"], plan, line, env=_environment({}))
    finally:
        os.unlink(plan)
    return found


def command(tree: Tree) -> list[str]:
    """The beginning of make's command line for a tree."""
    return [
        *("make", "-C", tree.source, f"O={tree.objects}", "ARCH=um", "LOCALVERSION="),
        *("--no-print-directory", *toolchain.compiler()),
    ]


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if not _NOT_TAKEN.fullmatch(k)}
    # The kernel's version names its maker, who need not be known wherever the pack goes.
    return {**ours, "LC_ALL": "C", "PATH": toolchain.PATH, **_MAKER, **extra}
