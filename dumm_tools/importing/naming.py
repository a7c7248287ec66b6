"""Names that are valid here, made from those of other tools: always the same from the same."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

from dumm_tools import names
from dumm_tools.errors import Usage

_BAD = re.compile(r"[^A-Za-z0-9_-]")
_BAD_DEVICE = re.compile(r"[^A-Za-z0-9_.]")
_LENGTH = {"guest": 32, "bridge": names.DEVICE_NAME_MAX}


class Names:
    """Names for guests or for bridges, each given once. Changed names are reported to `note`."""

    def __init__(self, kind: str, note: Callable[[str, str], None]) -> None:
        self._kind, self._note = kind, note
        self._taken: set[str] = set()
        #: The last number at the end of a name, by the name without one.
        self._numbers: dict[str, int] = {}

    def of(self, said: str, where: str) -> str:
        """The name for something that is called `said`."""
        name = self._free(said)
        if name != said:
            self._note(where, f"'{said}' is named '{name}'")
        return name

    def instead(self, name: str) -> str:
        """Another name for something that was given this one."""
        return self._free(name)

    def of_cable(self, ends: tuple[str, str]) -> str:
        """The name of a cable between two machines."""
        return self._free("-".join(ends))

    def _free(self, said: str) -> str:
        length = _LENGTH[self._kind]
        valid = _valid(said, self._kind)
        name = first = shortened(valid, length)
        number = self._numbers.get(first, 1)  # names are never given back
        while name in self._taken or not _is_valid(name, self._kind):
            number += 1
            name = shortened(f"{valid}-{number}", length)
        self._numbers[first] = number
        self._taken.add(name)
        return name


def _valid(said: str, kind: str) -> str:
    name = _BAD.sub("_", said)
    return name if name[:1].isalnum() else f"{kind[0]}{name}"


def _is_valid(name: str, kind: str) -> bool:
    try:
        (names.guest if kind == "guest" else names.bridge)(name)
    except Usage:
        return False
    return kind == "guest" or name != "lo"


def shortened(name: str, length: int) -> str:
    """A name of at most this length: of a longer one, the beginning and a hash."""
    if len(name) <= length:
        return name
    digest = f"{zlib.crc32(name.encode('utf-8', 'surrogateescape')):08x}"
    return f"{name[: length - 6].rstrip('-_')}-{digest[:5]}"


def device(said: str) -> str:
    """The name of a device in a guest."""
    name = _BAD_DEVICE.sub("_", said)
    name = shortened(name if name[:1].isalpha() else f"e{name}", names.DEVICE_NAME_MAX)
    name = name.replace("-", "_")
    try:
        return names.device(name)
    except Usage:
        return shortened(f"if_{name}", names.DEVICE_NAME_MAX).replace("-", "_")


def bound(number: int, most: int, where: str, what: str) -> None:
    """Raise Usage if there would be too many of something."""
    if number >= most:
        raise Usage(f"{where}: more than {most} {what}")
