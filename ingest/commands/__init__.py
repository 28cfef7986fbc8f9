"""Verbs of `python -m ingest` that need more than a line: their arguments, and what they print."""
