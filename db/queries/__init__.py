"""The SQL statements on the product's tables. Each module covers one subject; functions execute named statements.

The first parameter of a function is the executor: the pool, or a connection inside a transaction.
Times are UNIX seconds; `observed_at` is in microseconds. Windows are half-open: `low` is inclusive, `high` is exclusive.
"""
