"""What runs of a lab, and how to talk to it: guests' processes, namespaces, turns."""
