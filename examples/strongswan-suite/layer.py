"""A layer of a host with the files of a scenario, as `tar -h` would unpack them there."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Mapping
from pathlib import Path

from scenario import filled_in

#: Prints the links of a host, for `links`.
FIND_LINKS = "find /etc -type l -printf '%p\\t%l\\n'"
_MOST_LINKS = 40


def links(printed: str) -> dict[str, str]:
    """The links that FIND_LINKS has printed: their paths and targets."""
    return dict(line.split("\t", 1) for line in printed.splitlines())


def landing(path: str, host_links: Mapping[str, str]) -> str:
    """The path that a file is written to in a host that has links: /etc/freeradius/3.0/users is one
    in Debian, for example."""
    for _ in range(_MOST_LINKS):
        parts = path.split("/")
        heads = ("/".join(parts[:end]) for end in range(2, len(parts) + 1))
        link = next((head for head in heads if head in host_links), None)
        if link is None:
            return path
        target = posixpath.join(posixpath.dirname(link), host_links[link])
        path = posixpath.normpath(target + path.removeprefix(link))
    raise ValueError(f"too many links: {path}")


def write(source: Path, layer: Path, host_links: Mapping[str, str]) -> None:
    """Copy a tree of files to a layer, with addresses filled in, and files in place of links."""
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            continue
        place = layer / landing(f"/{path.relative_to(source)}", host_links).lstrip("/")
        _make(place.parent)
        data = path.read_bytes()
        place.write_bytes(data if path.suffix == ".pem" else filled_in(data))
        shutil.copymode(path, place)


def _make(directory: Path) -> None:
    """Make a directory that users of the host may look into, whatever the caller's umask: servers
    read their files there."""
    if not directory.exists():
        _make(directory.parent)
        directory.mkdir()
        directory.chmod(0o755)
