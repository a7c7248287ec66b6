"""The format of saved labs: a tar archive whose members are in the directory `lab`, and what each
of them may be (dumm-state(5), SAVED LABS). It may come from anybody.

`lab.json`, the first member, has the lab's state, and the masters and kernel packs that it needs.
Overlays, disks, and the sources of `--files` have in it their paths in the archive, which start
with a slash.
"""

from __future__ import annotations

import json
import re
import tarfile
from typing import Any, NamedTuple

from dumm_tools import names, records
from dumm_tools.errors import DummError, Usage
from dumm_tools.files import given
from dumm_tools.guests import disks
from dumm_tools.images import cache
from dumm_tools.model import State
from dumm_tools.trees import within

TOP = "lab"
FILE = "lab.json"
FORMAT = 1
#: A lab of a thousand guests has a state of 1 MB.
FILE_MAX = 64 << 20

#: The facts about a master that go with it.
FACTS = frozenset({"rootfs", "command"})
#: Names in a working directory that are not those of overlays and disks.
TAKEN = frozenset(
    {"host", "mount", "run", "templates", "startup", "linux", "master", "masters", "kernels"}
    | {"state.json", FILE}
)
_UPLINK = re.compile(r"nat|to:[^\s/:]{1,15}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KINDS: tuple[cache.Kind, ...] = ("kernels", "masters")

Path = tuple[str, ...]


class Image(NamedTuple):
    """A master or a kernel pack: as the lab's records call it (a name in the cache, or a path), its
    own name, its digest, whether it is within the archive, and facts about it (`facts.py`)."""

    kind: cache.Kind
    spec: str
    name: str
    digest: str
    within: bool = False
    facts: dict[str, Any] = {}  # noqa: RUF012


class Contents(NamedTuple):
    """The contents of lab.json: the state, the default kernel and master, and the images."""

    state: State
    kernel: str | None
    master: str | None
    images: list[Image]


def encode(contents: Contents) -> bytes:
    """The text of lab.json."""
    data = {
        "format": FORMAT,
        "kernel": contents.kernel,
        "master": contents.master,
        "images": [image._asdict() for image in contents.images],
        "state": json.loads(records.encode(contents.state)),
    }
    return json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"


def decode(label: str, text: bytes) -> Contents:
    """Read lab.json; DummError if no `save` has written it."""
    where = f"{label}: {FILE}"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise DummError(f"'{where}' is not valid JSON: {e}") from None
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise DummError(f"'{where}' does not describe a lab")
    if data["format"] > FORMAT:
        raise DummError(f"'{label}' was written by a newer dumm-tools (format {data['format']})")
    state = records.decode(where, json.dumps(data.get("state")), 0)
    for key in ("holder", "opened"):
        state.extra.pop(key, None)
    kernel, master, images = data.get("kernel"), data.get("master"), data.get("images")
    if not isinstance(kernel, str | None) or not isinstance(master, str | None):
        raise DummError(f"'{where}': key 'kernel' or 'master' is not a string")
    if not isinstance(images, list) or not all(isinstance(i, dict) for i in images):
        raise DummError(f"'{where}': key 'images' is not a list of objects")
    try:
        contents = Contents(state, kernel, master, [_image(each) for each in images])
        _check(contents)
    except (Usage, ValueError) as e:
        raise DummError(f"'{where}': {e}") from None
    return contents


def _image(row: dict[str, Any]) -> Image:
    image = Image(**{key: row.get(key) for key in Image._fields})  # type: ignore[arg-type]
    if image.kind not in _KINDS or not isinstance(image.spec, str) or "\0" in image.spec:
        raise ValueError("a bad image")
    if not isinstance(image.name, str) or not isinstance(image.digest, str):
        raise ValueError(f"a bad image: {image.spec!r}")
    if not _DIGEST.fullmatch(image.digest) or not isinstance(image.within, bool):
        raise ValueError(f"a bad image: {image.spec!r}")
    names.pack(image.name, f"{cache.NOUN[image.kind]} name")
    return image._replace(facts=image.facts if isinstance(image.facts, dict) else {})


def _check(contents: Contents) -> None:
    """Raise Usage or ValueError for contents that are not those of a saved lab."""
    state = contents.state
    for kind, default in (("kernels", contents.kernel), ("masters", contents.master)):
        known = [image.spec for image in contents.images if image.kind == kind]
        own = (g.kernel if kind == "kernels" else g.master for g in state.guests.values())
        for spec in {default, *own} - {None}:
            if known.count(spec) != 1:  # type: ignore[arg-type]
                raise ValueError(f"'{spec}' is not described once")
    inside = [(i.kind, i.name) for i in contents.images if i.within]
    if len(set(inside)) != len(inside):
        raise ValueError("two images have the same name")
    for guest in state.guests.values():
        if guest.boot is not None:
            raise ValueError(f"guest '{guest.name}' is running")
        if len(guest.disks) > disks.MOST:
            raise ValueError(f"guest '{guest.name}' has too many disks")
    for bridge in state.bridges.values():
        if bridge.uplink is not None and not _UPLINK.fullmatch(bridge.uplink):
            raise ValueError(f"bad uplink {bridge.uplink!r}")
    Layout(contents)


def overlays(state: State) -> list[str]:
    """The overlays of all guests."""
    return sorted({layer for guest in state.guests.values() for layer in guest.overlays})


def disk_files(state: State) -> list[str]:
    """The disks of all guests."""
    found = {disks.parse(disk).path for guest in state.guests.values() for disk in guest.disks}
    return sorted(found)


def given_files(state: State) -> list[str]:
    """The directories and files on the host that guests get copies of."""
    found = {given.parse(text).source for guest in state.guests.values() for text in guest.files}
    return sorted(found)


def _path(text: str) -> Path:
    """The path of an overlay, a disk or files in the archive. ValueError if it cannot be one."""
    parts = tuple(text[1:].split("/"))
    if text[:1] != "/" or any(p in ("", ".", "..") for p in parts):
        raise ValueError(f"bad path {text!r}")
    if parts[0] in TAKEN or parts[0].startswith("."):
        raise ValueError(f"bad path {text!r}")
    return parts


class Layout:
    """Where the files of a lab are in its archive: whole trees, and single files."""

    def __init__(self, contents: Contents) -> None:
        state = contents.state
        self.overlays = {_path(text) for text in overlays(state)}
        self.disks = {_path(text) for text in disk_files(state)}
        self.given = {_path(text) for text in given_files(state)} - self.overlays - self.disks
        self.images = {(image.kind, image.name) for image in contents.images if image.within}
        self._trees = self.overlays | self.images | {("host", name) for name in state.guests}
        self._trees |= self.given  # some of which are files
        self._files = self.disks | {("startup", name) for name in state.guests}
        self._parents = {path[:n] for path in self._trees | self._files for n in range(len(path))}
        for path in self.disks:
            if self._tree(path) is not None or path in self._parents:
                raise ValueError(f"bad path '/{'/'.join(path)}'")
        for path in self.given:  # whose contents are treated unlike those of a guest
            others = (other for other in self.overlays if other[: len(path)] == path)
            if self._tree(path) not in self.given or any(others):
                raise ValueError(f"bad path '/{'/'.join(path)}'")

    def check(self, member: tarfile.TarInfo) -> None:
        """Raise DummError for a member that a lab does not have. Those outside of guests' files
        become ours."""
        path = inside(member.name)
        tree = self._tree(path)
        if tree is None:
            is_file = path in self._files and member.isreg()
            if not is_file and not (member.isdir() and self._is_parent(path)):
                raise _refused(member, "is not part of a lab")
            self._take(member, 0o600 if is_file else 0o700)
        elif path == tree and not member.isdir() and not (tree in self.given and member.isreg()):
            raise _refused(member, "is not a directory")
        elif member.islnk():
            first = inside(member.linkname)
            if self._tree(first) != tree or first == tree:
                raise _refused(member, f"is a link to {member.linkname!r}")
        elif tree[0] == "kernels":
            self._take(member, member.mode & 0o755)
        if tree in self.given:
            self._take(member, member.mode & 0o777)

    def _tree(self, path: Path) -> Path | None:
        """The tree that a path is in."""
        if path[:1] == ("templates",):
            return path[:3] if len(path) > 2 and names.is_guest(path[2]) else None
        found = (path[:n] for n in range(1, len(path) + 1))
        return next((each for each in found if each in self._trees), None)

    def _is_parent(self, path: Path) -> bool:
        if path[:1] != ("templates",):
            return path in self._parents
        return len(path) < 2 or (len(path) == 2 and names.is_pack(path[1]))

    def _take(self, member: tarfile.TarInfo, mode: int) -> None:
        member.uid = member.gid = 0
        member.mode, time = mode, member.pax_headers.get("mtime")
        member.pax_headers = {} if time is None else {"mtime": time}


def inside(name: str) -> Path:
    """The path of a member in the lab. DummError for one outside of it."""
    path = tuple(part.decode("utf-8", "surrogateescape") for part in within.parts(name))
    if path[:1] != (TOP,) or name.startswith("/"):
        raise DummError(f"refused: {name!r} in the archive is not part of a lab")
    return path[1:]


def _refused(member: tarfile.TarInfo, why: str) -> DummError:
    return DummError(f"refused: {member.name!r} in the archive {why}")
