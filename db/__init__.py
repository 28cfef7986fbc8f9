"""The ground floor: settings, tables, statements and the servers they run on. Knows nothing of `graph` or `ingest`."""
