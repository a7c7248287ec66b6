"""Shared by the tests: kernels and masters, labs, guests, users, and the state of the session."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
#: Where the commands under test are installed.
BIN = Path(sysconfig.get_path("scripts"))
#: The kernels that guests are tested with: UML 7.x, 6.12 and 6.1.
SUITES = ("sid", "trixie", "bookworm")
#: Seconds after which a wait counts as hung. No test checks how fast something is: the machine may
#: be busy with other things.
PATIENCE = 300.0

#: Whether a skip is a failure.
STRICT = os.environ.get("DUMM_TEST_STRICT") == "1"
#: Whether root runs the tests. Everybody is root in the session's namespace.
ROOT = os.geteuid() == 0
#: A kernel and the kind of lab: isolated with each kernel, on the host's network with the newest. A
#: guest's kernel does not know what kind of lab it is in.
PLACES = [*((suite, "--isolated") for suite in SUITES), *([("sid", "--host-net")] if ROOT else [])]
