"""The agent (src/, C), the jail (jail/, C), and how Python speaks to them."""

from __future__ import annotations

import os

HERE = os.path.dirname(os.path.abspath(__file__))

#: The initial RAM disk that holds the agent, and the launcher: both made when the package is built.
INITRD = os.path.join(HERE, "initrd.cpio")
JAIL = os.path.join(HERE, "jail.bin")
