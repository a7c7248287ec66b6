"""Debian packages and a repository of them, made by hand."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """A package of these files; `scripts` are its maintainer scripts, without their first lines."""

    name: str
    version: str
    files: Mapping[str, str]
    depends: str = ""
    scripts: Mapping[str, str] = {}
    conffiles: tuple[str, ...] = ()
    modes: Mapping[str, int] = {}

    @property
    def control(self) -> str:
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: all\n"
            "Maintainer: Nobody <nobody@example.org>\nDescription: for a test\n"
            + (f"Depends: {self.depends}\n" if self.depends else "")
        )

    def build(self, place: Path) -> Path:
        """Make the package in a directory; return its file."""
        tree = place / f"{self.name}-{self.version}"
        for path, text in self.files.items():
            file = tree / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(self.modes.get(path, 0o755 if path.startswith("/usr/bin/") else 0o644))
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(self.control)
        if self.conffiles:
            (tree / "DEBIAN/conffiles").write_text("".join(f"{c}\n" for c in self.conffiles))
        for name, script in self.scripts.items():
            (tree / "DEBIAN" / name).write_text(f"#!/bin/sh\nset -e\n{script}\n")
            (tree / "DEBIAN" / name).chmod(0o755)
        done = subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--build", tree, place],
            check=True,
            capture_output=True,
            text=True,
        )
        assert not done.stderr, done.stderr
        shutil.rmtree(tree)
        return place / f"{self.name}_{self.version}_all.deb"


class Repository(NamedTuple):
    """A flat repository (sources.list(5)) in a directory."""

    place: Path

    def publish(self, *packages: Package) -> None:
        """Have it contain these packages."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        index = ""
        for package in packages:
            file = package.build(self.place)
            data = file.read_bytes()
            index += (
                f"{package.control}Filename: ./{file.name}\nSize: {len(data)}\n"
                f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
            )
        (self.place / "Packages").write_text(index)
