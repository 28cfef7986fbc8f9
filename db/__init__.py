"""The lowest layer: settings, tables, SQL statements and server management. It imports neither `graph` nor `ingest`."""
