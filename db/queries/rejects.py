"""Rejected outbox entries: prices that could not be stored, each with the reason."""

from typing import Final

from db.pool import Executor, Record

INSERT_REJECT: Final = """
INSERT INTO reject (ticker, ts, entry, reason) VALUES ($1, $2, $3, $4)
"""

NEWEST: Final = """
SELECT ticker, ts, entry, reason, set_aside_at FROM reject ORDER BY id DESC LIMIT $1
"""

COUNT: Final = """
SELECT count(*) FROM reject
"""


async def insert_reject(db: Executor, ticker: str | None, ts: int | None, entry: str, reason: str) -> None:
    """Stores an entry that cannot be stored as a price. `ticker` and `ts` are None if they are unreadable."""
    await db.execute(INSERT_REJECT, ticker, ts, entry, reason)


async def newest(db: Executor, limit: int) -> list[Record]:
    """Returns the newest rejected entries, newest first."""
    return await db.fetch(NEWEST, limit)


async def count(db: Executor) -> int:
    """Returns the number of rejected entries."""
    found: int = await db.fetchval(COUNT)
    return found
