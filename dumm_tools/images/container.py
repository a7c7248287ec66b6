"""Container images: archives of `docker save` and OCI layouts, unpacked in a directory.

An image is a list of layers and a configuration. They come from anybody: each part is checked
against the digest by which the image refers to it, and nothing outside the directory is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dumm_tools.errors import DummError, Usage
from dumm_tools.images.startup import Command
from dumm_tools.linux import openat2
from dumm_tools.trees import layering

Report = Callable[[str], None]
Json = dict[str, Any]

_LAYOUT, _INDEX, _MANIFEST = "oci-layout", "index.json", "manifest.json"
_PLATFORM = ("linux", "amd64")
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_JSON_MAX = 4 << 20
_LAYERS_MAX = 512
_DEPTH_MAX = 4
_CHUNK = 1 << 20
#: Directories of root trees: a tree that contains some is not an image, whatever else it contains.
_ROOT_TREE = ("usr", "etc", "bin", "sbin", "lib")
_NOT_A_NAME = "unnamed"


class Image(NamedTuple):
    """The layers of an image, lowest first: their names in messages, and paths in the directory."""

    layers: tuple[tuple[str, str], ...]
    #: SHA-256 of the layers without compression, as far as the configuration has them.
    contents: tuple[str, ...]
    command: Command | None


def is_image(directory: str) -> bool:
    """Whether an unpacked archive, or a directory, is an image rather than a root tree."""
    names = set(os.listdir(directory))
    has = {_LAYOUT, _INDEX} <= names or _MANIFEST in names
    return has and not names & set(_ROOT_TREE)


def unpack(
    directory: str, label: str, target: str, progress: Report | None = None
) -> tuple[int, Command | None]:
    """Unpack the image in `directory` into `target`. Return how many device nodes were skipped, and
    the image's command."""
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    skipped = 0
    try:
        image = _image(top, label)
        for number, (name, path) in enumerate(image.layers):
            if progress:
                progress(f"layer {number + 1} of {len(image.layers)}")
            with _opened(top, path, label) as fd:
                if _DIGEST.fullmatch(name):
                    _check(fd, name, label)
                left, digest = layering.apply(fd, f"{label}, layer {number + 1}", target, progress)
            skipped += left
            if image.contents and image.contents[number] != f"sha256:{digest}":
                raise DummError(f"'{label}' is damaged: layer {number + 1} has another digest")
        return skipped, image.command
    finally:
        os.close(top)


# ---- finding the image ----


def _image(top: int, label: str) -> Image:
    if _exists(top, _INDEX) and _exists(top, _LAYOUT):
        return _of_layout(top, label)
    return _of_docker(top, label)


def _of_layout(top: int, label: str) -> Image:
    """The image for this machine in an OCI layout."""
    found = dict(_manifests(top, label, _json(top, _INDEX, label), 0, set()))
    if not found:
        raise DummError(f"'{label}' contains no image for {'/'.join(_PLATFORM)}")
    _one(list(found.values()), label)
    digest = next(iter(found))
    manifest = _json(top, _path(digest), label, digest)
    config_digest = _string(manifest, "config", "digest")
    config = _json(top, _path(config_digest), label, config_digest)
    layers = [_string(each, "digest") for each in _list(manifest, "layers")]
    return _made(label, [(each, _path(each)) for each in layers], config)


def _manifests(
    top: int, label: str, index: Json, depth: int, seen: set[str]
) -> Iterator[tuple[str, str]]:
    """The digests of all manifests for this platform in an index, and the names of the images.
    Each is looked at once (`seen`): indexes that repeat others would take for ever."""
    if depth > _DEPTH_MAX:
        raise DummError(f"'{label}' is damaged: its indexes are nested too deeply")
    for each in _list(index, "manifests"):
        digest = _string(each, "digest")
        platform = each.get("platform")
        known = platform if isinstance(platform, dict) else {}
        if known and (known.get("os"), known.get("architecture")) != _PLATFORM:
            continue
        annotations = each.get("annotations")
        noted = annotations if isinstance(annotations, dict) else {}
        if noted.get("vnd.docker.reference.type"):  # a statement about another image
            continue
        if digest in seen:
            continue
        seen.add(digest)
        if not _exists(top, _path(digest)):
            continue  # an image for several platforms need not contain all of them
        below = _json(top, _path(digest), label, digest)
        if "manifests" in below:
            yield from _manifests(top, label, below, depth + 1, seen)
        elif "layers" in below:
            name = noted.get("io.containerd.image.name") or noted.get(
                "org.opencontainers.image.ref.name"
            )
            yield digest, str(name or _NOT_A_NAME)


