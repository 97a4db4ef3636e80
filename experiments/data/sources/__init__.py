"""Sources of documents, one per file: `documents()` yields (name, text) in a fixed order."""
