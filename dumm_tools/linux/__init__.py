"""One function for each kernel service; they raise OSError and know nothing of guests."""
