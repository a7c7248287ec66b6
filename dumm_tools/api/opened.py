"""A lab as a thing with a lifetime: made, opened, destroyed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

from dumm_tools.api import words
from dumm_tools.api.channel import Channel
from dumm_tools.api.words import Path
from dumm_tools.errors import DummError

_DESTROY = ["fs", "destroy", "--if-exists"]


class Opened:
    """The lab in a directory, and its session."""

    def __init__(self, directory: Path = ".") -> None:
        #: The directory of the lab.
        self.directory = words.local(directory)
        self._channel = Channel(self.directory)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.directory!r})"

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        isolated: bool | None = None,
        kernel: Path | None = None,
        master: Path | None = None,
        may_exist: bool = False,
    ) -> Self:
        """Make a lab in a directory, which is created if it does not exist.

        `isolated` gives it its own namespaces (the only choice for users other than root, and the
        default for them). `kernel` and `master` are the defaults of its guests: names in the cache,
        or paths. Conflict if there is a lab, unless `may_exist`; one that existed is not destroyed
        at the end. NotFound; Usage.
        """
        lab = cls(directory)
        _need_directory(lab.directory)
        options = words.options(
            kernel=words.image(kernel), master=words.image(master), may_exist=may_exist
        )
        existed = may_exist and os.path.lexists(os.path.join(lab.directory, "state.json"))
        lab._make(["fs", "init", *options, *_network(isolated)], existed=existed)
        return lab

    @classmethod
    def restore(
        cls,
        directory: Path,
        file: Path,
        *,
        isolated: bool | None = None,
        kernels: Sequence[str] = (),
        masters: Sequence[str] = (),
    ) -> Self:
        """Make the lab that `save` wrote to a file, in a directory that is created if it does not
        exist. `kernels` and `masters` are OLD=NEW: what is used instead. Conflict, NotFound."""
        lab = cls(directory)
        _need_directory(lab.directory)
        options = words.options(kernel=list(kernels), master=list(masters))
        lab._make(["fs", "restore", *options, *_network(isolated), words.local(file)])
        return lab

    def _make(self, call: list[str], *, existed: bool = False) -> None:
        """Make it; it is destroyed at the end, unless it `existed`."""
        try:
            if existed:
                self._channel.call(call)
                return
            self._channel.make(call, _DESTROY)
        except BaseException:
            with contextlib.suppress(DummError):
                self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except DummError:
            if kind is None:
                raise

    def close(self) -> None:
        """End the session, with programs and captures that run in it; a lab that was made by
        `create` or `restore` is destroyed, or the error raised that says what stays: `destroy` may
        be tried again. The next call starts another session."""
        self._channel.close()

    def keep(self) -> None:
        """Let a lab that was made by `create` or `restore` stay when this object ends."""
        self._channel.forget()

    def destroy(self) -> None:
        """Stop all guests and take the lab apart, as `dumm-fs destroy`: files of guests and
        templates stay."""
        self._channel.call(_DESTROY)
        self.keep()


def _need_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as e:
        raise DummError(f"cannot create '{path}': {e.strerror}") from None


def _network(isolated: bool | None) -> list[Literal["--isolated", "--host-net"]]:
    return [] if isolated is None else ["--isolated" if isolated else "--host-net"]
