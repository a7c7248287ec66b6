"""The running parts of a lab, and talking to them: guests' processes, namespaces, turns."""