def _of_docker(top: int, label: str) -> Image:
    """The image in an archive of `docker save` before it became an OCI layout."""
    manifests = _parsed(top, _MANIFEST, label)
    if not isinstance(manifests, list) or not all(isinstance(m, dict) for m in manifests):
        raise _damaged(label, f"{_MANIFEST} is not a list of images")
    tags = [m.get("RepoTags") for m in manifests]
    _one([", ".join(map(str, t)) if isinstance(t, list) else _NOT_A_NAME for t in tags], label)
    manifest = manifests[0]
    config = _json(top, _string(manifest, "Config"), label)
    layers = _list(manifest, "Layers", str)
    return _made(label, [(each, each) for each in layers], config)


def _one(names: list[str], label: str) -> None:
    if len(names) > 1:
        raise Usage(
            f"'{label}' contains {len(names)} images: {', '.join(sorted(names))}",
            hint="save only one of them",
        )


def _made(label: str, layers: list[tuple[str, str]], config: Json) -> Image:
    platform = (config.get("os", "linux"), config.get("architecture", "amd64"))
    if platform != _PLATFORM:
        shown = "/".join(map(str, platform))
        raise DummError(f"'{label}' is an image for {shown}, not for {'/'.join(_PLATFORM)}")
    if not layers:
        raise DummError(f"'{label}' is an image without layers")
    if len(layers) > _LAYERS_MAX:
        raise _damaged(label, "too many layers")
    rootfs = config.get("rootfs")
    contents = _list(rootfs, "diff_ids", str) if isinstance(rootfs, dict) else []
    if contents and len(contents) != len(layers):
        raise _damaged(label, "its configuration has another number of layers")
    if any(not each.startswith("sha256:") for each in contents):
        contents = []
    run = config.get("config")
    return Image(
        tuple(layers), tuple(contents), Command.of_image(run) if isinstance(run, dict) else None
    )


# ---- reading its parts ----


def _damaged(label: str, why: str) -> DummError:
    return DummError(f"'{label}' is damaged: {why}")


def _path(digest: str) -> str:
    """The file of a part in an OCI layout."""
    if not _DIGEST.fullmatch(digest):
        raise DummError(f"the image refers to a part by {digest[:80]!r}, which is not a digest")
    return "blobs/" + digest.replace(":", "/")


def _exists(top: int, path: str) -> bool:
    with contextlib.suppress(OSError):
        os.close(openat2.open_in_root(top, path, os.O_PATH))
        return True
    return False


@contextlib.contextmanager
def _opened(top: int, path: str, label: str) -> Iterator[int]:
    """A regular file of the image."""
    try:
        fd = openat2.open_in_root(top, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        raise _damaged(label, f"it lacks '{path}'") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _damaged(label, f"'{path}' is not a file")
        yield fd
    finally:
        os.close(fd)


def _check(fd: int, digest: str, label: str) -> None:
    """DummError unless an open file has this digest."""
    kind, _, expected = digest.partition(":")
    computed = hashlib.new(kind)
    at = 0
    while piece := os.pread(fd, _CHUNK, at):
        computed.update(piece)
        at += len(piece)
    if computed.hexdigest() != expected:
        raise _damaged(label, f"{digest[:19]}... has another digest")


def _parsed(top: int, path: str, label: str, digest: str | None = None) -> Any:
    with _opened(top, path, label) as fd:
        if digest is not None:
            _check(fd, digest, label)
        text = os.pread(fd, _JSON_MAX + 1, 0)
    if len(text) > _JSON_MAX:
        raise _damaged(label, f"'{path}' is too large")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _damaged(label, f"'{path}' is not JSON") from None


def _json(top: int, path: str, label: str, digest: str | None = None) -> Json:
    found = _parsed(top, path, label, digest)
    if not isinstance(found, dict):
        raise _damaged(label, f"'{path}' is not an object")
    return found


def _string(found: Json, *keys: str) -> str:
    value: Any = found
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise DummError(f"the image is damaged: it has no {'.'.join(keys)}")
    return value


def _list(found: Json, key: str, kind: type = dict) -> list[Any]:
    value = found.get(key)
    if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
        raise DummError(f"the image is damaged: it has no {key}")
    return value
