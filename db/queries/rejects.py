"""What waited to be stored and could not be: set aside with its reason."""

from typing import Final

from db.pool import Executor, Record

SET_ASIDE: Final = """
INSERT INTO reject (ticker, ts, entry, reason) VALUES ($1, $2, $3, $4)
"""

NEWEST: Final = """
SELECT ticker, ts, entry, reason, set_aside_at FROM reject ORDER BY id DESC LIMIT $1
"""

COUNT: Final = """
SELECT count(*) FROM reject
"""


async def set_aside(db: Executor, ticker: str | None, ts: int | None, entry: str, reason: str) -> None:
    """Keeps an entry that could not be stored; ticker and minute where they can be told."""
    await db.execute(SET_ASIDE, ticker, ts, entry, reason)


async def newest(db: Executor, limit: int) -> list[Record]:
    """The entries set aside last, newest first."""
    return await db.fetch(NEWEST, limit)


async def count(db: Executor) -> int:
    """How many there are."""
    found: int = await db.fetchval(COUNT)
    return found
