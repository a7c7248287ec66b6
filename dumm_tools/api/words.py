"""The words of a request: options and operands, from arguments of methods."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from dumm_tools.errors import Usage

Path = str | os.PathLike[str]
Value = str | int | float | bool | Sequence[str] | None


class Named(Protocol):
    """An object of a lab."""

    @property
    def name(self) -> str:
        """Its name."""


def name_of(thing: str | Named) -> str:
    """The name of an object that is given by its name or as such."""
    return thing if isinstance(thing, str) else thing.name


def options(**values: Value) -> list[str]:
    """Options as words: True is a flag, None and False are left out, a list repeats it."""
    found = []
    for key, value in values.items():
        option = "--" + key.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            found.append(option)
        elif isinstance(value, list | tuple):
            found += [f"{option}={one}" for one in value]
        else:
            found.append(f"{option}={value}")
    return found


def words(what: str, given: Sequence[str | os.PathLike[str]]) -> list[str]:
    """A command as a list of words. Usage for a string, which no shell would split."""
    if isinstance(given, str | bytes) or not given:
        raise Usage(f"{what} is a list of words, not {given!r}")
    found = [os.fspath(word) for word in given]
    if any("\0" in word for word in found):
        raise Usage(f"{what} contains a NUL")
    return found


def local(path: Path) -> str:
    """A path on the host, which must not depend on the current directory of the session. Usage."""
    text = os.fspath(path)
    if not text:
        raise Usage("a path is empty")
    return os.path.abspath(text)


def disk(text: str) -> str:
    """A disk, FILE or FILE:ro, with the path as `local` makes it."""
    end = len(text) - 3 if text.endswith((":ro", ":rw")) else len(text)
    return local(text[:end]) + text[end:]


def files(text: str) -> str:
    """Files for a guest, DIR or DIR:PATH, likewise; PATH begins after the last `:/`."""
    end = text.rfind(":/") if ":/" in text else len(text)
    return local(text[:end]) + text[end:]


def slash(path: Path) -> str:
    """The end of a path that means the contents of a directory, which `local` removes."""
    return "/." if os.fspath(path).endswith("/.") else ""


def image(given: Path | None) -> str | None:
    """A kernel or master: a name in the cache, or a path if it contains a slash."""
    if given is None:
        return None
    text = os.fspath(given)
    return local(text) if "/" in text or not isinstance(given, str) else text


def pairs(env: dict[str, str] | None) -> list[str]:
    """Variables of the environment, as K=V. Usage."""
    for key in env or ():
        if not key or "=" in key:
            raise Usage(f"bad name of a variable: {key!r}")
    return [f"{key}={value}" for key, value in (env or {}).items()]


def several(given: str | Sequence[str]) -> list[str]:
    """One word or several."""
    return [given] if isinstance(given, str) else list(given)
