"""Serves the prices over HTTP and GraphQL. Stands on `db`, knows nothing of `ingest`."""
