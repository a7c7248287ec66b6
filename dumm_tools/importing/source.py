"""The files of a lab to import: untrusted. Nothing outside the lab's directory is read, and
nothing without a limit."""

from __future__ import annotations

import os
import stat

from dumm_tools.errors import DummError, NotFound, Usage

#: Maximum size of a file that describes a lab.
FILE_MAX = 4 << 20


def read(path: str, most: int = FILE_MAX) -> str:
    """The text of a file that the user names. NotFound, Usage, DummError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no such file '{path}'") from None
    except OSError as e:
        raise DummError(f"cannot read '{path}': {e.strerror}") from None
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise Usage(f"'{path}' is {what}")
        data = file.read(most + 1)
    if len(data) > most:
        raise Usage(f"'{path}' is larger than {most >> 10} KiB")
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if "\0" in text:
        raise Usage(f"'{path}' is not a text file")
    return text.replace("\r\n", "\n")


class Directory:
    """The directory of a lab."""

    def __init__(self, path: str) -> None:
        self.said = path
        self.path = os.path.realpath(path)
        if not os.path.isdir(self.path):
            raise NotFound(f"no directory '{path}'")

    def shown(self, name: str) -> str:
        """The name of a file in it, for messages."""
        return name

    def place(self, name: str) -> str | None:
        """The path without links of a file or directory in it; None if it does not exist. Outside,
        if it leads out of the lab's directory."""
        path = os.path.realpath(os.path.join(self.path, name))
        if not os.path.lexists(os.path.join(self.path, name)):
            return None
        if path != self.path and not path.startswith(self.path.rstrip("/") + "/"):
            raise Outside(f"'{name}' leads out of the lab's directory")
        return path if os.path.exists(path) else None

    def read(self, name: str, most: int = FILE_MAX) -> str | None:
        """The text of a file in it, None if it does not exist."""
        path = self.place(name)
        return None if path is None else read(path, most)


class Outside(Usage):
    """A path that leads out of the lab's directory."""
