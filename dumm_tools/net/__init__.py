"""The lab's network: bridges, interfaces and routes, on the host and in guests."""
