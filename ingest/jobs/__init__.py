"""The jobs: plain async functions that take the minute and their resources as arguments."""
