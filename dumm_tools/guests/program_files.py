"""The files of the programs that run in a guest's jails: those of a kernel pack, of a server's root
tree, or a binary of the host with the files that it needs.

A pack may be replaced at any time (`cache.replacing`). Its parts are therefore opened once, when
its lock is taken, as mounts: they stay those that the lock guards, whatever bears the pack's name
when the jail is made.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from dumm_tools.images.kernel import Kernel
from dumm_tools.linux import mount

if TYPE_CHECKING:
    from dumm_tools.images.virtiofsd import Server

#: The entries of a root tree that programs need; the last one is a kernel itself.
_ENTRIES = ("usr", "lib", "lib64", "bin", "linux")


class ProgramFiles(NamedTuple):
    """The files of a program: mounts, which are open descriptors, with their places in the jail,
    and options of the jail for the others."""

    mounts: tuple[tuple[int, str], ...] = ()
    options: tuple[str, ...] = ()

    @property
    def descriptors(self) -> list[int]:
        """Those of the mounts."""
        return [fd for fd, _ in self.mounts]

    def steps(self, first: int) -> list[str]:
        """All of it as options of the jail, where the mounts are descriptors from `first` on."""
        return [
            *(
                w
                for n, (_, at) in enumerate(self.mounts)
                for w in ("--ro-mount", str(first + n), at)
            ),
            *self.options,
        ]


def opened(core: Kernel | Server, stack: contextlib.ExitStack) -> ProgramFiles:
    """The files of a program; the descriptors are closed by `stack`. OSError."""
    mounts: list[tuple[int, str]] = []
    options: list[str] = []
    if core.root is not None:
        for entry in _ENTRIES:
            path = os.path.join(core.root, entry)
            if os.path.islink(path) and entry != "linux":
                options += ["--symlink", os.readlink(path), f"/{entry}"]
            elif os.path.exists(path):
                mounts.append((mount.clone_tree(path), f"/{entry}"))
                stack.callback(os.close, mounts[-1][0])
    for host, inside in core.binds:
        options += ["--ro-bind", host, inside]
    return ProgramFiles(tuple(mounts), tuple(options))
