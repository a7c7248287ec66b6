"""Hooks and fixtures from support/, for pytest. Tests import everything else from there."""

from __future__ import annotations

pytest_plugins = (
    *("support.host", "support.labs", "support.library", "support.masters", "support.session"),
)
