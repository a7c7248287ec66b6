"""Labs of other tools: read from their files, and written as lab files. Knows nothing of our own
labs."""
