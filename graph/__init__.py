"""Serves the prices over HTTP and GraphQL. Imports `db`, never `ingest`."""
