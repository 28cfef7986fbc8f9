"""Collects prices: the exchange client, the jobs, and the worker that runs them. Imports `db`, never `graph`."""
