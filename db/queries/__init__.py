"""Every statement of the product, one noun a module, one named statement a function.

A function takes what it runs on first: the pool, or a connection inside a transaction. Times are UNIX seconds; `observed_at`
is in microseconds. Windows are half-open: `low` is in, `high` is not.
"""
