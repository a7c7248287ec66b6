"""The agent (src/, C), the jail (jail/, C), what is linked into guests' kernels (preload/, C), and
the Python code that talks to them."""

from __future__ import annotations

import os

from dumm_tools.errors import DummError

HERE = os.path.dirname(os.path.abspath(__file__))

#: The initial RAM disk that contains the agent, the jail, and a library for kernels: built with the
#: package.
INITRD = os.path.join(HERE, "initrd.cpio")
JAIL = os.path.join(HERE, "jail.bin")
PRELOAD = os.path.join(HERE, "preload.so")

#: The file that has the loader in a jail link it with the kernel (ld.so(8)).
PRELOAD_LIST = os.path.join(HERE, "preload", "ld.so.preload")


def need(*parts: str) -> None:
    """DummError unless these files were built."""
    for part in parts:
        if not os.path.exists(part):
            raise DummError(
                f"'{part}' is missing: the package was not built",
                hint="python3 -m dumm_tools.agent.build",
            )
