"""Views under the names that older trackers gave their tables, made on request."""

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
    """Makes the views, or makes them anew. Raises DatabaseError where a table of such a name is there."""
    await db.execute(PRICE_TICKS)
    await db.execute(PRICE_RECORDS)


async def drop(db: Executor) -> None:
    """Takes them away, where they are there."""
    await db.execute(DROP)
