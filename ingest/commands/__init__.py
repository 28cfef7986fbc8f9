"""The verbs of `python -m ingest`: their arguments and their output."""
