"""A guest's disk: the stack of layers mounted on mount/NAME, and changes to it."""
