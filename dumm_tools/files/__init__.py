"""What a guest sees as its disk: the stack of layers at mount/NAME, and changes to it."""
