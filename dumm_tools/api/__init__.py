"""The library: `from dumm_tools import Lab`.

Words are those of the commands, and each method is one request to a session (`dumm-console --json`)
that runs as a process of its own; nothing here enters, changes or waits for anything of a lab
itself.
"""

from __future__ import annotations

from dumm_tools.api.answers import Completed as Completed
from dumm_tools.api.bridge import Bridge as Bridge
from dumm_tools.api.capture import Capture as Capture
from dumm_tools.api.guest import Guest as Guest
from dumm_tools.api.iface import Iface as Iface
from dumm_tools.api.lab import Lab as Lab
from dumm_tools.api.program import Program as Program
from dumm_tools.api.streams import Output as Output
from dumm_tools.api.template import Template as Template
from dumm_tools.errors import CommandFailed as CommandFailed
from dumm_tools.errors import Conflict as Conflict
from dumm_tools.errors import DummError as DummError
from dumm_tools.errors import ExecFailed as ExecFailed
from dumm_tools.errors import NotFound as NotFound
from dumm_tools.errors import SessionEnded as SessionEnded
from dumm_tools.errors import StartFailed as StartFailed
from dumm_tools.errors import TimedOut as TimedOut
from dumm_tools.errors import Usage as Usage
from dumm_tools.net.pcap_file import Packet as Packet
