"""The commands: parse with click, make one call into the domain, print the answer."""
