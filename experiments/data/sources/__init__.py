"""Where documents come from, one source a file: `documents()` yields (name, text) in a fixed order."""
