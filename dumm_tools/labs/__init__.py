"""The working set as a whole: made, checked, drawn and destroyed."""
