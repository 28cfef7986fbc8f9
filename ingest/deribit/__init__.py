"""Deribit's public API: `models` (what an answer looks like), `protocol` (what it means, without I/O), `client` (aiohttp)."""
