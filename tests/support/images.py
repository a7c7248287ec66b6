"""Container images made by hand."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CONFIG = {
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["serve --all"],
    "Env": ["PATH=/bin", "GREETING=hi there", "broken", "EMPTY="],
    "WorkingDir": "/srv",
    "User": "www:www",
}


class Entry(NamedTuple):
    """A member of a layer: a file with this text, or what `kind` says."""

    name: str
    text: str = ""
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0


def directory(name: str) -> Entry:
    return Entry(name, kind=tarfile.DIRTYPE, mode=0o755)


def link(name: str, to: str) -> Entry:
    return Entry(name, to, tarfile.SYMTYPE)


def hard(name: str, to: str) -> Entry:
    return Entry(name, to, tarfile.LNKTYPE)


def layer(*entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.uid = entry.kind, entry.mode, entry.uid
            if entry.kind == tarfile.REGTYPE:
                info.size = len(entry.text)
                tar.addfile(info, io.BytesIO(entry.text.encode()))
            else:
                info.linkname = entry.text
                tar.addfile(info)
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def config(layers: Sequence[bytes], **more: Any) -> bytes:
    contents = {"type": "layers", "diff_ids": [digest(each) for each in layers]}
    found = {"architecture": "amd64", "os": "linux", "config": CONFIG, "rootfs": contents, **more}
    return json.dumps(found).encode()


def plain(data: bytes) -> bytes:
    return data


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


class Layout:
    """An OCI layout that grows."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "blobs/sha256").mkdir(parents=True)
        (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes) -> dict[str, Any]:
        name = digest(data)
        (self.place / "blobs" / name.replace(":", "/")).write_bytes(data)
        return {"digest": name, "size": len(data), "mediaType": "application/x"}

    def image(
        self,
        layers: Sequence[bytes],
        pack: Callable[[bytes], bytes] = plain,
        **more: Any,
    ) -> dict[str, Any]:
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(config(layers, **more)),
            "layers": [self.blob(pack(each)) for each in layers],
        }
        return self.blob(json.dumps(manifest).encode())

    def index(self, *manifests: dict[str, Any]) -> None:
        (self.place / "index.json").write_text(json.dumps({"manifests": manifests}))


def oci(place: Path, layers: Sequence[bytes], pack: Callable[[bytes], bytes] = plain) -> Path:
    layout = Layout(place)
    layout.index(layout.image(layers, pack))
    return place


def docker(place: Path, layers: Sequence[bytes], **more: Any) -> Path:
    """The older format of `docker save`."""
    place.mkdir()
    names = []
    for number, each in enumerate(layers):
        (place / f"{number}").mkdir()
        (place / f"{number}/layer.tar").write_bytes(each)
        names.append(f"{number}/layer.tar")
    (place / "c.json").write_bytes(config(layers, **more))
    manifest = {"Config": "c.json", "RepoTags": ["app:1"], "Layers": names}
    (place / "manifest.json").write_text(json.dumps([manifest]))
    (place / "repositories").write_text("{}")
    return place


def packed(place: Path) -> Path:
    """An archive of a directory, as docker and skopeo write them."""
    file = place.with_suffix(".tar")
    with tarfile.open(file, "w") as tar:
        for path in sorted(place.rglob("*")):
            tar.add(path, str(path.relative_to(place)), recursive=False)
    return file
