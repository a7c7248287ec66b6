"""The masters and kernel packs that a saved lab needs, on the machine where it is restored."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dumm_tools import names
from dumm_tools.errors import Conflict, DummError, NotFound
from dumm_tools.images import cache, digest, facts, kernel, kernel_pack, master
from dumm_tools.labs.lab_archive import FACTS, Contents, Image
from dumm_tools.trees import copying, tree

Report = Callable[[str], None]


class Use(NamedTuple):
    """The counterpart here of an image of the lab: `name` is that of a master or pack in the cache,
    or a path; with `make`, it is yet to be made from the archive."""

    image: Image
    name: str
    make: bool


class Found(NamedTuple):
    """The images of a lab, by kind and by the lab's own name for them."""

    uses: dict[tuple[cache.Kind, str], str]

    def spec(self, kind: cache.Kind, said: str | None) -> str | None:
        """The value for a guest's record here, where the saved one has this."""
        return None if said is None else self.uses[kind, said]

    def path(self, kind: cache.Kind, said: str | None) -> str | None:
        """The path of the lab's default."""
        return None if said is None else _path(kind, self.uses[kind, said])


class Chosen:
    """The user's choices: other images instead of some that the lab was saved with."""

    def __init__(
        self, chosen: Mapping[tuple[str, str], str], progress: Report | None = None
    ) -> None:
        self._chosen = dict(chosen)
        self._progress = progress

    def resolve(self, contents: Contents) -> list[Use]:
        """The counterparts here of the lab's images. NotFound for one that is missing, Conflict for
        one that has other contents."""
        known = {(image.kind, image.spec) for image in contents.images}
        for kind, spec in self._chosen:
            if (kind, spec) not in known:
                raise NotFound(f"the lab does not need a {kind[:-1]} '{spec}'")
        return [self._use(image) for image in contents.images]

    def _use(self, image: Image) -> Use:
        noun, new = cache.NOUN[image.kind], self._chosen.get((image.kind, image.spec))
        name = new or image.spec
        hint = f"'--{noun} {image.spec}=NAME' uses another one"
        if image.within:
            name = new or image.name
            if cache.find(image.kind, name) is None and not (new and "/" in new):
                return Use(image, names.pack(name, f"{noun} name"), make=True)
            hint = f"'--{noun} {image.spec}=NAME' gives the saved one another name"
        elif new is None and "/" in name:  # it would be read whole, whatever it is
            raise NotFound(
                f"the lab was saved with the {noun} '{name}', which only you can choose here",
                hint=f"{hint}, '--{noun} {name}={name}' the same",
            )
        try:
            path = _path(image.kind, name)
        except NotFound:
            raise NotFound(f"no {noun} '{name}', which the lab was saved with", hint=hint) from None
        if new is None and digest.of(image.kind, path, self._progress) != image.digest:
            raise Conflict(
                f"{noun} '{name}' is not the one that the lab was saved with",
                hint=f"{hint}; '--{noun} {image.spec}={name}' uses the one that is here",
            )
        return Use(image, name, make=False)


def _path(kind: cache.Kind, name: str) -> str:
    return kernel.resolve(name).path if kind == "kernels" else master.resolve(name).path


def imported(
    uses: list[Use], unpacked: str, undo: contextlib.ExitStack, progress: Report | None
) -> Found:
    """Make the masters and packs that are within the archive and not here yet, and remove the
    archive's from the directory `unpacked`. Those that were made are deleted by `undo`."""
    for use in uses:
        if use.make:
            place = os.path.join(unpacked, use.image.kind, use.image.name)
            if not os.path.isdir(place):
                raise DummError(f"the archive lacks {use.image.kind[:-1]} '{use.image.name}'")
            _make(use, place, progress)
            undo.callback(_delete, use.image.kind, use.name)
    for kind in ("kernels", "masters"):
        tree.remove(os.path.join(unpacked, kind))
    return Found({(use.image.kind, use.image.spec): use.name for use in uses})


def _delete(kind: cache.Kind, name: str) -> None:
    with contextlib.suppress(DummError, OSError):
        cache.delete(kind, name)


def _make(use: Use, place: str, progress: Report | None) -> None:
    if use.image.kind == "kernels":
        kernel_pack.import_(place, use.name, progress=progress)
        return
    with master.build(use.name, None, progress=progress) as target:
        assert target is not None
        try:
            os.rename(place, target)
        except OSError:  # another file system
            copying.copy_tree(place, target)
        master.resolve(target)
        facts.record(
            use.name, **{key: use.image.facts[key] for key in FACTS & use.image.facts.keys()}
        )
