"""Virtual networks out of real Linux kernels, rewired while they run."""

from __future__ import annotations

__version__ = "0.1.0"
