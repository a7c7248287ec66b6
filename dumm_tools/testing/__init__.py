"""Tests with labs: a plugin for pytest, dumm-pytest(7)."""
