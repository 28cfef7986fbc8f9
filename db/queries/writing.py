"""Writers take turns, so that ids follow the order of commits and whatever is derived sees every row before it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from db.pool import Database, Transaction

CHANNEL: Final = "tickgraph"

TAKE_TURN: Final = """
SELECT pg_advisory_xact_lock(7235421)
"""

WAKE_LISTENERS: Final = """
SELECT pg_notify('tickgraph', '')
"""


@asynccontextmanager
async def turn(db: Database) -> AsyncIterator[Transaction]:
    """A transaction for whoever writes prices or tracking: alone from its first statement on, and heard of on commit.

    The lock is a statement of its own, so the next one's snapshot holds all that was committed before. Touch at most some
    10,000 rows in one.
    """
    async with db.transaction() as connection:
        await connection.execute(TAKE_TURN)
        yield connection
        await connection.execute(WAKE_LISTENERS)
