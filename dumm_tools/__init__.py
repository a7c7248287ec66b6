"""Virtual networks of real Linux kernels, reconfigurable while they run.

`from dumm_tools import Lab` is the library, dumm-library(3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dumm_tools.api import (
        Bridge,
        Capture,
        CommandFailed,
        Completed,
        Conflict,
        DummError,
        ExecFailed,
        Guest,
        Iface,
        Lab,
        NotFound,
        Packet,
        Program,
        SessionEnded,
        StartFailed,
        Template,
        TimedOut,
        Usage,
    )

__version__ = "0.1.0"
__all__ = [
    "Bridge",
    "Capture",
    "CommandFailed",
    "Completed",
    "Conflict",
    "DummError",
    "ExecFailed",
    "Guest",
    "Iface",
    "Lab",
    "NotFound",
    "Packet",
    "Program",
    "SessionEnded",
    "StartFailed",
    "Template",
    "TimedOut",
    "Usage",
]


def __getattr__(name: str) -> object:
    """The names of the library; importing this package, as each command does, imports none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dumm_tools import api

    return getattr(api, name)
