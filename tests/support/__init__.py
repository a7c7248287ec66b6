"""Shared by the tests: kernels and masters, labs, guests, users, and the session's world."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
#: Where the commands under test are installed.
BIN = Path(sysconfig.get_path("scripts"))
#: The kernels that guests are tested with: UML 7.x, 6.12 and 6.1.
SUITES = ("sid", "trixie", "bookworm")
#: Seconds after which what a test waits for counts as hung. How quick it is, no test says: the
#: machine may be busy with other things.
PATIENCE = 300.0

#: A skip is a failure.
STRICT = os.environ.get("DUMM_TEST_STRICT") == "1"
#: Is it root who runs the tests? In the session's namespace anybody is.
ROOT = os.geteuid() == 0
