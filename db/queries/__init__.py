"""All SQL statements of the product. Each module covers one subject; each function executes one named statement.

The first parameter of a function is the executor: the pool, or a connection inside a transaction. Times are UNIX seconds;
`observed_at` is in microseconds. Windows are half-open: `low` is inclusive, `high` is exclusive.
"""
