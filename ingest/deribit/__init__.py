"""Deribit's public API: `models` (the shape of responses), `protocol` (their meaning, without I/O), `client` (aiohttp)."""
