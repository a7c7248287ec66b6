"""Kernel packs and masters: found, built and kept in a cache."""
