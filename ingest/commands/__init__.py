"""The verbs of `python -m ingest`: their arguments, and what they print."""
