"""What pytest finds of support/: hooks and fixtures. Tests import the rest from there."""

from __future__ import annotations

pytest_plugins = ("support.host", "support.labs", "support.masters", "support.session")
