"""Virtual networks of real Linux kernels, reconfigurable while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dumm_tools.api import Bridge as Bridge
    from dumm_tools.api import Capture as Capture
    from dumm_tools.api import CommandFailed as CommandFailed
    from dumm_tools.api import Completed as Completed
    from dumm_tools.api import Conflict as Conflict
    from dumm_tools.api import DummError as DummError
    from dumm_tools.api import ExecFailed as ExecFailed
    from dumm_tools.api import Guest as Guest
    from dumm_tools.api import Iface as Iface
    from dumm_tools.api import Lab as Lab
    from dumm_tools.api import NotFound as NotFound
    from dumm_tools.api import Packet as Packet
    from dumm_tools.api import Program as Program
    from dumm_tools.api import SessionEnded as SessionEnded
    from dumm_tools.api import StartFailed as StartFailed
    from dumm_tools.api import Template as Template
    from dumm_tools.api import TimedOut as TimedOut
    from dumm_tools.api import Usage as Usage

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The names of the library; importing this package, as each command does, imports none."""
    if name.startswith("_") or not name[:1].isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dumm_tools import api

    return getattr(api, name)
