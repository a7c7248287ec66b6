"""`--may-exist` with a name that is in use: Conflict, unless it is the name of what would be made.

Only what is asked for counts: a Debian with more packages than `--include` names is fine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NoReturn

from dumm_tools.errors import Conflict
from dumm_tools.images import cache, facts, kernel, suites
from dumm_tools.trees import diff

_STATUS = "var/lib/dpkg/status"
_BUSYBOX = ("bin/busybox", "usr/bin/busybox")
#: Suites whose names in os-release(5) are their own.
_CODENAME = re.compile(r"^VERSION_CODENAME=\"?(\w+)", re.MULTILINE)


def _refuse(what: str, reason: str) -> NoReturn:
    raise Conflict(f"{what} already exists, and {reason}", hint="choose another name with --name")


# ---- kernel packs ----


def need_fetched(name: str, suite: str | None) -> None:
    """Conflict if the pack `name` was not fetched from this suite, or (None) any."""
    what, known = f"kernel '{name}'", kernel.facts(cache.find("kernels", name) or "")
    if "source" in known:
        _refuse(what, f"was built from {known['source']}")
    if "suite" not in known:
        _refuse(what, "was not fetched from Debian")
    _need_suite(what, known["suite"], suite)


def _need_suite(what: str, known: str, suite: str | None) -> None:
    suite = suites.ALIASES.get(suite or known, suite or known)
    if suite != known and (suite == "sid" or suite not in suites.NEWEST_FIRST):
        _refuse(what, f"is of the suite '{known}', not '{suite}'")


def need_built(name: str, source: dict[str, str], what: str, suite: str | None = None) -> None:
    """Conflict if the pack `name` was not built from this source."""
    known = kernel.facts(cache.find("kernels", name) or "")
    if any(known.get(key) != source.get(key) for key in ("source", "source_id")):
        _refuse(f"kernel '{name}'", f"was not built from {what}")
    if "suite" in known:
        _need_suite(f"kernel '{name}'", known["suite"], suite)


def need_kernel(name: str, binary: int, path: str) -> None:
    """Conflict if the pack `name` has another kernel than the open file `binary`."""
    found = kernel.resolve(name)
    with open(f"{found.root}{found.binary}", "rb", buffering=0) as file:
        if not diff.same_data(file.fileno(), binary):
            _refuse(f"kernel '{name}'", f"is not the one in '{path}'")


# ---- masters ----


def need_busybox(name: str) -> None:
    """Conflict if the master `name` is not a busybox."""
    path = cache.find("masters", name) or ""
    if os.path.lexists(os.path.join(path, _STATUS)):
        _refuse(f"master '{name}'", "is a distribution")
    if not any(os.path.isfile(os.path.join(path, each)) for each in _BUSYBOX):
        _refuse(f"master '{name}'", "contains no busybox")


def need_debian(name: str, suite: str | None, include: Sequence[str]) -> None:
    """Conflict if the master `name` is not a Debian of this suite (None: any) that has these
    packages, or others that provide them."""
    what, path = f"master '{name}'", cache.find("masters", name) or ""
    try:
        status = _read(os.path.join(path, _STATUS))
    except OSError:
        _refuse(what, "is not a Debian system")
    known = facts.read(path).get("suite")
    if suite is not None and isinstance(known, str):
        _need_suite(what, known, suite)
    elif suite is not None and suite not in suites.NEWEST_FIRST + tuple(suites.ALIASES):
        _need_suite(what, _codename(path) or suite, suite)
    lacking = sorted(set(include) - _packages(status))
    if lacking:
        _refuse(what, f"lacks the package '{lacking[0]}'")


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _codename(path: str) -> str | None:
    """The suite of an old master, of which there are no facts; sid calls itself like testing."""
    try:
        found = _CODENAME.search(_read(os.path.join(path, "usr/lib/os-release")))
    except OSError:
        return None
    return found[1] if found else None


def _packages(status: str) -> set[str]:
    """The names of installed packages, and those that they provide."""
    found: set[str] = set()
    for paragraph in status.split("\n\n"):
        if "\nStatus: install ok installed" in paragraph:
            for key, text in re.findall(r"^(Package|Provides): (.*)$", paragraph, re.MULTILINE):
                names = [text] if key == "Package" else text.split(",")
                found.update(each.split()[0] for each in names if each.split())
    return found
