"""Files of a guest, and its layers."""

from __future__ import annotations

import os
import stat
import tempfile

from dumm_tools.api import views, words
from dumm_tools.api.part import Part
from dumm_tools.api.views import Change
from dumm_tools.api.words import Path
from dumm_tools.errors import DummError


class Files(Part):
    """The part of a guest that has files. It need not run; if it does, changes are seen at once."""

    def copy_to(self, *sources: Path, path: str) -> None:
        """Copy files and trees of the host to `path` in the guest: an existing directory or a new
        name, as `dumm-fs cp`. NotFound, DummError."""
        given = [words.local(source) + words.slash(source) for source in sources]
        self._channel.call(["fs", "cp", *given, f"{self.name}:{path}"])

    def copy_from(self, *paths: str, to: Path) -> None:
        """Copy files and trees of the guest to `to` on the host: an existing directory or a new
        name. They lose setuid and setgid bits and capabilities. NotFound, DummError."""
        given = [f"{self.name}:{path}" for path in paths]
        self._channel.call(["fs", "cp", *given, words.local(to)])

    def read_bytes(self, path: str) -> bytes:
        """The contents of a regular file. NotFound; DummError for a link or anything else."""
        with tempfile.TemporaryDirectory(prefix="dumm-file-") as place:
            target = os.path.join(place, "file")
            self.copy_from(path, to=target)
            # The copy of a link would lead to a file of this host.
            if not stat.S_ISREG(os.lstat(target).st_mode):
                raise DummError(
                    f"'{path}' of guest '{self.name}' is not a regular file",
                    hint="`cat` in the guest follows links",
                )
            with open(target, "rb") as file:
                return file.read()

    def read_text(self, path: str) -> str:
        """The contents of a file in UTF-8. NotFound, UnicodeDecodeError.

        >>> alice.write_text("/etc/motd", "hello\\n")
        >>> alice.read_text("/etc/motd")
        'hello\\n'
        """
        return self.read_bytes(path).decode()

    def write_bytes(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Make a file with these contents, owned by root, or replace one. NotFound if its directory
        does not exist."""
        with tempfile.TemporaryDirectory(prefix="dumm-file-") as place:
            last = os.path.basename(path)
            source = os.path.join(place, "file" if last in ("", ".", "..") else last)
            with open(source, "xb") as file:
                file.write(data)
                os.fchmod(file.fileno(), mode)
            self.copy_to(source, path=path)

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Make a file with this text in UTF-8, owned by root, or replace one. NotFound if its
        directory does not exist."""
        self.write_bytes(path, text.encode(), mode=mode)

    def diff(self) -> list[Change]:
        """The differences that the guest has made to its layers, by path.

        >>> alice.write_text("/etc/motd", "hello\\n")
        >>> [change.kind for change in alice.diff() if change.path == "/etc/motd"]
        ['A']
        """
        found = self._channel.call(["fs", "diff", self.name, "--format", "json"])
        return views.of(Change, found.stdout)

    def reset(self) -> None:
        """Discard the changes of a stopped guest. Conflict if it runs."""
        self._channel.call(["fs", "reset", self.name])

    def commit(self, to: Path, *, may_exist: bool = False) -> None:
        """Save the changes of a stopped guest as a new layer: the directory `to` if it contains a
        slash or is a Path, otherwise the name of a new master. Conflict if it exists or the guest
        runs."""
        options = words.options(may_exist=may_exist)
        self._channel.call(["fs", "commit", *options, self.name, words.image(to) or ""])

    def overlay_add(
        self, directory: Path, *, create: bool = False, may_exist: bool = False
    ) -> None:
        """Put a directory of the host on top of the guest's layers, and have the guest write to it.
        NotFound unless it exists, or `create`."""
        options = words.options(create=create, may_exist=may_exist)
        self._channel.call(["fs", "overlay", "add", *options, self.name, words.local(directory)])

    def overlay_del(self, directory: Path, *, if_exists: bool = False) -> None:
        """Remove a directory from the guest's layers, without deleting it. NotFound if it is not a
        layer, unless `if_exists`."""
        options = words.options(if_exists=if_exists)
        self._channel.call(["fs", "overlay", "del", *options, self.name, words.local(directory)])

    def overlays(self) -> list[str]:
        """The directories on top of the guest's layers, newest first."""
        found = self._channel.call(["fs", "overlay", "list", "-z", "-q", self.name])
        return os.fsdecode(found.stdout).split("\0")[:-1]
