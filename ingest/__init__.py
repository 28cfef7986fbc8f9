"""Collects the prices: an exchange client, jobs, and how they are run. Stands on `db`, knows nothing of `graph`."""
