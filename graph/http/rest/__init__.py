"""The REST API: `models` (parameters and responses), `endpoints` (handlers), `export` (files), `openapi` (document)."""
