"""The working set as a whole: created, checked, drawn and destroyed."""
