"""Virtual networks of real Linux kernels, reconfigurable while they run."""

from __future__ import annotations

__version__ = "0.1.0"
