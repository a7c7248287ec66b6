"""Thin wrappers, one for each kernel interface. They raise OSError and know nothing of guests."""
