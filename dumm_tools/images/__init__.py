"""What guests are made of: kernel packs and masters, found, built and kept in a cache."""
