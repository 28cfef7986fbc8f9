"""The REST shim for older clients: `models` (what comes and goes), `endpoints` (what answers), `openapi` (what is told)."""
