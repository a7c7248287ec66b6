"""Guests from their records to processes and back, and programs run in them."""
