"""Views with the table names of other trackers (docs/moving.md), created by `python -m db views`."""

from typing import Final

from db.pool import Executor

PRICE_TICKS: Final = """
CREATE OR REPLACE VIEW price_ticks AS SELECT id, ticker, ts, price FROM price
"""

PRICE_RECORDS: Final = """
CREATE OR REPLACE VIEW price_records AS SELECT id, ticker, price, to_timestamp(ts) AS created_at FROM price
"""

DROP: Final = """
DROP VIEW IF EXISTS price_ticks, price_records
"""

NAMES: Final = ("price_ticks", "price_records")


async def create(db: Executor) -> None:
    """Creates or replaces the views. Raises DatabaseError if a table with one of the names exists."""
    await db.execute(PRICE_TICKS)
    await db.execute(PRICE_RECORDS)


async def drop(db: Executor) -> None:
    """Drops the views if they exist."""
    await db.execute(DROP)
